"""Receive photos from the review queue one at a time, and record a reviewer's answers.

An answer is written to the results table first, then as a ground-truth record; the message is deleted last.
After an interruption, the message becomes visible again, and the next receiver completes the writes.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from botocore.exceptions import ClientError

from functions.monitor.capture_analysis.captures import SUFFIX, split_uri
from model import storage
from model.labels import split_labels
from pipeline.queue import approximate_count
from pipeline.stack import Stack

VISIBILITY_TIMEOUT = 60
"""Seconds for which a received photo is hidden from other reviewers, unless extended."""
EXTEND_INTERVAL = VISIBILITY_TIMEOUT / 3
"""Seconds between two extensions while a photo is on display."""
SKIP_DELAY = 600
"""Seconds until a skipped photo can be received again."""
NOT_RECEIVED = {"MessageNotInflight", "ReceiptHandleIsInvalid", "InvalidParameterValue"}
"""SQS's error codes for a message that was deleted or is visible again."""
UNUSABLE = "unusable"
"""The answer for a photo that shows nothing. It is not a label: monitoring and training ignore the photo."""

logger = logging.getLogger(__name__)


class ReviewError(Exception):
    """A photo cannot be reviewed; the message says why."""


class AnswerStatus(StrEnum):
    """What was done with an answer, and a message for the reviewer."""

    message: str
    RECORDED = "recorded", "Recorded."
    SUPERSEDED = "superseded", "Replaced by a newer upload. Your answer counts as ground truth."
    ALREADY_ANSWERED = "already_answered", "Another reviewer answered first. Their answer stands."
    RESULT_DELETED = "result_deleted", "This photo's result was deleted. Nothing was recorded."

    def __new__(cls, value: str, message: str) -> Self:
        """Make the first item the member's value."""
        status = str.__new__(cls, value)
        status._value_, status.message = value, message
        return status


@dataclass(frozen=True)
class ReviewItem:
    """A photo received from the review queue: its receipt handle and the detail of ``VehicleNeedsReview``."""

    receipt: str
    detail: Mapping[str, Any]

    @property
    def uri(self) -> str:
        """The photo's address, ``s3://bucket/key``."""
        return str(self.detail["photo"])

    @property
    def version(self) -> Mapping[str, Any]:
        """The id of the photo's version in DynamoDB's notation."""
        version = self.detail.get("version_id")
        return {"NULL": True} if version is None else {"S": str(version)}


