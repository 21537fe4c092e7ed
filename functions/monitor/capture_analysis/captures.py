"""Read SageMaker's data capture from a folder or S3: every record of a time window, each event once.

A file's path is ``{destination}/{endpoint}/{variant}/yyyy/mm/dd/hh/MM-SS-mmm-UUID.jsonl``, with the hour in
UTC. It has one record per line, and one or more lines. Sources:
https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html, and real captures.
"""

import base64
import binascii
import json
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SUFFIX = ".jsonl"
MAX_SKIPPED = 1000
"""The most skipped lines that are listed; all are counted."""
PREFETCH = 16
"""Objects fetched from S3 ahead of the reader, because each takes tens of milliseconds."""
DATED_FOLDER = re.compile(r"/(\d{4})/(\d\d)(?:/(\d\d)(?:/(\d\d))?)?/?$")
"""The end of a path that names a month, day or hour. A year alone does not count: it may be any name."""


type FileLines = Iterator[tuple[str, Iterator[bytes]]]  # each file's path and lines


class CaptureError(Exception):
    """Captures cannot be read."""


class PayloadError(Exception):
    """A record's input or output is missing or malformed."""


@dataclass(frozen=True)
class TimeWindow:
    """A time range in UTC, from ``start`` to before ``end``; ``None`` means unbounded."""

    start: datetime | None = None
    end: datetime | None = None

    def contains(self, at: datetime) -> bool:
        """Return whether a moment lies in the window."""
        return not (self.start and at < self.start) and not (self.end and at >= self.end)

    def overlaps(self, begin: datetime, finish: datetime) -> bool:
        """Return whether any moment from `begin` to before `finish` lies in the window."""
        return not (self.start and finish <= self.start) and not (self.end and begin >= self.end)

    def covers(self, begin: datetime, finish: datetime) -> bool:
        """Return whether every moment from `begin` to before `finish` lies in the window."""
        return not (self.start and begin < self.start) and not (self.end and finish > self.end)


@dataclass
class ReadCounts:
    """Counts of what was read: ``read`` = ``records`` (each event once) + ``duplicates``.

    ``skipped`` describes the first `MAX_SKIPPED` of the ``broken`` lines, which are not valid records.
    """

    files: int = 0
    read: int = 0
    records: int = 0
    duplicates: int = 0
    broken: int = 0
    skipped: list[str] = field(default_factory=list)

    def skip(self, description: str) -> None:
        """Count a broken line."""
        self.broken += 1
        if len(self.skipped) < MAX_SKIPPED:
            self.skipped.append(description)


@dataclass(frozen=True, slots=True)
class Record:
    """A request to an endpoint and its answer, each as captured; any part may be missing.

    ``event_id`` is SageMaker's id of the request and ``inference_id`` the caller's. ``at`` is the time of the
    answer in UTC, from the record or else from its path.
    """

    event_id: str | None
    inference_id: str | None
    at: datetime | None
    input: Mapping[str, Any] | None
    output: Mapping[str, Any] | None

    def photo(self) -> bytes:
        """Return the bytes that the endpoint received; raise `PayloadError` if they are missing or text."""
        if not self.input:
            raise PayloadError("no input was captured")
        if self.input.get("encoding") != "BASE64":
            raise PayloadError(f"the input is {self.input.get('encoding')}, not a photo")
        return _content(self.input)

    def probabilities(self) -> list[float]:
        """Parse the output, JSON or CSV; raise `PayloadError` unless it has two or more probabilities."""
        if not self.output:
            raise PayloadError("no output was captured")
        text = _content(self.output)
        try:
            values = json.loads(text if text.lstrip().startswith(b"[") else b"[%s]" % text.strip())
            if len(values) == 1 and isinstance(values[0], list):
                (values,) = values
            answer = [float(value) for value in values]
        except (ValueError, TypeError, RecursionError) as error:
            raise PayloadError("the output is not a list of numbers") from error
        if len(answer) < 2 or not all(math.isfinite(p) and 0 <= p <= 1 for p in answer):  # noqa: PLR2004
            raise PayloadError("the output is not a list of probabilities")
        return answer


def _content(payload: Mapping[str, Any]) -> bytes:
    data = payload.get("data")
    if not isinstance(data, str):
        raise PayloadError("the payload has no data")
    if payload.get("encoding") != "BASE64":
        return data.encode()
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise PayloadError("the payload is not valid BASE64") from error


