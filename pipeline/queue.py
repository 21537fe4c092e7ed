"""What commands do with a queue of the stack: count what is in it, and look through it."""

from collections.abc import Iterator
from typing import Any

BATCH = 10
"""Messages that SQS gives at once (API Reference, ReceiveMessage)."""
EMPTY_AFTER = 2
"""Seconds of waiting after which a queue has no more: a long poll asks all of SQS's servers."""


def waiting(sqs: Any, url: str) -> int:  # noqa: ANN401  boto3's client
    """Return about how many messages wait in a queue for whoever asks."""
    return _number(sqs, url, "ApproximateNumberOfMessages")


def held_by_others(sqs: Any, url: str) -> int:  # noqa: ANN401  as above
    """Return about how many messages of a queue somebody has taken, and not deleted."""
    return _number(sqs, url, "ApproximateNumberOfMessagesNotVisible")


def _number(sqs: Any, url: str, name: str) -> int:  # noqa: ANN401  as above
    return int(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])


def taken(sqs: Any, url: str, hidden: int) -> Iterator[list[dict[str, Any]]]:  # noqa: ANN401  as above
    """Take messages, `BATCH` at most at a time, until there are no more.

    Parameters
    ----------
    sqs, url
        Of the queue.
    hidden
        Seconds for which the queue gives what was taken to nobody else.
    """
    while messages := sqs.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=BATCH,
        MessageAttributeNames=["All"],
        VisibilityTimeout=hidden,
        WaitTimeSeconds=EMPTY_AFTER,
    ).get("Messages"):
        yield messages
