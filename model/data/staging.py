"""Bring a data set to S3: what is new or changed goes up, what was taken out goes away."""

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from model.data.dataset import MANIFEST, SPLITS, index_name
from model.terminal.progress import counted

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

AT_ONCE = 16
"""Requests under way: a photo is so small that it is waiting which takes the time."""
BATCH = 1000
"""Keys that DeleteObjects takes at once (Amazon S3 API Reference)."""


class StagingError(Exception):
    """The data set could not be brought to S3; the message says why."""


class Staged(NamedTuple):
    """How many files were brought, were there already, and were deleted."""

    uploaded: int
    unchanged: int
    deleted: int


class _Place(NamedTuple):
    """A bucket, and what keys in it begin with: nothing, or a path that ends in a slash."""

    s3: "S3Client"
    bucket: str
    prefix: str


def stage(folder: Path, destination: str) -> Staged:
    """Make what is at a place in S3 the same as a folder that ``scones data`` wrote.

    A file is brought if S3 has none of its SHA-256 under its key. A file there is deleted if the manifest
    there lists it and the folder no longer has it; anything else under the prefix is left alone. The
    manifest goes last: until it is there, calling again finishes the work.

    Parameters
    ----------
    folder
        The data set.
    destination
        ``s3://bucket`` or ``s3://bucket/prefix``.

    Raises
    ------
    StagingError
        If the destination is no such address, or AWS refuses or is out of reach.
    """
    bucket, prefix = _parse(destination)
    try:
        s3 = boto3.client("s3", config=Config(max_pool_connections=AT_ONCE))
        return _stage(folder, _Place(s3, bucket, prefix))
    except (BotoCoreError, ClientError) as error:
        raise StagingError(f"{folder} is complete, but {destination} is not: {_reason(error)}") from error


def _parse(destination: str) -> tuple[str, str]:
    parts = urlsplit(destination, allow_fragments=False)
    if parts.scheme != "s3" or not parts.netloc or parts.query:
        raise StagingError(f"{destination} is no place in S3: write s3://bucket or s3://bucket/prefix")
    prefix = parts.path.strip("/")
    return parts.netloc, f"{prefix}/" if prefix else ""


def _reason(error: BotoCoreError | ClientError) -> str:
    if isinstance(error, ClientError) and error.response["Error"]["Code"] in {"NoSuchBucket", "404"}:
        return "there is no such bucket"
    return str(error)


def _stage(folder: Path, place: _Place) -> Staged:
    photos = _photos((folder / MANIFEST).read_bytes())
    photos_before = _photos_before(place)
    there = _names(place)

    def bring(name: str) -> bool:
        return _bring(place, folder / name, name, exists=name in there)

    files = [*sorted(photos), *map(index_name, SPLITS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        brought = list(counted(pool.map(bring, files), len(files), "Staging"))
    removed = sorted((photos_before - photos) & there)
    _delete(place, removed)
    brought.append(bring(MANIFEST))
    return Staged(uploaded=sum(brought), unchanged=len(brought) - sum(brought), deleted=len(removed))


def _photos(manifest: bytes) -> set[str]:
    return set(json.loads(manifest)["sha256"])


def _photos_before(place: _Place) -> set[str]:
    """Return the photos that an earlier call brought, as far as its manifest can be read."""
    try:
        answer = place.s3.get_object(Bucket=place.bucket, Key=place.prefix + MANIFEST)
        return _photos(answer["Body"].read())
    except (place.s3.exceptions.NoSuchKey, ValueError, KeyError, TypeError):
        return set()


def _names(place: _Place) -> set[str]:
    """Return what is there, without the prefix."""
    pages = place.s3.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=place.prefix)
    return {found["Key"].removeprefix(place.prefix) for page in pages for found in page.get("Contents", [])}


def _bring(place: _Place, path: Path, name: str, *, exists: bool) -> bool:
    """Upload a file unless S3 has it as it is; tell whether it was uploaded."""
    content = path.read_bytes()
    key, sha256 = place.prefix + name, base64.b64encode(hashlib.sha256(content).digest()).decode()
    if exists:
        # of an object encrypted by KMS the ETag is no checksum, and of one uploaded in parts neither
        head = place.s3.head_object(Bucket=place.bucket, Key=key, ChecksumMode="ENABLED")
        if head.get("ChecksumSHA256") == sha256:
            return False
    place.s3.put_object(Bucket=place.bucket, Key=key, Body=content, ChecksumSHA256=sha256)
    return True


def _delete(place: _Place, names: list[str]) -> None:
    for batch in batched(names, BATCH, strict=False):
        objects: list[ObjectIdentifierTypeDef] = [{"Key": place.prefix + name} for name in batch]
        answer = place.s3.delete_objects(Bucket=place.bucket, Delete={"Objects": objects, "Quiet": True})
        for failure in answer.get("Errors", []):
            raise StagingError(
                f"s3://{place.bucket}/{failure['Key']} cannot be deleted: {failure['Message']}"
            )
