"""Photos that people labelled in review: from their ground-truth records to a folder of photos."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import boto3
from botocore.config import Config

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import ReadCounts, TimeWindow
from model import storage
from model.data.dataset import LABEL
from model.photo import SUFFIXES

AT_ONCE = 16
"""Photos that are fetched at a time."""


class ReviewedError(Exception):
    """The records cannot be used; the message says why."""


class Reviewed(NamedTuple):
    """Photos that people labelled.

    Attributes
    ----------
    folder
        Holds ``<label>/*``.
    left_out
        What was left out and why, in words.
    """

    folder: Path
    left_out: list[str]


@contextmanager
def fetched(uri: str) -> Iterator[Reviewed]:
    """Have the photos of the ground-truth records under ``s3://bucket/prefix`` in a folder for a while.

    Of records about the same photo, byte for byte, the last one counts, in the order of their keys. A photo
    that has been deleted since is left out.

    Raises
    ------
    ReviewedError
        A record does not say where its photo is.
    CaptureError
        They cannot be read.
    """
    s3 = boto3.client("s3", config=Config(max_pool_connections=AT_ONCE))
    with TemporaryDirectory() as folder:
        left_out: list[str] = []
        labels: dict[str, str] = {}
        records = list(_records(uri))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            contents = pool.map(lambda record: storage.read_photo_version(s3, record["photo"]), records)
            for record, content in zip(records, contents, strict=True):
                photo, label = record["photo"], record["groundTruthData"]["data"].strip()
                if content is None:
                    left_out.append(f"s3://{photo['bucket']}/{photo['key']}, which has been deleted")
                    continue
                name = _name(content, photo["key"])
                if before := labels.get(name):
                    Path(folder, before, name).unlink()
                    with suppress(OSError):  # it holds others
                        Path(folder, before).rmdir()
                labels[name] = label
                file = Path(folder, label, name)
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(content)
        yield Reviewed(Path(folder), left_out)


def _records(uri: str) -> Iterator[Mapping[str, Any]]:
    for path, lines in captures.read_lines(uri, TimeWindow(), ReadCounts()):
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                named = (record["groundTruthData"]["data"], record["photo"]["bucket"], record["photo"]["key"])
            except (ValueError, KeyError, TypeError) as error:
                raise ReviewedError(f"{path}:{number} is no record of `scones review`'s") from error
            if not all(isinstance(one, str) for one in named) or not LABEL.fullmatch(named[0].strip()):
                raise ReviewedError(f"{path}:{number} is no record of `scones review`'s")
            yield record


def _name(content: bytes, key: str) -> str:
    """Name a file by what is in it, with an ending by which it is taken for a photo."""
    suffix = Path(key).suffix.lower()
    return hashlib.sha256(content).hexdigest() + (suffix if suffix in SUFFIXES else ".jpg")
