"""Stage a data set to S3: upload new and changed files, and delete removed photos."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from model.data.dataset import MANIFEST, SPLITS, index_name
from model.storage import Storage
from model.terminal.progress import track

CONCURRENCY = 16
"""Concurrent requests: photos are so small that latency dominates."""


class StagingError(Exception):
    """The data set could not be staged; the message says why."""


class Staged(NamedTuple):
    """Numbers of files."""

    uploaded: int
    unchanged: int
    deleted: int


def stage(folder: Path, destination: str) -> Staged:
    """Make a prefix in S3 identical to a data set that ``scones data`` wrote.

    A file is uploaded unless S3 has its SHA-256 under its key. A photo in S3 is deleted if the manifest there
    lists it and the data set no longer does; other objects under the prefix are left alone. The manifest is
    uploaded last, so an interrupted call can be repeated.

    Raises `StagingError` if `destination` is not ``s3://bucket`` or ``s3://bucket/prefix``, or AWS denies
    access or cannot be reached.
    """
    parts = urlsplit(destination, allow_fragments=False)
    if parts.scheme != "s3" or not parts.netloc or parts.query:
        raise StagingError(f"{destination} is not an address in S3: write s3://bucket or s3://bucket/prefix")
    root = f"s3://{parts.netloc}/{parts.path.strip('/')}".rstrip("/")
    try:
        s3 = boto3.client("s3", config=Config(max_pool_connections=CONCURRENCY))
        return _stage(folder, root, Storage(s3))
    except (BotoCoreError, ClientError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
        reason = "there is no such bucket" if code in {"NoSuchBucket", "404"} else error
        raise StagingError(f"{folder} is complete, but {destination} is not: {reason}") from error


def _stage(folder: Path, root: str, files: Storage) -> Staged:
    photos = set(json.loads((folder / MANIFEST).read_bytes())["sha256"])
    staged_photos = _list_staged_photos(root, files)
    staged = {path.removeprefix(f"{root}/") for path in files.list_files(root)}

    def upload(name: str) -> bool:
        content = (folder / name).read_bytes()
        if name in staged and files.has(f"{root}/{name}", content):
            return False
        files.write(f"{root}/{name}", content)
        return True

    names = [*sorted(photos), *map(index_name, SPLITS)]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        uploads = list(track(pool.map(upload, names), len(names), "Staging"))
        removed = (staged_photos - photos) & staged
        list(pool.map(files.delete, [f"{root}/{name}" for name in removed]))
    uploads.append(upload(MANIFEST))
    return Staged(uploaded=sum(uploads), unchanged=len(uploads) - sum(uploads), deleted=len(removed))


def _list_staged_photos(root: str, files: Storage) -> set[str]:
    """Return the photos in the manifest of an earlier call, or none if it is missing or damaged."""
    try:
        return set(json.loads(files.read(f"{root}/{MANIFEST}"))["sha256"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()
