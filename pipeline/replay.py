"""Retry failed photos once each, from the failed queue."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from botocore.exceptions import ClientError
from rich.progress import Progress

from pipeline import queue
from pipeline.stack import Stack

HIDDEN = 900
"""Seconds for which a message taken is nobody else's: more than replaying a long queue takes."""


class Work(NamedTuple):
    """What to do about a message: start an execution with an input, or have a result reviewed.

    ``cause`` is the ARN or the id of what failed: two messages of one cause are one piece of work.
    """

    to: Literal["execution", "review"]
    body: Mapping[str, Any]
    cause: str


@dataclass
class Replayed:
    """What became of the messages.

    Attributes
    ----------
    messages
        Taken from the failed queue.
    started
        Whose executions were started.
    already
        Whose executions had been started before: by a replay that broke off, or for the same message, which
        SQS may deliver twice.
    to_review
        Results that had not come to the review queue, put there.
    left
        No input of this pipeline: they stay in the queue.
    executions
        The ARNs of those started.
    """

    messages: int = 0
    started: int = 0
    already: int = 0
    to_review: int = 0
    left: int = 0
    executions: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        already = f", {self.already} had been started before" if self.already else ""
        review = f", {self.to_review} to the review queue" if self.to_review else ""
        left = f", {self.left} left" if self.left else ""
        return f"{self.messages} messages: {self.started} started{already}{review}{left}"


def replay(stack: Stack, progress: Progress, *, dry_run: bool = False) -> Replayed:
    """Put each message of the failed queue through once.

    Parameters
    ----------
    stack
        Whose queue.
    progress
        Where to show how far it is.
    dry_run
        Whether to count only, and leave every message in the queue.

    Raises
    ------
    botocore.exceptions.ClientError
        An execution could not be started, for another reason than that it had been; what was not put
        through is back in the queue.
    """
    sqs, url, account = stack.client("sqs"), stack.output("FailedQueueUrl"), Replayed()
    bar = progress.add_task("Replaying", total=queue.waiting(sqs, url))
    hidden: list[str] = []
    try:
        for messages in queue.taken(sqs, url, HIDDEN):
            hidden += [message["ReceiptHandle"] for message in messages]
            for message in messages:
                todo = work(message)
                if todo and todo.cause in account.executions:
                    continue  # started a moment ago, and failed again: for the next replay
                account.messages += 1
                progress.advance(bar)
                if put_through(stack, todo, account, dry_run=dry_run):
                    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                    hidden.remove(message["ReceiptHandle"])
    finally:
        for handle in hidden:
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
    return account


def put_through(stack: Stack, todo: Work | None, account: Replayed, *, dry_run: bool) -> bool:
    """Do what a message asks for, and count it; return whether it is done with."""
    if todo is None:
        account.left += 1
    elif todo.to == "review":
        account.to_review += 1
        if not dry_run:
            stack.client("sqs").send_message(
                QueueUrl=stack.output("ReviewQueueUrl"), MessageBody=json.dumps(todo.body)
            )
    elif dry_run:
        account.started += 1
    elif execution := start(stack, todo):
        account.started += 1
        account.executions.append(execution)
    else:
        account.already += 1
    return todo is not None and not dry_run


def work(message: Mapping[str, Any]) -> Work | None:
    """Read a message of the failed queue; ``None`` if it is none of this pipeline's.

    There are three writers: the state machine's own Catch (an execution's input, with its claim), the rule
    for executions in which nothing can be caught (Step Functions' event about one), and rules whose target
    did not take an event for a day (the event).
    """
    try:
        told = json.loads(message["Body"])
    except ValueError:
        return None
    failed = message.get("MessageAttributes", {}).get("execution", {}).get("StringValue")
    match told:
        case {"source": "aws.states", "detail": {"executionArn": str(arn), "input": str(given)}}:
            return Work("execution", {"claim": arn} | json.loads(given), arn)
        case {"detail-type": "VehicleNeedsReview", "detail": dict(detail), "id": str(event)}:
            return Work("review", detail, event)
        case {"detail": {"bucket": {"name": str()}, "object": {"key": str()}}}:
            return Work("execution", told, failed or told.get("id") or message["MessageId"])
    return None


def start(stack: Stack, todo: Work) -> str | None:
    """Start an execution and return its ARN; ``None`` if there is one for this cause."""
    name = f"replay-{hashlib.sha256(todo.cause.encode()).hexdigest()[:32]}"
    try:
        answer = stack.client("stepfunctions").start_execution(
            stateMachineArn=stack.output("StateMachineArn"), name=name, input=json.dumps(todo.body)
        )
    except ClientError as error:
        if error.response["Error"]["Code"] == "ExecutionAlreadyExists":
            return None
        raise
    return str(answer["executionArn"])
