"""A reviewer's desk: one photo at a time from the review queue, and the answer to where it is needed.

An answer is written to the results table, then as a ground-truth record, and only then is the message
deleted: whatever breaks off in between, the message comes back, and what is missing is written then.
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
from typing import Any

from botocore.exceptions import ClientError

from functions.monitor.capture_analysis.captures import SUFFIX, split_uri
from model import storage
from model.labels import split_labels
from pipeline import queue
from pipeline.stack import Stack

HIDDEN = 60
"""Seconds for which a photo is its reviewer's alone; it is theirs for longer as long as they look at it."""
EVERY = HIDDEN / 3
"""Seconds between two signs that they do."""
OTHERS_FIRST = 600
"""Seconds until a photo that a reviewer passed over comes to anyone again."""
UNUSABLE = "unusable"
"""The answer to a photo that shows nothing; no label: nothing is measured or trained by it."""

logger = logging.getLogger(__name__)


class ReviewError(Exception):
    """A photo cannot be reviewed; the message says why."""


class Outcome(StrEnum):
    """What became of an answer."""

    RECORDED = "recorded"
    REPLACED = "replaced"
    """A newer upload has taken the photo's place in the table; as ground truth the answer counts."""
    ALREADY = "already"
    """Somebody else was first, and theirs stands."""
    GONE = "gone"
    """There is no result of this photo any more: nothing was written."""


@dataclass(frozen=True)
class Photo:
    """A photo that waits for a person.

    Attributes
    ----------
    receipt
        By which the queue knows who has the message.
    detail
        The event ``VehicleNeedsReview``.
    """

    receipt: str
    detail: Mapping[str, Any]

    @property
    def uri(self) -> str:
        """``s3://bucket/key``."""
        return str(self.detail["photo"])

    @property
    def key(self) -> Mapping[str, Any]:
        """The key of its result."""
        return {"photo": {"S": self.uri}}

    @property
    def version(self) -> Mapping[str, Any]:
        """The version of the photo, as the results table holds it."""
        version = self.detail.get("version_id")
        return {"NULL": True} if version is None else {"S": str(version)}


