"""An account of photos: what was sent, and where each is now."""

import json
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.stack import Stack
from pipeline import load_test
from pipeline.stack import find
from pipeline.subscription import Subscription, subscribed

FIGURES = Path(__file__).parents[1] / ".local" / "reliability" / "counts.jsonl"
"""What the tests of this run have counted, for docs/reliability.md."""
PATIENCE = 240.0
"""Seconds in which something has to happen, on a machine that is busy."""


@dataclass
class Account:
    """Where photos are, by key.

    ``outcomes`` is what the results table says of those that are not in the failed queue; ``failed`` counts
    messages there, ``published`` events on the results bus, ``reviews`` messages in the review queue.
    """

    sent: set[str]
    outcomes: dict[str, str] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    published: Counter[str] = field(default_factory=Counter)
    reviews: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> set[str]:
        """Neither has a result, nor waits in the failed queue."""
        return self.sent - self.outcomes.keys() - self.failed.keys()

    @property
    def double(self) -> set[str]:
        """Published, put to review, or waiting to be replayed more than once."""
        counts = (self.failed, self.published, self.reviews)
        return {key for count in counts for key in count if count[key] > 1}

    def assert_adds_up(self) -> None:
        """Sent = accepted + in review + rejected + in the failed queue; nothing lost, nothing double."""
        assert not self.lost
        assert not self.double
        of = Counter(self.outcomes.values())
        assert of.keys() <= {"accepted", "needs_review", "rejected"}
        assert len(self.sent) == of.total() + len(self.failed)

    def assert_all_is_done(self) -> None:
        """It adds up, nothing failed, and each result was published and, where it has to, put to review."""
        self.assert_adds_up()
        assert not self.failed
        assert self.published.keys() == self.sent
        assert self.reviews.keys() == {key for key, is_ in self.outcomes.items() if is_ == "needs_review"}


class Books:
    """Keeps the account of all photos under a prefix, from the moment it is opened."""

    def __init__(self, stack: Stack, prefix: str, subscription: Subscription) -> None:
        self.stack, self.prefix, self.subscription = stack, prefix, subscription
        self.account = Account(set())

    def send(self, key: str, body: bytes) -> None:
        self.stack.client("s3").put_object(Bucket=self.stack.outputs["UploadBucketName"], Key=key, Body=body)
        self.account.sent.add(key)

    def settle(self) -> Account:
        """The account once no execution runs."""
        step_functions, since = self.stack.client("stepfunctions"), time.monotonic()
        asked = {"stateMachineArn": self.stack.outputs["StateMachineArn"], "statusFilter": "RUNNING"}
        while step_functions.list_executions(**asked)["executions"]:
            assert time.monotonic() - since < PATIENCE, "executions still run"
            time.sleep(0.3)
        while events := list(self.subscription.received()):
            self.account.published.update(event["detail"]["key"] for event in events)
        self.account.failed = Counter(key for body in self._in("FailedQueueUrl") for key in keys(body))
        reviews = (json.loads(body)["key"] for body in self._in("ReviewQueueUrl"))
        self.account.reviews = Counter(key for key in reviews if key in self.account.sent)
        known = find(str(self.stack.description))
        found = load_test.outcomes(known, sorted(self.account.sent))
        self.account.outcomes = {key: found[key] for key in found if key not in self.account.failed}
        return self.account

    def _in(self, queue: str) -> Iterator[str]:
        """Every message in a queue, which stays there."""
        sqs, url = self.stack.client("sqs"), self.stack.outputs[queue]
        handles = []
        asked = {"QueueUrl": url, "MaxNumberOfMessages": 10, "VisibilityTimeout": 300}
        while messages := sqs.receive_message(**asked).get("Messages"):
            handles += [message["ReceiptHandle"] for message in messages]
            yield from (message["Body"] for message in messages)
        for handle in handles:
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)


def keys(body: str) -> Collection[str]:
    """The photo that a message of the failed queue is about."""
    detail: dict[str, Any] = json.loads(body)["detail"]
    return [detail["object"]["key"] if "object" in detail else detail["key"]]


@contextmanager
def books(stack: Stack, prefix: str) -> Iterator[Books]:
    """Open the books for a ``with`` block; both queues are emptied before."""
    sqs = stack.client("sqs")
    for queue in ("FailedQueueUrl", "ReviewQueueUrl"):
        sqs.purge_queue(QueueUrl=stack.outputs[queue])
    bus = stack.outputs["ResultsBusName"]
    pattern = {"detail": {"key": [{"prefix": prefix}]}}
    name = f"books-{time.time_ns()}"
    with subscribed(find(str(stack.description)), name, {bus: pattern}) as subscription:
        subscription.wait_until_heard({bus: {"key": prefix}})
        yield Books(stack, prefix, subscription)


def note(**figures: int) -> None:
    """Add to the figures of this run: a line, as tests may do so side by side."""
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    with FIGURES.open("a") as file:
        file.write(json.dumps(figures) + "\n")
