"""Files on this machine and in S3: addresses, and writes that are complete or not there at all."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from functions.monitor.capture_analysis.captures import split_uri

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["NOT_FOUND", "read_photo_version", "split_uri", "write_file", "write_files"]

NOT_FOUND = {"NoSuchKey", "NoSuchVersion", "404"}
"""Error codes of S3 for an object that does not exist (API Reference, "Error Responses")."""


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see the old content or all of the new."""
    write_files(path.parent, {path.name: content})


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name into a folder, made if need be; all are complete before the first is renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        for name, content in files.items():
            Path(draft, name).write_bytes(content)
        for name in files:
            Path(draft, name).replace(folder / name)


def read_photo_version(s3: "S3Client", photo: Mapping[str, Any]) -> bytes | None:
    """Return the bytes of ``{"bucket", "key", "version_id"?}``; ``None`` if that version was deleted."""
    version: Any = {"VersionId": photo["version_id"]} if photo.get("version_id") else {}
    try:
        return s3.get_object(Bucket=photo["bucket"], Key=photo["key"], **version)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in NOT_FOUND:
            return None
        raise