class Folder:
    """Captures on this machine."""

    def list(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the sorted paths of subfolders and of files."""
        with translate_errors(folder):
            entries = sorted(Path(folder).iterdir())
        # Hidden subfolders contain files that are still being written.
        folders = [entry.as_posix() for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        return folders, [entry.as_posix() for entry in entries if entry.is_file()]

    def lines(self, files: Iterator[str]) -> FileLines:
        """Yield each file's path and lines; skip files that no longer exist."""
        for path in files:
            with translate_errors(path), suppress(FileNotFoundError), Path(path).open("rb") as file:
                yield path, file


class Bucket:
    """Captures in S3; without a client, the environment's credentials are used."""

    def __init__(self, s3: "S3Client | None" = None) -> None:
        config = Config(retries={"mode": "standard", "total_max_attempts": 5}, max_pool_connections=PREFETCH)
        self._s3 = s3 or boto3.client("s3", config=config)

    def list(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the sorted paths of the folders and of the files directly under a prefix."""
        bucket, prefix = split_uri(folder)
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", Delimiter="/"
        )
        with translate_errors(folder):
            found = pages.build_full_result()
        folders = [one["Prefix"].rstrip("/") for one in found.get("CommonPrefixes", [])]
        keys = [one["Key"] for one in found.get("Contents", [])]
        return [f"s3://{bucket}/{name}" for name in folders], [f"s3://{bucket}/{key}" for key in keys]

    def lines(self, files: Iterator[str]) -> FileLines:
        """Yield each object's path and lines while fetching the next ones; skip deleted objects."""
        with ThreadPoolExecutor(PREFETCH) as threads:
            try:
                for path, content in _ahead((path, threads.submit(self._fetch, path)) for path in files):
                    if (fetched := content.result()) is not None:
                        yield path, fetched
            finally:
                threads.shutdown(cancel_futures=True)

    def _fetch(self, uri: str) -> BytesIO | None:
        bucket, key = split_uri(uri)
        file = BytesIO()
        with translate_errors(uri):
            try:
                # Unlike get_object's body, this retries a download that is interrupted.
                self._s3.download_fileobj(bucket, key, file, Config=TransferConfig(use_threads=False))
            except ClientError as error:
                if error.response["Error"]["Code"] in {"404", "NoSuchKey"}:
                    return None
                raise
        file.seek(0)
        return file


def _ahead[T](items: Iterator[T]) -> Iterator[T]:
    """Yield items, taking each from the iterator `PREFETCH` items before it is needed."""
    taken: deque[T] = deque()
    for item in items:
        taken.append(item)
        if len(taken) > PREFETCH:
            yield taken.popleft()
    yield from taken


@contextmanager
def translate_errors(path: str) -> Iterator[None]:
    """Raise the file system's and S3's errors in a ``with`` block that reads a path as a `CaptureError`."""
    try:
        yield
    except OSError as error:
        raise CaptureError(f"{path} cannot be read ({error.strerror})") from error
    except (BotoCoreError, ClientError) as error:
        raise CaptureError(f"{path} cannot be read: {error}") from error


def split_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and the key or prefix of ``s3://bucket/key``, without a slash at the end."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key.rstrip("/")


def read(source: str, window: TimeWindow, counts: ReadCounts) -> Iterator[Record]:
    """Read the records of a time window, in the order of their files, and count them in `counts`.

    `source` is a folder or ``s3://bucket/prefix`` at any level above the files, or a single file. Raises
    `CaptureError` if it cannot be read.

    If the window contains the whole hour of a file's path, all of its records are in the window. If it
    overlaps the hour partly, or if the path has no hour, each record's own time decides. Other files are not
    opened. Hence consecutive windows contain each record once, although the last records in a file are often
    from the next hour.
    """
    known_ids: set[str] = set()
    for path, lines in read_lines(source, window):
        counts.files += 1
        hour = _interval(path.rpartition("/")[0])
        whole_hour = hour is not None and window.covers(*hour)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = parse(line, hour)
            except ValueError as error:
                counts.skip(f"{path}:{number}: {error}")
                continue
            if not whole_hour:
                if record.at is None and (window.start or window.end):
                    counts.skip(f"{path}:{number}: record has no timestamp")
                    continue
                if record.at and not window.contains(record.at):
                    continue
            counts.read += 1
            if record.event_id in known_ids:
                counts.duplicates += 1
                continue
            if record.event_id:
                known_ids.add(record.event_id)
            counts.records += 1
            yield record


def read_lines(source: str, window: TimeWindow, s3: "S3Client | None" = None) -> FileLines:
    """Read the lines of every file that may have records of a time window; see `read`."""
    if source.startswith("s3://"):
        store: Folder | Bucket = Bucket(s3)
        source = source.rstrip("/")
    else:
        store = Folder()
        source = Path(source).absolute().as_posix()
    is_file = source.endswith(SUFFIX) and (isinstance(store, Bucket) or Path(source).is_file())
    files = iter([source]) if is_file else _find(store, source, window)
    return store.lines(files)


def _find(store: Folder | Bucket, folder: str, window: TimeWindow) -> Iterator[str]:
    folders, files = store.list(folder)
    yield from (file for file in files if file.endswith(SUFFIX))
    for inner in folders:
        interval = _interval(inner)
        if interval is None or window.overlaps(*interval):
            yield from _find(store, inner, window)


def _interval(folder: str) -> tuple[datetime, datetime] | None:
    """Return the start and end of the month, day or hour in a folder's path."""
    if not (match := DATED_FOLDER.search(folder)):
        return None
    year, month, day, hour = match.groups()
    try:
        begin = datetime(int(year), int(month), int(day or 1), int(hour or 0), tzinfo=UTC)
    except ValueError:  # the digits are not a date
        return None
    if not day:
        return begin, (begin + timedelta(days=31)).replace(day=1)
    return begin, begin + (timedelta(hours=1) if hour else timedelta(days=1))


def parse(line: bytes, hour: Sequence[datetime] | None) -> Record:
    """Parse a line of a capture file or raise `ValueError`; a record without a time gets the hour's start."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if (data := _get(value, "captureData", dict)) is None:
        raise ValueError("no captureData")
    metadata = _get(value, "eventMetadata", dict)
    try:
        at: datetime | None = parse_time(_get(metadata, "inferenceTime", str) or "")
    except ValueError:
        at = hour[0] if hour else None
    return Record(
        event_id=_get(metadata, "eventId", str) or None,
        inference_id=_get(metadata, "inferenceId", str) or None,
        at=at,
        input=_get(data, "endpointInput", dict),
        output=_get(data, "endpointOutput", dict),
    )


def _get[T](value: object, name: str, kind: type[T]) -> T | None:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, kind) else None


def parse_time(text: str) -> datetime:
    """Parse a time in ISO 8601, which is in UTC unless it names a time zone."""
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
