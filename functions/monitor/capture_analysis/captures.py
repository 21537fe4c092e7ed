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
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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
        """Return the bytes of the photo that was sent to the endpoint.

        Raises `PayloadError` if the input is missing, or is text.
        """
        if not self.input:
            raise PayloadError("no input was captured")
        if self.input.get("encoding") != "BASE64":
            raise PayloadError(f"the input is {self.input.get('encoding')}, not a photo")
        return _content(self.input)

    def probabilities(self) -> list[float]:
        """Return the probability of each label from an output in JSON or CSV, with or without BASE64.

        Raises `PayloadError` if the output is missing, or is not a list of at least two probabilities.
        """
        if not self.output:
            raise PayloadError("no output was captured")
        text = _content(self.output)
        try:
            values = json.loads(text if text.lstrip().startswith(b"[") else b"[%s]" % text.strip())
            if len(values) == 1 and isinstance(values[0], list):
                (values,) = values
            answer = [float(value) for value in values]
        except (ValueError, TypeError) as error:
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
        """Return the sorted paths of subfolders and of files.

        Hidden subfolders are skipped, because they contain files that are still being written.
        """
        try:
            entries = sorted(Path(folder).iterdir())
        except OSError as error:
            raise CaptureError(f"{folder} cannot be read ({error.strerror})") from error
        folders = [entry.as_posix() for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        return folders, [entry.as_posix() for entry in entries if entry.is_file()]

    def lines(self, files: Iterator[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Yield each file's path and lines; skip files that no longer exist."""
        for path in files:
            try:
                with Path(path).open("rb") as file:
                    yield path, file
            except FileNotFoundError:
                continue
            except OSError as error:
                raise CaptureError(f"{path} cannot be read ({error.strerror})") from error


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
        folders: list[str] = []
        files: list[str] = []
        with translate_s3_errors(folder):
            for page in pages:
                folders += [
                    f"s3://{bucket}/{one['Prefix'].rstrip('/')}" for one in page.get("CommonPrefixes", [])
                ]
                files += [f"s3://{bucket}/{one['Key']}" for one in page.get("Contents", [])]
        return folders, files

    def lines(self, files: Iterator[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Yield each object's path and lines, and fetch the next ones meanwhile; skip those that are gone."""
        fetched: deque[tuple[str, Future[bytes | None]]] = deque()
        with ThreadPoolExecutor(PREFETCH) as threads:
            try:
                for path in files:
                    fetched.append((path, threads.submit(self._fetch, path)))
                    if len(fetched) > PREFETCH:
                        yield from _opened(*fetched.popleft())
                while fetched:
                    yield from _opened(*fetched.popleft())
            finally:
                threads.shutdown(cancel_futures=True)

    def _fetch(self, uri: str) -> bytes | None:
        bucket, key = split_uri(uri)
        file = BytesIO()
        with translate_s3_errors(uri):
            try:
                # Unlike get_object's body, this retries a download that is interrupted.
                self._s3.download_fileobj(bucket, key, file, Config=TransferConfig(use_threads=False))
            except ClientError as error:
                if error.response["Error"]["Code"] in {"404", "NoSuchKey"}:
                    return None
                raise
        return file.getvalue()


@contextmanager
def translate_s3_errors(uri: str) -> Iterator[None]:
    """Raise errors of S3 in a ``with`` block that reads `uri` as a CaptureError."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise CaptureError(f"{uri} cannot be read: {error}") from error


def _opened(path: str, content: Future[bytes | None]) -> Iterator[tuple[str, Iterator[bytes]]]:
    if (fetched := content.result()) is not None:
        yield path, BytesIO(fetched)


def split_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and the key or prefix of ``s3://bucket/key``, without a slash at the end."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key.rstrip("/")


def read(source: str, window: TimeWindow, counts: ReadCounts) -> Iterator[Record]:
    """Read the records of a time window, in the order of their files, and count them in `counts`.

    If the window contains the whole hour of a file's path, all of its records are in the window. If it
    overlaps the hour partly, or if the path has no hour, each record's own time decides. Other files are not
    opened. Hence consecutive windows contain each record once, although the last records in a file are often
    from the next hour.

    Parameters
    ----------
    source
        A folder or ``s3://bucket/prefix`` at any level above the files, or a single file.

    Raises `CaptureError` if the source cannot be read.
    """
    seen: set[str] = set()
    for path, lines in read_lines(source, window, counts):
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
            if record.event_id in seen:
                counts.duplicates += 1
                continue
            if record.event_id:
                seen.add(record.event_id)
            counts.records += 1
            yield record


def read_lines(
    source: str, window: TimeWindow, counts: ReadCounts, s3: "S3Client | None" = None
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the path and lines of every file that may have records of a time window; see `read`."""
    if source.startswith("s3://"):
        store: Folder | Bucket = Bucket(s3)
        source = source.rstrip("/")
    else:
        store = Folder()
        source = Path(source).absolute().as_posix()
    files = iter([source]) if _is_file(source) else _find(store, source, window)
    for path, lines in store.lines(files):
        counts.files += 1
        yield path, lines


def _is_file(source: str) -> bool:
    return source.endswith(SUFFIX) and (source.startswith("s3://") or Path(source).is_file())


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
    year, month, day, hour = (None if part is None else int(part) for part in match.groups())
    try:
        begin = datetime(year or 0, month or 0, day or 1, hour or 0, tzinfo=UTC)
    except ValueError:  # the digits are not a date
        return None
    if hour is not None:
        return begin, begin + timedelta(hours=1)
    if day is not None:
        return begin, begin + timedelta(days=1)
    return begin, (begin + timedelta(days=31)).replace(day=1)


def parse(line: bytes, hour: Sequence[datetime] | None) -> Record:
    """Parse a line of a capture file; a record without a time gets the start of the hour.

    Raises `ValueError` if the line is not a record.
    """
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError("not JSON") from error
    data = value.get("captureData") if isinstance(value, dict) else None
    if not isinstance(data, dict):
        raise ValueError("no captureData")  # noqa: TRY004
    metadata = value.get("eventMetadata")
    if not isinstance(metadata, dict):
        metadata = {}
    captured_input, captured_output = data.get("endpointInput"), data.get("endpointOutput")
    return Record(
        event_id=_text(metadata.get("eventId")),
        inference_id=_text(metadata.get("inferenceId")),
        at=_time(metadata.get("inferenceTime")) or (hour[0] if hour else None),
        input=captured_input if isinstance(captured_input, dict) else None,
        output=captured_output if isinstance(captured_output, dict) else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
