"""Fetch the photos that people labelled in review, by the ground-truth records of ``scones review``."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
from botocore.config import Config

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import TimeWindow
from model import storage
from model.labels import LABEL
from model.photo import PhotoError, file_suffix

CONCURRENCY = 16


class ReviewedError(Exception):
    """A ground-truth record is unusable; the message says which."""


@contextmanager
def fetch(uri: str) -> Iterator[tuple[Path, list[str]]]:
    """Yield a temporary folder of ``<label>/*``, and the skipped photos with reasons.

    The photos are those with ground-truth records under ``s3://bucket/prefix``. If several records are about
    byte-identical photos, the last one counts, in the order of their keys. Deleted photos are skipped.

    Raises `ReviewedError` if a record has no valid label or photo; `CaptureError` if the records cannot be
    read.
    """
    s3 = boto3.client("s3", config=Config(max_pool_connections=CONCURRENCY))
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        skipped: list[str] = []
        labels: dict[str, str] = {}
        records = list(_read_records(uri))
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            contents = pool.map(lambda record: storage.read_photo_version(s3, record[0]), records)
            for (photo, label), content in zip(records, contents, strict=True):
                if content is None:
                    skipped.append(f"s3://{photo['bucket']}/{photo['key']} (has been deleted)")
                    continue
                name = hashlib.sha256(content).hexdigest() + _suffix(content)
                (folder / name).write_bytes(content)
                labels[name] = label
        for name, label in labels.items():
            (folder / label).mkdir(exist_ok=True)
            (folder / name).rename(folder / label / name)
        yield folder, skipped


def _suffix(content: bytes) -> str:
    try:
        return file_suffix(content)
    except PhotoError:
        return ".jpg"  # `scones data` reports or skips what is unreadable


def _read_records(uri: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield each record's photo, as `storage.read_photo_version` expects it, and label."""
    for path, lines in captures.read_lines(uri, TimeWindow()):
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            match record:
                case {
                    "groundTruthData": {"data": str(label)},
                    "photo": {"bucket": str(), "key": str()} as photo,
                } if LABEL.fullmatch(label.strip()):
                    yield photo, label.strip()
                case _:
                    raise ReviewedError(f"{path}:{number} is not a ground-truth record of `scones review`")
