"""Read SageMaker's data capture, from a folder or from S3: every record of a time window, each event once.

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html, and real captures. A
file lies at ``{destination}/{endpoint}/{variant}/yyyy/mm/dd/hh/MM-SS-mmm-UUID.jsonl``, the hour in UTC, and
holds one record a line, one line or many.
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
from typing import TYPE_CHECKING, Any, Protocol

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SUFFIX = ".jsonl"
NAMED = 1000
"""How many skipped lines are named; all are counted."""
AHEAD = 16
"""Objects fetched from S3 while those before them are read: each takes tens of milliseconds to come."""
DATED = re.compile(r"/(\d{4})/(\d\d)(?:/(\d\d)(?:/(\d\d))?)?/?$")
"""The end of a folder's path that tells a month, a day or an hour. A year alone may as well be a name."""


class CaptureError(Exception):
    """Captures cannot be read; the message says why."""


class PayloadError(Exception):
    """One half of a record is not what it should be; the message says what is wrong."""


@dataclass(frozen=True)
class TimeWindow:
    """From when to when, both in UTC: ``start`` counts, ``end`` does not. ``None`` is no bound."""

    start: datetime | None = None
    end: datetime | None = None

    def holds(self, at: datetime) -> bool:
        """Say whether a moment lies in it."""
        return not (self.start and at < self.start) and not (self.end and at >= self.end)

    def overlaps(self, begin: datetime, finish: datetime) -> bool:
        """Say whether any moment from `begin` to before `finish` lies in it."""
        return not (self.start and finish <= self.start) and not (self.end and begin >= self.end)

    def covers(self, begin: datetime, finish: datetime) -> bool:
        """Say whether all moments from `begin` to before `finish` lie in it."""
        return not (self.start and begin < self.start) and not (self.end and finish > self.end)


@dataclass
class Tally:
    """What was read. ``records`` are events, each counted once; ``read`` counts their repeats too.

    `skipped` names lines that are no records, at most `NAMED` of the `broken`.
    """

    files: int = 0
    read: int = 0
    records: int = 0
    duplicates: int = 0
    broken: int = 0
    skipped: list[str] = field(default_factory=list)

    def skip(self, what: str) -> None:
        """Count a line that is no record, and name it."""
        self.broken += 1
        if len(self.skipped) < NAMED:
            self.skipped.append(what)


@dataclass(frozen=True, slots=True)
class Record:
    """One request to an endpoint and its answer; either half may be missing.

    Attributes
    ----------
    event_id
        SageMaker's name for it, ``None`` where the record has none.
    inference_id
        The caller's own name for it, if it gave one.
    at
        When it was answered, in UTC, if the record or its path tells.
    asked, answered
        The halves, as captured.
    """

    event_id: str | None
    inference_id: str | None
    at: datetime | None
    asked: Mapping[str, Any] | None
    answered: Mapping[str, Any] | None

    def photo(self) -> bytes:
        """Return the photo that the endpoint was asked about, as the bytes of its file.

        Raises
        ------
        PayloadError
            This half is missing, or is text rather than bytes.
        """
        if not self.asked:
            raise PayloadError("no input was captured")
        if self.asked.get("encoding") != "BASE64":
            raise PayloadError(f"the input is {self.asked.get('encoding')}, no photo")
        return _content(self.asked)

    def probabilities(self) -> list[float]:
        """Return the endpoint's answer: a probability for each label, as JSON or CSV, in BASE64 or not.

        Raises
        ------
        PayloadError
            This half is missing, or is no list of at least two probabilities.
        """
        if not self.answered:
            raise PayloadError("no output was captured")
        text = _content(self.answered)
        try:
            values = json.loads(text if text.lstrip().startswith(b"[") else b"[%s]" % text.strip())
            if len(values) == 1 and isinstance(values[0], list):
                (values,) = values
            answer = [float(value) for value in values]
        except (ValueError, TypeError) as error:
            raise PayloadError("the output is no list of numbers") from error
        if len(answer) < 2 or not all(math.isfinite(p) and 0 <= p <= 1 for p in answer):  # noqa: PLR2004
            raise PayloadError("the output is no list of probabilities")
        return answer


