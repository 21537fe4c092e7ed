"""Listen to a stack's events for a while: a queue and rules of our own, of which nothing is left."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from model.sagemaker.account import PROJECT, ignore_missing
from pipeline.queue import BATCH
from pipeline.stack import Stack, StackError

PROBE = "scones.subscription"
"""The source of the events by which a subscription knows that its rules are at work."""
LISTENING_WITHIN = 120.0
"""Seconds that rules are given to begin; EventBridge says 'a short period of time', mostly one or two."""
POLL = 1
"""Seconds that a look into the queue waits for something."""


class Subscription:
    """What rules let through, in a queue.

    Parameters
    ----------
    stack
        Whose events.
    name
        Of the queue and, with a bus's name, of the rules.
    patterns
        The event pattern of a rule on each bus. A probe has to match it: see `probe`.
    """

    def __init__(self, stack: Stack, name: str, patterns: Mapping[str, Mapping[str, Any]]) -> None:
        self.sqs, self.events = stack.client("sqs"), stack.client("events")
        self.name, self.patterns = name, patterns
        self.url = ""

    def make(self) -> None:
        """Make the queue and the rules."""
        self.url = self.sqs.create_queue(
            QueueName=self.name,
            Attributes={"SqsManagedSseEnabled": "true", "MessageRetentionPeriod": "86400"},
            tags={"project": PROJECT},
        )["QueueUrl"]
        queue = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        arn = queue["Attributes"]["QueueArn"]
        rules = [
            self.events.put_rule(
                Name=self.name,
                EventBusName=bus,
                EventPattern=json.dumps(pattern),
                Tags=[{"Key": "project", "Value": PROJECT}],
            )["RuleArn"]
            for bus, pattern in self.patterns.items()
        ]
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
            "Condition": {"ArnEquals": {"aws:SourceArn": rules}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.sqs.set_queue_attributes(QueueUrl=self.url, Attributes={"Policy": policy})
        for bus in self.patterns:
            self.events.put_targets(
                Rule=self.name, EventBusName=bus, Targets=[{"Id": "subscription", "Arn": arn}]
            )

    def wait_until_heard(self, probes: Mapping[str, Mapping[str, Any]]) -> None:
        """Send an event on each bus until it arrives: a rule does not begin at once.

        Parameters
        ----------
        probes
            A detail for each bus that its rule lets through.

        Raises
        ------
        StackError
            It did not in two minutes.
        """
        unheard, give_up_at = set(probes), time.monotonic() + LISTENING_WITHIN
        while unheard:
            if time.monotonic() > give_up_at:
                raise StackError(f"no event came through the rule {self.name} in {LISTENING_WITHIN:.0f} s")
            self.events.put_events(
                Entries=[
                    {
                        "EventBusName": bus,
                        "Source": PROBE,
                        "DetailType": bus,
                        "Detail": json.dumps(probes[bus]),
                    }
                    for bus in unheard
                ]
            )
            unheard -= {event["detail-type"] for event in self._received() if event["source"] == PROBE}

    def received(self) -> Iterator[dict[str, Any]]:
        """Yield the events that have come, after a second at most; now and then the same one twice."""
        yield from (event for event in self._received() if event["source"] != PROBE)

    def _received(self) -> list[dict[str, Any]]:
        messages = self.sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=POLL
        ).get("Messages", [])
        if messages:
            self.sqs.delete_message_batch(
                QueueUrl=self.url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ],
            )
        return [json.loads(message["Body"]) for message in messages]

    def remove(self) -> None:
        """Delete the rules and the queue, as far as they were made."""
        for bus in self.patterns:
            target = {"Rule": self.name, "EventBusName": bus, "Ids": ["subscription"]}
            ignore_missing(partial(self.events.remove_targets, **target))
            ignore_missing(partial(self.events.delete_rule, Name=self.name, EventBusName=bus))
        if self.url:
            ignore_missing(partial(self.sqs.delete_queue, QueueUrl=self.url))


@contextmanager
def subscribed(stack: Stack, name: str, patterns: Mapping[str, Mapping[str, Any]]) -> Iterator[Subscription]:
    """Have a subscription for a ``with`` block, and nothing of it afterwards."""
    subscription = Subscription(stack, name, patterns)
    try:
        subscription.make()
        yield subscription
    finally:
        subscription.remove()
