"""Fetch the photos that people labelled in review, by the ground-truth records of ``scones review``."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import boto3
from botocore.config import Config

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import TimeWindow
from model import storage
from model.labels import LABEL
from model.photo import SUFFIXES

CONCURRENCY = 16


class ReviewedError(Exception):
    """A ground-truth record is unusable; the message says which."""


class ReviewedPhotos(NamedTuple):
    """Photos that people labelled.

    Attributes
    ----------
    folder
        Holds ``<label>/*``.
    skipped
        Photos that were skipped, each with the reason.
    """

    folder: Path
    skipped: list[str]


@contextmanager
def fetch(uri: str) -> Iterator[ReviewedPhotos]:
    """Yield a temporary folder of the photos whose ground-truth records are under ``s3://bucket/prefix``.

    Of records about byte-identical photos the last one counts, in the order of their keys. Photos that have
    been deleted are skipped.

    Raises `ReviewedError` if a record does not say where its photo is; `CaptureError` if the records cannot
    be read.
    """
    s3 = boto3.client("s3", config=Config(max_pool_connections=CONCURRENCY))
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        skipped: list[str] = []
        labels: dict[str, str] = {}
        records = list(_read_records(uri))
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            contents = pool.map(lambda record: storage.read_photo_version(s3, record["photo"]), records)
            for record, content in zip(records, contents, strict=True):
                photo, label = record["photo"], record["groundTruthData"]["data"].strip()
                if content is None:
                    skipped.append(f"s3://{photo['bucket']}/{photo['key']} (has been deleted)")
                    continue
                name = _file_name(content, photo["key"])
                (folder / name).write_bytes(content)
                labels[name] = label
        for name, label in labels.items():
            (folder / label).mkdir(exist_ok=True)
            (folder / name).rename(folder / label / name)
        yield ReviewedPhotos(folder, skipped)


def _read_records(uri: str) -> Iterator[Mapping[str, Any]]:
    for path, lines in captures.read_lines(uri, TimeWindow()):
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                label, photo = record["groundTruthData"]["data"], record["photo"]
                valid = isinstance(photo["bucket"], str) and isinstance(photo["key"], str)
                valid = valid and bool(LABEL.fullmatch(label.strip()))
            except (ValueError, KeyError, TypeError, AttributeError):
                valid = False
            if not valid:
                raise ReviewedError(f"{path}:{number} is not a ground-truth record of `scones review`")
            yield record


def _file_name(content: bytes, key: str) -> str:
    """Name a photo by its hash, with a suffix that marks it as a photo."""
    suffix = Path(key).suffix.lower()
    return hashlib.sha256(content).hexdigest() + (suffix if suffix in SUFFIXES else ".jpg")
