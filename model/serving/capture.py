"""Data capture: record an endpoint's requests and answers in SageMaker's layout and format."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from functions.classify.capture import capture_path, format_record
from model.storage import Storage, is_s3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

logger = logging.getLogger(__name__)


class Capture:
    """Collects records and writes several of them to a file. Use it in one event loop only.

    A destination is a folder, created if it does not exist, or ``s3://bucket/prefix``. A file is written once
    it has ``max_records`` or its first record is ``max_seconds`` old.
    """

    def __init__(self, *destinations: Path | str, max_records: int = 100, max_seconds: float = 5) -> None:
        self._destinations = [str(destination).rstrip("/") for destination in destinations]
        self._max_records = max_records
        self._max_seconds = max_seconds
        self._files: dict[str, _File] = {}
        self._background = ThreadPoolExecutor(1)
        self._storage = Storage(_s3_client() if any(map(is_s3, self._destinations)) else None)
        for destination in self._destinations:
            if not is_s3(destination):
                Path(destination).mkdir(parents=True, exist_ok=True)

    def add(
        self, endpoint: str, photo: bytes, content_type: str, answer: str, inference_id: str | None
    ) -> None:
        """Record a request to an endpoint and its answer."""
        now = datetime.now(UTC)
        if endpoint not in self._files:
            timer = asyncio.get_running_loop().call_later(self._max_seconds, self._finish_file, endpoint)
            self._files[endpoint] = _File(capture_path(endpoint, now), timer)
        lines = self._files[endpoint].lines
        lines.append(format_record(photo, content_type, answer, inference_id, now))
        if len(lines) >= self._max_records:
            self._finish_file(endpoint)

    def close(self) -> None:
        """Write all records that are still in memory."""
        for endpoint in list(self._files):
            self._finish_file(endpoint)
        self._background.shutdown()

    def _finish_file(self, endpoint: str) -> None:
        file = self._files.pop(endpoint)
        file.timer.cancel()
        for destination in self._destinations:
            path = f"{destination}/{file.path}"
            if is_s3(destination):
                # S3 is slow enough to delay the photos that are waiting.
                self._background.submit(self._write, path, file.lines)
            else:
                self._write(path, file.lines)

    def _write(self, path: str, lines: Sequence[str]) -> None:
        try:
            self._storage.write(path, "".join(lines).encode())
        except Exception:  # photos are classified even if they cannot be captured
            logger.exception("%d captured records could not be written to %s", len(lines), path)


@dataclass
class _File:
    path: str
    timer: asyncio.TimerHandle
    lines: list[str] = field(default_factory=list)


def _s3_client() -> "S3Client":
    import boto3  # noqa: PLC0415  takes half a second to import, and a folder does not need it
    from botocore.config import Config  # noqa: PLC0415

    retries = Config(
        retries={"mode": "standard", "total_max_attempts": 3}, connect_timeout=2, read_timeout=10
    )
    return boto3.client("s3", config=retries)