def _content(half: Mapping[str, Any]) -> bytes:
    data = half.get("data")
    if not isinstance(data, str):
        raise PayloadError("it holds no data")
    if half.get("encoding") != "BASE64":
        return data.encode()
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise PayloadError("its BASE64 is damaged") from error


class Store(Protocol):
    """Where captures lie: files in folders."""

    def list(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the paths of the folders and of the files in a folder, each in order."""

    def lines(self, files: Iterator[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Return the lines of each file, with its path; a file that is gone by now is left out."""


class Folder:
    """Captures on this machine."""

    def list(self, folder: str) -> tuple[list[str], list[str]]:
        """List a folder, as `Store` says."""
        try:
            entries = sorted(Path(folder).iterdir())
        except OSError as error:
            raise CaptureError(f"{folder} cannot be read ({error.strerror})") from error
        # A hidden folder holds a file that is still being written.
        folders = [entry.as_posix() for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        return folders, [entry.as_posix() for entry in entries if entry.is_file()]

    def lines(self, files: Iterator[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Open files, as `Store` says."""
        for path in files:
            try:
                with Path(path).open("rb") as file:
                    yield path, file
            except FileNotFoundError:
                continue
            except OSError as error:
                raise CaptureError(f"{path} cannot be read ({error.strerror})") from error


class Bucket:
    """Captures in S3, as seen by a client of one's own or that of the environment."""

    def __init__(self, s3: "S3Client | None" = None) -> None:
        config = Config(retries={"mode": "standard", "total_max_attempts": 5}, max_pool_connections=AHEAD)
        self._s3 = s3 or boto3.client("s3", config=config)

    def list(self, folder: str) -> tuple[list[str], list[str]]:
        """List a prefix, as `Store` says."""
        bucket, prefix = split_uri(folder)
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", Delimiter="/"
        )
        folders: list[str] = []
        files: list[str] = []
        with failing_as_captures(folder):
            for page in pages:
                folders += [
                    f"s3://{bucket}/{one['Prefix'].rstrip('/')}" for one in page.get("CommonPrefixes", [])
                ]
                files += [f"s3://{bucket}/{one['Key']}" for one in page.get("Contents", [])]
        return folders, files

    def lines(self, files: Iterator[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Fetch objects, a few ahead of the reader, as `Store` says."""
        fetched: deque[tuple[str, Future[bytes | None]]] = deque()
        with ThreadPoolExecutor(AHEAD) as threads:
            try:
                for path in files:
                    fetched.append((path, threads.submit(self._fetch, path)))
                    if len(fetched) > AHEAD:
                        yield from _opened(*fetched.popleft())
                while fetched:
                    yield from _opened(*fetched.popleft())
            finally:
                threads.shutdown(cancel_futures=True)

    def _fetch(self, uri: str) -> bytes | None:
        bucket, key = split_uri(uri)
        file = BytesIO()
        with failing_as_captures(uri):
            try:
                # A download that breaks off is begun again, unlike the body of get_object.
                self._s3.download_fileobj(bucket, key, file, Config=TransferConfig(use_threads=False))
            except ClientError as error:
                if error.response["Error"]["Code"] in {"404", "NoSuchKey"}:
                    return None
                raise
        return file.getvalue()


@contextmanager
def failing_as_captures(uri: str) -> Iterator[None]:
    """Turn S3's errors, while a ``with`` block reads `uri`, into a CaptureError that names it."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise CaptureError(f"{uri} cannot be read: {error}") from error


def _opened(path: str, content: Future[bytes | None]) -> Iterator[tuple[str, Iterator[bytes]]]:
    if (fetched := content.result()) is not None:
        yield path, BytesIO(fetched)


def split_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and the key or prefix that ``s3://bucket/key`` names."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key.rstrip("/")


def read(source: str, window: TimeWindow, tally: Tally) -> Iterator[Record]:
    """Read the records of a time window, in the order of their files.

    The hour in a file's path decides: a file of an hour outside the window is not opened, all records of an
    hour within it count, and of an hour that the window cuts those count whose own time lies in it. So
    windows that follow on one another have each record once, although a file's last records are often from
    the hour after. Where the path tells no hour, the record's time decides.

    Parameters
    ----------
    source
        A folder, or ``s3://bucket/prefix``, at any level above the files; or one file.
    window
        Of which time.
    tally
        Counts what was read.

    Raises
    ------
    CaptureError
        The source cannot be read.
    """
    seen: set[str] = set()
    for path, lines in read_lines(source, window, tally):
        begun = _interval(path.rpartition("/")[0])
        whole = begun is None or window.covers(*begun)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = parse(line, begun)
            except ValueError as error:
                tally.skip(f"{path}:{number}: {error}")
                continue
            if begun is None or not whole:
                if record.at is None and (window.start or window.end):
                    tally.skip(f"{path}:{number}: it does not tell its time")
                    continue
                if record.at and not window.holds(record.at):
                    continue
            tally.read += 1
            if record.event_id in seen:
                tally.duplicates += 1
                continue
            if record.event_id:
                seen.add(record.event_id)
            tally.records += 1
            yield record


def read_lines(
    source: str, window: TimeWindow, tally: Tally, s3: "S3Client | None" = None
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Open every file of a time window, in order; the rest is as in `read`."""
    if source.startswith("s3://"):
        store: Store = Bucket(s3)
        source = source.rstrip("/")
    else:
        store = Folder()
        source = Path(source).absolute().as_posix()
    files = iter([source]) if _is_file(source) else _find(store, source, window)
    for path, lines in store.lines(files):
        tally.files += 1
        yield path, lines


def _is_file(source: str) -> bool:
    return source.endswith(SUFFIX) and (source.startswith("s3://") or Path(source).is_file())


def _find(store: Store, folder: str, window: TimeWindow) -> Iterator[str]:
    """Yield the files under a folder that may hold records of a window, without a look at other hours."""
    folders, files = store.list(folder)
    yield from (file for file in files if file.endswith(SUFFIX))
    for inner in folders:
        dated = _interval(inner)
        if dated is None or window.overlaps(*dated):
            yield from _find(store, inner, window)


def _interval(folder: str) -> tuple[datetime, datetime] | None:
    """Return the month, day or hour that the end of a folder's path tells: its first moment and its end."""
    if not (dated := DATED.search(folder)):
        return None
    year, month, day, hour = (None if part is None else int(part) for part in dated.groups())
    try:
        begin = datetime(year or 0, month or 0, day or 1, hour or 0, tzinfo=UTC)
    except ValueError:  # digits that are no date
        return None
    if hour is not None:
        return begin, begin + timedelta(hours=1)
    if day is not None:
        return begin, begin + timedelta(days=1)
    return begin, (begin + timedelta(days=31)).replace(day=1)


def parse(line: bytes, begun: Sequence[datetime] | None) -> Record:
    """Make a record of a line, of the time that its file begins at if it tells none itself.

    Raises
    ------
    ValueError
        It is no record; the message says what is wrong with it.
    """
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError("it is not JSON") from error
    data = value.get("captureData") if isinstance(value, dict) else None
    if not isinstance(data, dict):
        raise ValueError("it has no captureData")  # noqa: TRY004
    metadata = value.get("eventMetadata")
    if not isinstance(metadata, dict):
        metadata = {}
    asked, answered = data.get("endpointInput"), data.get("endpointOutput")
    return Record(
        event_id=_text(metadata.get("eventId")),
        inference_id=_text(metadata.get("inferenceId")),
        at=_time(metadata.get("inferenceTime")) or (begun[0] if begun else None),
        asked=asked if isinstance(asked, dict) else None,
        answered=answered if isinstance(answered, dict) else None,
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