class ReviewQueue:
    """Where one reviewer works.

    Parameters
    ----------
    stack
        Whose review queue.
    reviewer
        Who answers, for the record.
    """

    def __init__(self, stack: Stack, reviewer: str) -> None:
        self.labels = split_labels(stack.output("ClassLabels"))
        self.reviewer = reviewer
        self.queue, self.table = stack.output("ReviewQueueUrl"), stack.output("ResultsTableName")
        self.truth_bucket, self.truth_prefix = split_uri(stack.output("GroundTruthUri"))
        self.sqs, self.s3, self.dynamodb = map(stack.client, ("sqs", "s3", "dynamodb"))

    def waiting(self) -> int:
        """Return about how many photos wait, without those at somebody's desk."""
        return queue.waiting(self.sqs, self.queue)

    def take(self, patience: float = 0) -> Photo | None:
        """Take a photo that nobody else has, and that still waits for an answer.

        Parameters
        ----------
        patience
            Seconds to wait for one.

        Returns
        -------
        Photo
            ``None`` if there is none.
        """
        give_up_at = time.monotonic() + patience
        while True:
            wait = min(20, max(0, round(give_up_at - time.monotonic())))
            received = self.sqs.receive_message(
                QueueUrl=self.queue, MaxNumberOfMessages=1, VisibilityTimeout=HIDDEN, WaitTimeSeconds=wait
            ).get("Messages", [])
            for message in received:
                photo = read(message)
                if photo is None:
                    continue
                result = self._result(photo)
                before = UNUSABLE if result is None else answered(photo, result)
                if before is None:
                    return photo
                # delivered twice, or broken off after it was answered; or its result was deleted
                self._finish(photo, before)
            if not received and time.monotonic() >= give_up_at:
                return None

    def keep(self, photo: Photo, seconds: int = HIDDEN) -> bool:
        """Keep a photo for so many seconds more; ``False`` if it is no longer this desk's."""
        try:
            self.sqs.change_message_visibility(
                QueueUrl=self.queue, ReceiptHandle=photo.receipt, VisibilityTimeout=seconds
            )
        except ClientError as error:
            if error.response["Error"]["Code"].rpartition(".")[2] in {
                "MessageNotInflight",
                "ReceiptHandleIsInvalid",
                "InvalidParameterValue",
            }:
                return False
            raise
        return True

    def release(self, photo: Photo) -> None:
        """Give a photo back unanswered: the next to ask may have it."""
        self.keep(photo, 0)

    def skip_photo(self, photo: Photo) -> None:
        """Leave a photo to somebody else; it comes again later."""
        self.keep(photo, OTHERS_FIRST)

    def content(self, photo: Photo) -> bytes:
        """Return the bytes of the very upload that the model saw.

        Raises
        ------
        ReviewError
            It has been deleted.
        """
        content = storage.read_photo_version(self.s3, photo.detail)
        if content is None:
            raise ReviewError(f"{photo.uri} has been deleted")
        return content

    def answer(self, photo: Photo, label: str) -> Outcome:
        """Record what a photo shows.

        Parameters
        ----------
        photo
            From `take`.
        label
            One of `labels`, or `UNUSABLE`.

        Raises
        ------
        ReviewError
            It is neither.
        """
        if label not in (*self.labels, UNUSABLE):
            raise ReviewError(f"{label!r} is none of {', '.join((*self.labels, UNUSABLE))}")
        if self._record(photo, label):
            outcome, shown = Outcome.RECORDED, label
        elif (result := self._result(photo)) is None:
            outcome, shown = Outcome.GONE, UNUSABLE
        elif (theirs := answered(photo, result)) is None:
            outcome, shown = Outcome.REPLACED, label
        else:
            outcome, shown = Outcome.ALREADY, theirs
        self._finish(photo, shown)
        return outcome

    def _record(self, photo: Photo, label: str) -> bool:
        """Put the answer beside the model's, if the result is of the same upload and nobody else answered."""
        try:
            self.dynamodb.update_item(
                TableName=self.table,
                Key=photo.key,
                UpdateExpression="SET reviewed_label = :label, reviewed_at = :at, reviewer = :reviewer",
                ConditionExpression="version_id = :version AND "
                "(attribute_not_exists(reviewed_at) OR (reviewer = :reviewer AND reviewed_label = :label))",
                ExpressionAttributeValues={
                    ":label": {"S": label},
                    ":at": {"S": f"{datetime.now(UTC).isoformat(timespec='milliseconds')[:-6]}Z"},
                    ":reviewer": {"S": self.reviewer},
                    ":version": photo.version,
                },
            )
        except self.dynamodb.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def _result(self, photo: Photo) -> Mapping[str, Any] | None:
        item: Mapping[str, Any] | None = self.dynamodb.get_item(
            TableName=self.table, Key=photo.key, ConsistentRead=True
        ).get("Item")
        return item

    def _write_truth(self, photo: Photo, label: str) -> None:
        """Write the record under a name that depends on the photo alone: a second writing replaces it."""
        key = truth_key(photo.detail["classified_at"], photo.detail["inference_id"])
        record = {
            "groundTruthData": {"data": label, "encoding": "CSV"},
            "eventMetadata": {"eventId": photo.detail["inference_id"]},
            "eventVersion": "0",
            # beyond SageMaker's format: where the photo is, to train with
            "photo": {name: photo.detail.get(name) for name in ("bucket", "key", "version_id")},
        }
        self.s3.put_object(
            Bucket=self.truth_bucket,
            Key=f"{self.truth_prefix}/{key}",
            Body=json.dumps(record).encode() + b"\n",
            ContentType="application/jsonl",
        )

    def _finish(self, photo: Photo, label: str) -> None:
        """Write what is to be measured and trained by, and take the message out of the queue."""
        if label != UNUSABLE:
            self._write_truth(photo, label)
        self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=photo.receipt)


def read(message: Mapping[str, Any]) -> Photo | None:
    """Read a message of the queue; what is none of the pipeline's comes again, and to nobody's page."""
    try:
        detail = json.loads(message["Body"])
        named = all(isinstance(detail[name], str) for name in ("photo", "bucket", "key", "inference_id"))
        if named and datetime.fromisoformat(detail["classified_at"]):
            return Photo(message["ReceiptHandle"], detail)
    except (ValueError, KeyError, TypeError):
        pass
    logger.warning("message %s in the review queue is no photo: left there", message["MessageId"])
    return None


def truth_key(classified_at: str, inference_id: str) -> str:
    """Return where the ground-truth record of an inference is, under ``GroundTruthUri``."""
    at = datetime.fromisoformat(classified_at).astimezone(UTC)
    return f"{at:%Y/%m/%d/%H}/{inference_id}{SUFFIX}"


def answered(photo: Photo, result: Mapping[str, Any]) -> str | None:
    """Return what somebody answered to this upload, ``None`` if nobody did."""
    if "reviewed_label" not in result or result["version_id"] != photo.version:
        return None
    return str(result["reviewed_label"]["S"])


@contextmanager
def held(desk: ReviewQueue, photo: Photo) -> Iterator[None]:
    """Keep a photo at the desk for as long as a ``with`` block takes."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(EVERY):
            desk.keep(photo)

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
