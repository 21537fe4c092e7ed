"""Data capture: what an endpoint was asked and answered, in the layout and format that SageMaker writes.

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html, and real captures.
"""

import asyncio
import base64
import json
import logging
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

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
    destination
        The folder to write under, made if need be.
    most_records
        A file is written once it has this many,
    most_seconds
        or once its first record has waited this long.
    """

    def __init__(self, destination: Path, most_records: int = 100, most_seconds: float = 5) -> None:
        self._destination = destination
        self._most_records = most_records
        self._most_seconds = most_seconds
        self._files: dict[str, _File] = {}
        destination.mkdir(parents=True, exist_ok=True)

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

    def _start_file(self, endpoint: str, now: datetime) -> "_File":
        name = f"{now:%M-%S}-{now.microsecond // 1000:03}-{uuid.uuid4()}.jsonl"
        timer = asyncio.get_running_loop().call_later(self._most_seconds, self._finish_file, endpoint)
        file = _File(self._destination / endpoint / VARIANT / f"{now:%Y/%m/%d/%H}" / name, timer)
        self._files[endpoint] = file
        return file

    def _finish_file(self, endpoint: str) -> None:
        file = self._files.pop(endpoint)
        file.timer.cancel()
        try:
            file.write()
        except OSError:
            logger.exception("%d captured records could not be written to %s", len(file.lines), file.path)


@dataclass
class _File:
    path: Path
    timer: asyncio.TimerHandle
    lines: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Write under another name first, so that whoever finds the file finds all of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text("".join(self.lines))
        draft.rename(self.path)
