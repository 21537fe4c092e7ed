"""Read, write and delete files by path: ``/folder/file`` on this machine, ``s3://bucket/key`` in S3.

Local writes are atomic, and S3 checks the SHA-256 of what it receives. This module imports no AWS library, so
that commands which only write local files start quickly: callers that use S3 pass a client.
"""

import base64
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NOT_FOUND = {"NoSuchKey", "NoSuchVersion", "404"}
"""S3's codes for a missing object (Amazon S3 API Reference, "Error Responses")."""
BATCH = 1000
"""Maximum number of keys in a DeleteObjects request (Amazon S3 API Reference)."""


class StorageError(OSError):
    """A file cannot be written or deleted; the message says which and why."""


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, creating its folder if needed; raise `StorageError` if that fails."""
    with _explain_errors(path):
        _write_files(path.parent, {path.name: content})


def write_files(folder: Path, files: Mapping[str, bytes], stale: Iterable[str] = ()) -> None:
    """Write files by name into a folder, which is created if needed; raise `StorageError` if that fails.

    Nothing in the folder changes until all files are complete. `stale` names earlier files to delete then.
    """
    with _explain_errors(folder):
        _write_files(folder, files, stale)


def _write_files(folder: Path, files: Mapping[str, bytes], stale: Iterable[str] = ()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # hidden, so that programs that list the folder meanwhile can ignore it
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as draft:
        for name, content in files.items():
            Path(draft, name).write_bytes(content)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
        for name in files:
            Path(draft, name).replace(folder / name)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty draft folder, which replaces `folder` when the ``with`` block succeeds.

    Raises `StorageError` if either cannot be written.
    """
    folder = folder.resolve()
    with _explain_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # next to the folder, because a folder cannot be renamed across file systems
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            draft, old = Path(scratch, "new"), Path(scratch, "old")
            draft.mkdir()
            yield draft
            if folder.exists():
                folder.rename(old)
            try:
                draft.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise


def is_s3(path: str) -> bool:
    """Return whether a path is an address in S3."""
    return path.startswith("s3://")


def split_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and the key or prefix of ``s3://bucket/key``, without a slash at the end."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key.rstrip("/")


class Storage:
    """Files on this machine and, with a client, in S3."""

    def __init__(self, s3: Any = None) -> None:  # noqa: ANN401  boto3's client
        self.s3 = s3

    def list_files(self, folder: str) -> list[str]:
        """Return the paths of all files in a folder or under a prefix, at any depth, sorted."""
        if is_s3(folder):
            bucket, prefix = split_uri(folder)
            listing = self.s3.get_paginator("list_objects_v2")
            pages = listing.paginate(Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")
            return [f"s3://{bucket}/{found['Key']}" for page in pages for found in page.get("Contents", [])]
        if not Path(folder).is_dir():
            raise StorageError(f"No such folder: {folder}")
        return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())

    def read(self, path: str) -> bytes:
        """Return the content of a file; raise `FileNotFoundError` if it is missing, in S3 too."""
        if not is_s3(path):
            return Path(path).read_bytes()
        bucket, key = split_uri(path)
        try:
            content: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except self.s3.exceptions.NoSuchKey as error:
            raise FileNotFoundError(f"No such object: {path}") from error
        return content

    def has(self, path: str, content: bytes) -> bool:
        """Return whether an existing file has this content, in S3 by the checksum stored there."""
        if not is_s3(path):
            return Path(path).read_bytes() == content
        bucket, key = split_uri(path)
        # the ETag is not a checksum of an object that is encrypted by KMS or was uploaded in parts
        head = self.s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        return bool(head.get("ChecksumSHA256") == _sha256(content))

    def write(self, path: str, content: bytes) -> str | None:
        """Write a file atomically, or an object with its checksum; return the object's version, if any."""
        if not is_s3(path):
            write_file(Path(path), content)
            return None
        bucket, key = split_uri(path)
        checksum = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": _sha256(content)}
        put = self.s3.put_object(Bucket=bucket, Key=key, Body=content, **checksum)
        return str(put["VersionId"]) if "VersionId" in put else None

    def overwrite(self, path: str, content: bytes) -> None:
        """Write a file, and in S3 delete its earlier versions."""
        bucket, key = split_uri(path)
        earlier = list_versions(self.s3, bucket, key) if is_s3(path) else []
        # without versioning, the new object has the same version id as the old one: null
        current = {"null", self.write(path, content)}
        self.delete_versions(bucket, (one for one in earlier if one["VersionId"] not in current))

    def delete(self, path: str) -> None:
        """Delete a file; in a versioned bucket, keep its versions. A missing file is ignored."""
        if is_s3(path):
            bucket, key = split_uri(path)
            self.s3.delete_object(Bucket=bucket, Key=key)
        else:
            Path(path).unlink(missing_ok=True)

    def erase(self, path: str) -> None:
        """Delete a file, and in S3 all its versions. A missing file is ignored."""
        if is_s3(path):
            bucket, key = split_uri(path)
            self.delete_versions(bucket, list_versions(self.s3, bucket, key))
        else:
            self.delete(path)

    def delete_versions(self, bucket: str, versions: Iterable[Mapping[str, Any]]) -> None:
        """Delete versions of objects, as `list_versions` returns them."""
        for one in versions:
            # one at a time, because DeleteObjects needs the permission to delete current objects as well
            self.s3.delete_object(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])


def _sha256(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def list_versions(s3: "S3Client", bucket: str, key: str) -> list[Mapping[str, Any]]:
    """Return every version and delete marker of an object, as ListObjectVersions describes them."""
    return [one for one in list_prefix_versions(s3, bucket, key) if one["Key"] == key]


def list_prefix_versions(s3: "S3Client", bucket: str, prefix: str) -> Iterator[Mapping[str, Any]]:
    """Yield every version and delete marker under a prefix, as ListObjectVersions describes them."""
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Versions", [])
        yield from page.get("DeleteMarkers", [])


def delete_objects(s3: "S3Client", bucket: str, objects: Iterable[Mapping[str, Any]]) -> None:
    """Delete objects by ``Key``, or their versions by ``Key`` and ``VersionId``, in batches."""
    for batch in batched(objects, BATCH, strict=False):
        keys: Any = [{name: one[name] for name in ("Key", "VersionId") if name in one} for one in batch]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        for failure in answer.get("Errors", []):
            raise StorageError(f"s3://{bucket}/{failure['Key']} cannot be deleted: {failure['Message']}")


def read_photo_version(s3: "S3Client", photo: Mapping[str, Any]) -> bytes | None:
    """Return the bytes of ``{"bucket", "key", "version_id"?}``; ``None`` if that version was deleted."""
    version: Any = {"VersionId": photo["version_id"]} if photo.get("version_id") else {}
    try:
        return s3.get_object(Bucket=photo["bucket"], Key=photo["key"], **version)["Body"].read()
    except s3.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in NOT_FOUND:
            return None
        raise
