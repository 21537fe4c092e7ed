"""The layout and format of SageMaker's data capture. No AWS, no Powertools.

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html, and real captures.
"""

import json
import uuid
from base64 import b64encode
from datetime import datetime

VARIANT = "AllTraffic"
"""The endpoint's only variant, which is part of a capture's path."""


def capture_path(endpoint: str, first_record_at: datetime) -> str:
    """Return the path of a new capture file below the capture destination; times are in UTC."""
    milliseconds = first_record_at.microsecond // 1000
    hour, name = f"{first_record_at:%Y/%m/%d/%H}", f"{first_record_at:%M-%S}-{milliseconds:03}-{uuid.uuid4()}"
    return f"{endpoint}/{VARIANT}/{hour}/{name}.jsonl"


def format_record(
    photo: bytes,
    content_type: str,
    answer: str,
    inference_id: str | None,
    answered_at: datetime,
    *,
    event_id: uuid.UUID | None = None,
) -> str:
    """Format a request and its answer, a string of JSON, as one line.

    SageMaker writes the answer unencoded if the capture's ``JsonContentTypes`` include ``application/json``.

    Parameters
    ----------
    inference_id
        The caller's name for the request, if it gave one. Ground truth is matched by it.
    answered_at
        In UTC.
    event_id
        Readers count each event once. By default it is random, as SageMaker's are.
    """
    record = {
        "captureData": {
            "endpointInput": {
                "observedContentType": content_type,
                "mode": "INPUT",
                "data": b64encode(photo).decode(),
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
            "eventId": str(event_id or uuid.uuid4()),
            **({"inferenceId": inference_id} if inference_id else {}),
            "inferenceTime": f"{answered_at:%Y-%m-%dT%H:%M:%SZ}",
        },
        "eventVersion": "0",
    }
    return json.dumps(record, separators=(",", ":")) + "\n"
