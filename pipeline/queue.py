"""Count and receive the messages of an SQS queue."""

from collections.abc import Iterator
from typing import Any

BATCH = 10
"""The most messages that SQS returns per call (API Reference, ReceiveMessage)."""
EMPTY_AFTER = 2
"""Seconds of long polling, which asks all of SQS's servers, after which a queue counts as empty."""


def approximate_count(sqs: Any, url: str, *, in_flight: bool = False) -> int:  # noqa: ANN401  boto3's client
    """Return about how many messages are visible, or, in flight, hidden because they were received."""
    name = f"ApproximateNumberOfMessages{'NotVisible' if in_flight else ''}"
    return int(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])


def receive_all(sqs: Any, url: str, visibility_timeout: int) -> Iterator[list[dict[str, Any]]]:  # noqa: ANN401
    """Receive messages in batches until the queue is empty, hidden for `visibility_timeout` seconds."""
    while messages := sqs.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=BATCH,
        MessageAttributeNames=["All"],
        VisibilityTimeout=visibility_timeout,
        WaitTimeSeconds=EMPTY_AFTER,
    ).get("Messages"):
        yield messages
