"""The layout and format of SageMaker's data capture. No AWS, no Powertools.

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html, and real captures.
"""

import json
import uuid
from base64 import b64encode
from datetime import datetime

VARIANT = "AllTraffic"
"""The endpoint's only variant."""


def capture_path(endpoint: str, first_record_at: datetime) -> str:
    """Return the path of a new capture file below the capture destination; times are in UTC."""
    milliseconds = first_record_at.microsecond // 1000
    time = f"{first_record_at:%Y/%m/%d/%H/%M-%S}-{milliseconds:03}"
    return f"{endpoint}/{VARIANT}/{time}-{uuid.uuid4()}.jsonl"


def format_record(
    photo: bytes,
    content_type: str,
    answer: str,
    inference_id: str | None,
    answered_at: datetime,
    *,
    event_id: uuid.UUID | None = None,
) -> str:
    """Format a request and its answer, a string of JSON, as one line; ``answered_at`` is in UTC.

    SageMaker writes the answer unencoded if the capture's ``JsonContentTypes`` include ``application/json``.
    Ground truth is matched by ``inference_id``, if the caller gave one. Readers count each ``event_id`` once;
    by default it is random, as SageMaker's are.
    """
    record = {
        "captureData": {
            "endpointInput": _payload("INPUT", content_type, b64encode(photo).decode(), "BASE64"),
            "endpointOutput": _payload("OUTPUT", "application/json", answer, "JSON"),
        },
        "eventMetadata": {
            "eventId": str(event_id or uuid.uuid4()),
            **({"inferenceId": inference_id} if inference_id else {}),
            "inferenceTime": f"{answered_at:%Y-%m-%dT%H:%M:%SZ}",
        },
        "eventVersion": "0",
    }
    return json.dumps(record, separators=(",", ":")) + "\n"


def _payload(mode: str, content_type: str, data: str, encoding: str) -> dict[str, str]:
    return {"observedContentType": content_type, "mode": mode, "data": data, "encoding": encoding}
