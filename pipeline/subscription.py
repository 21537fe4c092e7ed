"""Subscribe to a stack's events for a while, through a temporary queue and temporary EventBridge rules."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from model.sagemaker.account import PROJECT, ignore_missing, tags
from pipeline.queue import BATCH
from pipeline.stack import Stack, StackError

PROBE = "scones.subscription"
"""The source of the probe events that show that a subscription's rules are active."""
ACTIVE_WITHIN = 120.0
"""Seconds to wait for new rules to match; EventBridge promises 'a short period of time', usually a second."""
POLL = 1
"""Seconds of long polling."""


class Subscription:
    """A queue that receives the events that a rule on each of several buses matches."""

    def __init__(self, stack: Stack, url: str) -> None:
        self.sqs, self.events, self.url = stack.client("sqs"), stack.client("events"), url

    def wait_until_active(self, probes: Mapping[str, Mapping[str, Any]]) -> None:
        """Publish a probe on each bus until it arrives: a new rule does not match immediately.

        `probes` is, for each bus, the detail of an event that its rule matches. Raises `StackError` if
        a probe does not arrive within `ACTIVE_WITHIN` seconds.
        """
        pending, deadline = set(probes), time.monotonic() + ACTIVE_WITHIN
        while pending:
            if time.monotonic() > deadline:
                raise StackError(f"EventBridge delivered no probe within {ACTIVE_WITHIN:.0f} s: {self.url}")
            for bus in pending:
                probe = {"Source": PROBE, "DetailType": bus, "Detail": json.dumps(probes[bus])}
                self.events.put_events(Entries=[{"EventBusName": bus} | probe])
            pending -= {event["detail-type"] for event in self._receive() if event["source"] == PROBE}

    def received(self) -> list[dict[str, Any]]:
        """Return the events that have arrived, waiting up to a second; an event may arrive more than once."""
        return [event for event in self._receive() if event["source"] != PROBE]

    def _receive(self) -> list[dict[str, Any]]:
        messages = self.sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=POLL
        ).get("Messages", [])
        handles = [message["ReceiptHandle"] for message in messages]
        if entries := [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(handles)]:
            self.sqs.delete_message_batch(QueueUrl=self.url, Entries=entries)
        return [json.loads(message["Body"]) for message in messages]


@contextmanager
def subscribed(stack: Stack, name: str, patterns: Mapping[str, Mapping[str, Any]]) -> Iterator[Subscription]:
    """Create a subscription for a ``with`` block; afterwards delete its queue and rules, all called `name`.

    `patterns` is, for each bus, the event pattern of its rule, which also has to match the source `PROBE`.
    """
    sqs, events = stack.client("sqs"), stack.client("events")
    with ExitStack() as cleanup:
        attributes = {"SqsManagedSseEnabled": "true", "MessageRetentionPeriod": "86400"}
        url = sqs.create_queue(QueueName=name, Attributes=attributes, tags={"project": PROJECT})["QueueUrl"]
        cleanup.callback(ignore_missing, partial(sqs.delete_queue, QueueUrl=url))
        queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        rules = []
        for bus, pattern in patterns.items():
            rule, target = {"Name": name, "EventBusName": bus}, {"Rule": name, "EventBusName": bus}
            cleanup.callback(ignore_missing, partial(events.delete_rule, **rule))
            cleanup.callback(ignore_missing, partial(events.remove_targets, **target, Ids=["subscription"]))
            created = events.put_rule(**rule, EventPattern=json.dumps(pattern), Tags=tags())
            rules.append(created["RuleArn"])
            events.put_targets(**target, Targets=[{"Id": "subscription", "Arn": queue}])
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": queue,
            "Condition": {"ArnEquals": {"aws:SourceArn": rules}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
        yield Subscription(stack, url)
