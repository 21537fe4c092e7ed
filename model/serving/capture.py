"""Data capture: what an endpoint was asked and answered, in the layout and format that SageMaker writes.

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html, and real captures.
"""

import asyncio
import base64
import json
import logging
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

VARIANT = "AllTraffic"

logger = logging.getLogger(__name__)


def format_record(
    photo: bytes, content_type: str, answer: str, inference_id: str | None, answered_at: datetime
) -> str:
    """Format one request and its answer as a line of JSON.

    The photo is in base64 and the answer as it is, a string of JSON: what SageMaker does where the capture's
    configuration counts ``application/json`` among its ``JsonContentTypes``.

    Parameters
    ----------
    photo, content_type
        What the endpoint was asked.
    answer
        What it answered, as ``application/json``.
    inference_id
        The caller's own name for the request, if it gave one; ground truth is matched by it.
    answered_at
        When, in UTC.
    """
    record = {
        "captureData": {
            "endpointInput": {
                "observedContentType": content_type,
                "mode": "INPUT",
                "data": base64.b64encode(photo).decode(),
                "encoding": "BASE64",
            },
            "endpointOutput": {
                "observedContentType": "application/json",
                "mode": "OUTPUT",
                "data": answer,
                "encoding": "JSON",
            },
        },
        "eventMetadata": {
            "eventId": str(uuid.uuid4()),
            **({"inferenceId": inference_id} if inference_id else {}),
            "inferenceTime": f"{answered_at:%Y-%m-%dT%H:%M:%SZ}",
        },
        "eventVersion": "0",
    }
    return json.dumps(record, separators=(",", ":")) + "\n"


class Capture:
    """Gathers records and writes them several to a file; of use in one event loop only.

    Parameters
    ----------
    destinations
        Where to write: folders, made if need be, or ``s3://bucket/prefix``.
    most_records
        A file is written once it has this many,
    most_seconds
        or once its first record has waited this long.
    """

    def __init__(self, *destinations: Path | str, most_records: int = 100, most_seconds: float = 5) -> None:
        self._destinations = [
            Bucket(str(place)) if str(place).startswith("s3://") else Folder(Path(place))
            for place in destinations
        ]
        self._most_records = most_records
        self._most_seconds = most_seconds
        self._files: dict[str, _File] = {}

    def add(
        self, endpoint: str, photo: bytes, content_type: str, answer: str, inference_id: str | None
    ) -> None:
        """Take a record of `endpoint`; the rest is as in `format_record`."""
        now = datetime.now(UTC)
        file = self._files.get(endpoint) or self._start_file(endpoint, now)
        file.lines.append(format_record(photo, content_type, answer, inference_id, now))
        if len(file.lines) >= self._most_records:
            self._finish_file(endpoint)

    def close(self) -> None:
        """Write what there is."""
        for endpoint in list(self._files):
            self._finish_file(endpoint)
        for destination in self._destinations:
            destination.close()

    def _start_file(self, endpoint: str, now: datetime) -> "_File":
        name = f"{now:%M-%S}-{now.microsecond // 1000:03}-{uuid.uuid4()}.jsonl"
        timer = asyncio.get_running_loop().call_later(self._most_seconds, self._finish_file, endpoint)
        file = _File(f"{endpoint}/{VARIANT}/{now:%Y/%m/%d/%H}/{name}", timer)
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
    """Where records go. What cannot be written is logged: photos are answered all the same."""

    def write(self, path: str, lines: Sequence[str]) -> None:
        """Write a file of that path."""

    def close(self) -> None:
        """Return once all is written."""


class Folder:
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, lines: Sequence[str]) -> None:
        """Write under another name first, so that whoever finds the file finds all of it."""
        file = self._folder / path
        draft = file.with_suffix(".part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text("".join(lines))
            draft.rename(file)
        except OSError:
            logger.exception("%d captured records could not be written to %s", len(lines), file)

    def close(self) -> None:
        """Do nothing: all is written."""


class Bucket:
    """A prefix in S3, written to in the background: it takes a while to answer, and photos are waiting."""

    def __init__(self, uri: str) -> None:
        import boto3  # noqa: PLC0415  takes half a second to import, and a folder needs none of it
        from botocore.config import Config  # noqa: PLC0415  as above

        retries = Config(
            retries={"mode": "standard", "total_max_attempts": 3}, connect_timeout=2, read_timeout=10
        )
        self._s3 = boto3.client("s3", config=retries)
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._thread = ThreadPoolExecutor(1)

    def write(self, path: str, lines: Sequence[str]) -> None:
        """Begin to write an object."""
        key, body = f"{self._prefix}{path}", "".join(lines).encode()
        writing = self._thread.submit(self._s3.put_object, Bucket=self._bucket, Key=key, Body=body)
        writing.add_done_callback(lambda done: self._tell(done, len(lines), key))

    def _tell(self, done: Future[Any], records: int, key: str) -> None:
        if error := done.exception():
            uri = f"s3://{self._bucket}/{key}"
            logger.error("%d captured records could not be written to %s: %s", records, uri, error)

    def close(self) -> None:
        """Return once all is written."""
        self._thread.shutdown()
