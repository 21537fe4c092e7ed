"""Data capture: record an endpoint's requests and answers in SageMaker's layout and format."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from functions.classify.capture import capture_path, format_record

logger = logging.getLogger(__name__)


class Capture:
    """Collects records and writes several of them to a file. Not for use in more than one event loop.

    Parameters
    ----------
    destinations
        Folders, created if they do not exist, or ``s3://bucket/prefix``.
    max_records, max_seconds
        A file is written once it has this many records or its first record is this old.
    """

    def __init__(self, *destinations: Path | str, max_records: int = 100, max_seconds: float = 5) -> None:
        self._destinations = [
            Bucket(str(place)) if str(place).startswith("s3://") else Folder(Path(place))
            for place in destinations
        ]
        self._max_records = max_records
        self._max_seconds = max_seconds
        self._files: dict[str, _File] = {}

    def add(
        self, endpoint: str, photo: bytes, content_type: str, answer: str, inference_id: str | None
    ) -> None:
        """Record a request to an endpoint and its answer."""
        now = datetime.now(UTC)
        file = self._files.get(endpoint) or self._start_file(endpoint, now)
        file.lines.append(format_record(photo, content_type, answer, inference_id, now))
        if len(file.lines) >= self._max_records:
            self._finish_file(endpoint)

    def close(self) -> None:
        """Write all records that are still in memory."""
        for endpoint in list(self._files):
            self._finish_file(endpoint)
        for destination in self._destinations:
            destination.close()

    def _start_file(self, endpoint: str, now: datetime) -> "_File":
        timer = asyncio.get_running_loop().call_later(self._max_seconds, self._finish_file, endpoint)
        file = _File(capture_path(endpoint, now), timer)
        self._files[endpoint] = file
        return file

    def _finish_file(self, endpoint: str) -> None:
        file = self._files.pop(endpoint)
        file.timer.cancel()
        for destination in self._destinations:
            destination.write(file.path, file.lines)


@dataclass
class _File:
    path: str
    timer: asyncio.TimerHandle
    lines: list[str] = field(default_factory=list)


class Destination(Protocol):
    """Where records are written. Failures are logged and not raised: photos are still answered."""

    def write(self, path: str, lines: Sequence[str]) -> None:
        """Write a file, or start to."""

    def close(self) -> None:
        """Return once everything is written."""


class Folder:
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, lines: Sequence[str]) -> None:
        """Write under another name and rename, so that readers never see an incomplete file."""
        file = self._folder / path
        draft = file.with_suffix(".part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text("".join(lines))
            draft.rename(file)
        except OSError:
            logger.exception("%d captured records could not be written to %s", len(lines), file)

    def close(self) -> None:
        """Do nothing: `write` has written everything."""


class Bucket:
    """A prefix in S3, written in the background so that photos need not wait for it."""

    def __init__(self, uri: str) -> None:
        import boto3  # noqa: PLC0415  takes half a second to import, and a folder does not need it
        from botocore.config import Config  # noqa: PLC0415

        retries = Config(
            retries={"mode": "standard", "total_max_attempts": 3}, connect_timeout=2, read_timeout=10
        )
        self._s3 = boto3.client("s3", config=retries)
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._thread = ThreadPoolExecutor(1)

    def write(self, path: str, lines: Sequence[str]) -> None:
        """Start to write an object."""
        key, body = f"{self._prefix}{path}", "".join(lines).encode()
        writing = self._thread.submit(self._s3.put_object, Bucket=self._bucket, Key=key, Body=body)
        writing.add_done_callback(lambda done: self._log_failure(done, len(lines), key))

    def _log_failure(self, done: Future[Any], records: int, key: str) -> None:
        if error := done.exception():
            uri = f"s3://{self._bucket}/{key}"
            logger.error("%d captured records could not be written to %s: %s", records, uri, error)

    def close(self) -> None:
        """Return once everything is written."""
        self._thread.shutdown()
