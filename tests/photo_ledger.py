"""Track photos through a stack: what was sent, and where each photo is now."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.stack import Stack
from pipeline import load_test
from pipeline.stack import find_stack
from pipeline.subscription import Subscription, subscribed
from tests.waiting import eventually

FIGURES = os.environ.get("RELIABILITY_FIGURES")
"""The file in which `make verify` collects what its tests have counted, for docs/reliability.md."""


@dataclass
class Balance:
    """Where photos are, by key.

    ``uploads`` counts how often each was sent: an overwritten photo has an event of each version.
    ``outcomes`` are those in the results table of photos that are not in the failed queue; ``failed`` counts
    messages there, ``published`` events on the results bus, ``reviews`` messages in the review queue.
    """

    uploads: Counter[str] = field(default_factory=Counter)
    outcomes: dict[str, str] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    published: Counter[str] = field(default_factory=Counter)
    reviews: Counter[str] = field(default_factory=Counter)

    @property
    def sent(self) -> set[str]:
        """The keys of the photos."""
        return set(self.uploads)

    @property
    def lost(self) -> set[str]:
        """Photos that have no result and are not in the failed queue."""
        return self.sent - self.outcomes.keys() - self.failed.keys()

    @property
    def double(self) -> set[str]:
        """Photos published, sent to review, or put in the failed queue more often than they were uploaded."""
        counts = (self.failed, self.published, self.reviews)
        return {key for count in counts for key in count if count[key] > self.uploads[key]}

    def assert_adds_up(self) -> None:
        """Sent = accepted + in review + rejected + in the failed queue; none lost, none double."""
        assert not self.lost
        assert not self.double
        of = Counter(self.outcomes.values())
        assert of.keys() <= {"accepted", "needs_review", "rejected"}
        assert len(self.sent) == of.total() + len(self.failed)

    def assert_complete(self) -> None:
        """It adds up, nothing failed, and each result was published and, where needed, sent to review."""
        self.assert_adds_up()
        assert not self.failed
        assert self.published.keys() == self.sent
        assert self.reviews.keys() == {key for key, is_ in self.outcomes.items() if is_ == "needs_review"}


class PhotoLedger:
    """Follows all photos under a prefix from the moment it is opened."""

    def __init__(self, stack: Stack, prefix: str, subscription: Subscription) -> None:
        self.stack, self.prefix, self.subscription = stack, prefix, subscription
        self.balance = Balance()

    def send(self, key: str, body: bytes) -> None:
        self.stack.client("s3").put_object(Bucket=self.stack.outputs["UploadBucketName"], Key=key, Body=body)
        self.balance.uploads[key] += 1

    def settle(self) -> Balance:
        """The balance once no execution is running."""
        step_functions = self.stack.client("stepfunctions")
        running = {"stateMachineArn": self.stack.outputs["StateMachineArn"], "statusFilter": "RUNNING"}
        eventually(lambda: not step_functions.list_executions(**running)["executions"])
        while events := list(self.subscription.received()):
            self.balance.published.update(event["detail"]["key"] for event in events)
        self.balance.failed = Counter(key_of(body) for body in self._bodies("FailedQueueUrl"))
        reviews = (json.loads(body)["key"] for body in self._bodies("ReviewQueueUrl"))
        self.balance.reviews = Counter(key for key in reviews if key in self.balance.sent)
        target = find_stack(str(self.stack.description))
        found = load_test.read_outcomes(target, sorted(self.balance.sent))
        self.balance.outcomes = {key: found[key] for key in found if key not in self.balance.failed}
        return self.balance

    def _bodies(self, queue: str) -> Iterator[str]:
        """Every message in a queue; they stay there."""
        sqs, url = self.stack.client("sqs"), self.stack.outputs[queue]
        handles = []
        request = {"QueueUrl": url, "MaxNumberOfMessages": 10, "VisibilityTimeout": 300}
        while messages := sqs.receive_message(**request).get("Messages"):
            handles += [message["ReceiptHandle"] for message in messages]
            yield from (message["Body"] for message in messages)
        for handle in handles:
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)


def key_of(body: str) -> str:
    """The key of the photo that a message of the failed queue is about."""
    detail: dict[str, Any] = json.loads(body)["detail"]
    return str(detail["object"]["key"] if "object" in detail else detail["key"])


@contextmanager
def open_ledger(stack: Stack, prefix: str) -> Iterator[PhotoLedger]:
    """Follow the photos under a prefix during a ``with`` block; both queues are emptied first."""
    sqs = stack.client("sqs")
    for queue in ("FailedQueueUrl", "ReviewQueueUrl"):
        sqs.purge_queue(QueueUrl=stack.outputs[queue])
    bus = stack.outputs["ResultsBusName"]
    pattern = {"detail": {"key": [{"prefix": prefix}]}}
    name = f"ledger-{time.time_ns()}"
    with subscribed(find_stack(str(stack.description)), name, {bus: pattern}) as subscription:
        subscription.wait_until_active({bus: {"key": prefix}})
        yield PhotoLedger(stack, prefix, subscription)


def record_balance(balance: Balance, **figures: int) -> None:
    """Add what became of the photos of a test to the figures of this run, before the test judges it."""
    record_figures(
        photos_sent=balance.uploads.total(), lost=len(balance.lost), double=len(balance.double), **figures
    )


def record_figures(**figures: int) -> None:
    """Add a line to the figures of `make verify`; tests may run in parallel."""
    if not FIGURES:
        return
    Path(FIGURES).parent.mkdir(parents=True, exist_ok=True)
    with Path(FIGURES).open("a") as file:
        file.write(json.dumps(figures) + "\n")
