"""Retry each failed photo once, from the failed queue."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from rich.progress import Progress

from pipeline.queue import approximate_count, receive_all
from pipeline.stack import Stack

VISIBILITY_TIMEOUT = 900
"""Seconds for which received messages stay hidden; replaying a long queue takes less."""


class Retry(NamedTuple):
    """How to retry what a message reports: start an execution, or send a result to review."""

    target: Literal["execution", "review"]
    body: Mapping[str, Any]
    cause: str  # ARN of the failed execution or id of the event; the same cause is retried once


@dataclass
class ReplayReport:
    """The number of messages by what was done with them, and the ARNs of the executions started."""

    messages: int = 0
    started: int = 0
    already: int = 0  # started before, by an interrupted replay or for the same message delivered twice
    to_review: int = 0  # results that had not reached the review queue, sent there
    left: int = 0  # not inputs of this pipeline; they stay in the queue
    executions: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        already = f", {self.already} had been started before" if self.already else ""
        review = f", {self.to_review} sent to the review queue" if self.to_review else ""
        left = f", {self.left} left in the queue" if self.left else ""
        return f"{self.messages} messages: {self.started} started{already}{review}{left}"


def replay(stack: Stack, progress: Progress, *, dry_run: bool = False) -> ReplayReport:
    """Retry each message of the failed queue once; a dry run only counts them.

    Raises `ClientError` if an execution cannot be started. Messages that were not retried are released.
    """
    sqs, url, report = stack.client("sqs"), stack.output("FailedQueueUrl"), ReplayReport()
    bar = progress.add_task("Replaying", total=approximate_count(sqs, url))
    hidden: list[str] = []
    try:
        for messages in receive_all(sqs, url, VISIBILITY_TIMEOUT):
            hidden += [message["ReceiptHandle"] for message in messages]
            for message in messages:
                retry = _parse_message(message)
                if retry and retry.cause in report.executions:
                    continue  # an execution of this replay that has failed again: left for the next replay
                report.messages += 1
                progress.advance(bar)
                if _perform(stack, retry, report, dry_run=dry_run):
                    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                    hidden.remove(message["ReceiptHandle"])
    finally:
        for handle in hidden:
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
    return report


def _perform(stack: Stack, retry: Retry | None, report: ReplayReport, *, dry_run: bool) -> bool:
    """Retry and count a message; return whether to delete it."""
    if retry is None:
        report.left += 1
    elif retry.target == "review":
        report.to_review += 1
        if not dry_run:
            url, body = stack.output("ReviewQueueUrl"), json.dumps(retry.body)
            stack.client("sqs").send_message(QueueUrl=url, MessageBody=body)
    elif dry_run:
        report.started += 1
    elif execution := _start_execution(stack, retry):
        report.started += 1
        report.executions.append(execution)
    else:
        report.already += 1
    return retry is not None and not dry_run


def _parse_message(message: Mapping[str, Any]) -> Retry | None:
    """Return how to retry a message of the failed queue; ``None`` if the pipeline did not write it.

    Three sources write to the queue: the state machine's own Catch (an execution's input, with its claim),
    the rule for executions whose errors cannot be caught (Step Functions' event about the execution), and
    rules that could not deliver an event to their target for a day (that event).
    """
    body = _parse_object(message["Body"])
    failed = message.get("MessageAttributes", {}).get("execution", {}).get("StringValue")
    match body:
        case {
            "source": "aws.states",
            "detail": {"executionArn": str(arn), "input": str(execution_input)},
        } if started_with := _parse_object(execution_input):
            return Retry("execution", {"claim": arn} | started_with, arn)
        case {"detail-type": "VehicleNeedsReview", "detail": dict(detail), "id": str(event_id)}:
            return Retry("review", detail, event_id)
        case {"detail": {"bucket": {"name": str()}, "object": {"key": str()}}}:
            return Retry("execution", body, failed or body.get("id") or message["MessageId"])
    return None


def _parse_object(text: str) -> dict[str, Any]:
    """Parse a JSON object; return an empty one if the text is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _start_execution(stack: Stack, retry: Retry) -> str | None:
    """Start an execution and return its ARN; ``None`` if one was started for the same cause before."""
    name = f"replay-{hashlib.sha256(retry.cause.encode()).hexdigest()[:32]}"
    try:
        return stack.start_execution("StateMachineArn", retry.body, name=name)
    except stack.client("stepfunctions").exceptions.ExecutionAlreadyExists:
        return None