class ReviewQueue:
    """A stack's review queue for one reviewer, whose name is recorded with each answer."""

    def __init__(self, stack: Stack, reviewer: str) -> None:
        self.labels = split_labels(stack.output("ClassLabels"))
        self.stack, self.reviewer, self.url = stack, reviewer, stack.output("ReviewQueueUrl")
        self.truth_bucket, self.truth_prefix = split_uri(stack.output("GroundTruthUri"))
        self.sqs, self.s3, self.dynamodb = map(stack.client, ("sqs", "s3", "dynamodb"))

    def approximate_waiting(self) -> int:
        """Return about how many photos are waiting, without those that a reviewer has received."""
        return approximate_count(self.sqs, self.url)

    def receive(self, patience: float = 0) -> ReviewItem | None:
        """Receive a photo that still needs an answer, waiting up to `patience` seconds for one."""
        deadline = time.monotonic() + patience
        request = {"QueueUrl": self.url, "MaxNumberOfMessages": 1, "VisibilityTimeout": VISIBILITY_TIMEOUT}
        while True:
            wait = min(20, max(0, round(deadline - time.monotonic())))
            received = self.sqs.receive_message(**request, WaitTimeSeconds=wait).get("Messages", [])
            for item in filter(None, map(_parse_message, received)):
                result = self._read_result(item)
                answer = UNUSABLE if result is None else _existing_answer(item, result)
                if answer is None:
                    return item
                # Delivered twice, interrupted after it was answered, or its result was deleted.
                self._complete(item, answer)
            if not received and time.monotonic() >= deadline:
                return None

    def extend(self, item: ReviewItem, seconds: int = VISIBILITY_TIMEOUT) -> bool:
        """Keep a photo hidden for `seconds` from now; return ``False`` if it is no longer this reviewer's."""
        try:
            self.sqs.change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=item.receipt, VisibilityTimeout=seconds
            )
        except ClientError as error:
            if error.response["Error"]["Code"].rpartition(".")[2] not in NOT_RECEIVED:
                raise
            return False
        return True

    @contextmanager
    def hold(self, item: ReviewItem) -> Iterator[None]:
        """Extend a photo repeatedly during a ``with`` block."""
        ended = threading.Event()

        def extend_repeatedly() -> None:
            while not ended.wait(EXTEND_INTERVAL):
                self.extend(item)

        thread = threading.Thread(target=extend_repeatedly, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def release(self, item: ReviewItem) -> None:
        """Return a photo without an answer; any reviewer can receive it immediately."""
        self.extend(item, 0)

    def skip(self, item: ReviewItem) -> None:
        """Return a photo without an answer; any reviewer can receive it after `SKIP_DELAY`."""
        self.extend(item, SKIP_DELAY)

    def read_photo(self, item: ReviewItem) -> bytes:
        """Return the file that the model classified; raise `ReviewError` if it has been deleted."""
        content = storage.read_photo_version(self.s3, item.detail)
        if content is None:
            raise ReviewError(f"{item.uri} has been deleted.")
        return content

    def answer(self, item: ReviewItem, label: str) -> AnswerStatus:
        """Record what a photo shows; raise `ReviewError` unless it is one of `labels` or `UNUSABLE`."""
        if label not in (*self.labels, UNUSABLE):
            raise ReviewError(f"Unknown label: {label!r}. Use one of: {', '.join((*self.labels, UNUSABLE))}.")
        if self._record(item, label):
            status = AnswerStatus.RECORDED
        elif (result := self._read_result(item)) is None:
            status, label = AnswerStatus.RESULT_DELETED, UNUSABLE
        elif (first := _existing_answer(item, result)) is None:
            status = AnswerStatus.SUPERSEDED
        else:
            status, label = AnswerStatus.ALREADY_ANSWERED, first
        self._complete(item, label)
        return status

    def _record(self, item: ReviewItem, label: str) -> bool:
        """Add the answer to the result of this upload unless another reviewer has; return whether it did."""
        try:
            self.dynamodb.update_item(
                **self.stack.result_key(item.uri),
                UpdateExpression="SET reviewed_label = :label, reviewed_at = :at, reviewer = :reviewer",
                ConditionExpression="version_id = :version AND "
                "(attribute_not_exists(reviewed_at) OR (reviewer = :reviewer AND reviewed_label = :label))",
                ExpressionAttributeValues={
                    ":label": {"S": label},
                    ":at": {"S": f"{datetime.now(UTC).isoformat(timespec='milliseconds')[:-6]}Z"},
                    ":reviewer": {"S": self.reviewer},
                    ":version": item.version,
                },
            )
        except self.dynamodb.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def _read_result(self, item: ReviewItem) -> Mapping[str, Any] | None:
        address = self.stack.result_key(item.uri)
        result: Mapping[str, Any] | None = self.dynamodb.get_item(**address, ConsistentRead=True).get("Item")
        return result

    def _complete(self, item: ReviewItem, label: str) -> None:
        """Write the ground-truth record, if there is an answer to learn from, and delete the message."""
        if label != UNUSABLE:
            self._write_ground_truth(item, label)
        self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=item.receipt)

    def _write_ground_truth(self, item: ReviewItem, label: str) -> None:
        """Write the ground-truth record; its key depends only on the photo, so writing it again is safe."""
        inference_id = item.detail["inference_id"]
        at = datetime.fromisoformat(item.detail["classified_at"]).astimezone(UTC)
        record = {
            "groundTruthData": {"data": label, "encoding": "CSV"},
            "eventMetadata": {"eventId": inference_id},
            "eventVersion": "0",
            # Training needs the photo's address, which SageMaker's format does not have.
            "photo": {name: item.detail.get(name) for name in ("bucket", "key", "version_id")},
        }
        self.s3.put_object(
            Bucket=self.truth_bucket,
            Key=f"{self.truth_prefix}/{at:%Y/%m/%d/%H}/{inference_id}{SUFFIX}",
            Body=json.dumps(record).encode() + b"\n",
            ContentType="application/jsonl",
        )


def _parse_message(message: Mapping[str, Any]) -> ReviewItem | None:
    """Parse a message; return ``None``, with a warning, if the pipeline did not write it."""
    try:
        match json.loads(message["Body"]):
            case {
                "photo": str(),
                "bucket": str(),
                "key": str(),
                "inference_id": str(),
                "label": str(),
                "reason": str(),
                "confidence": int() | float(),
                "classified_at": str(at),
            } as detail if datetime.fromisoformat(at):
                return ReviewItem(message["ReceiptHandle"], detail)
    except (ValueError, RecursionError):
        pass
    logger.warning("Message %s in the review queue is not a photo; left in the queue", message["MessageId"])
    return None


def _existing_answer(item: ReviewItem, result: Mapping[str, Any]) -> str | None:
    """Return the answer that was recorded for this upload; ``None`` if there is none."""
    if "reviewed_label" not in result or result["version_id"] != item.version:
        return None
    return str(result["reviewed_label"]["S"])
