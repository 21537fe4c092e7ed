"""A replay retries each message of the failed queue once, and leaves those that are not the pipeline's."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from rich.progress import Progress

from pipeline.replay import VISIBILITY_TIMEOUT, ReplayReport, replay
from pipeline.stack import Stack
from tests.aws_shapes import recording

UPLOAD = {"detail": {"bucket": {"name": "uploads"}, "object": {"key": "uploads/a.jpg"}}}
FAILED = "arn:aws:states:us-east-1:123456789012:execution:classify:failed"
DEFINITION = {"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}
ROLE = "arn:aws:iam::123456789012:role/classify"


class Queues:
    """A stack's failed queue, review queue and state machine."""

    def __init__(self) -> None:
        session = boto3.Session(region_name="us-east-1")
        self.sqs, self.machines = session.client("sqs"), session.client("stepfunctions")
        machine = self.machines.create_state_machine(
            name="classify", definition=json.dumps(DEFINITION), roleArn=ROLE
        )
        self.outputs = {
            "FailedQueueUrl": self.sqs.create_queue(QueueName="failed")["QueueUrl"],
            "ReviewQueueUrl": self.sqs.create_queue(QueueName="review")["QueueUrl"],
            "StateMachineArn": machine["stateMachineArn"],
        }
        self.stack = Stack("test", session, self.outputs)

    def fail(self, body: object, execution: str | None = None) -> None:
        """Put a message into the failed queue, with the attribute that the state machine's Catch adds."""
        attribute = {"execution": {"DataType": "String", "StringValue": execution}} if execution else {}
        text = body if isinstance(body, str) else json.dumps(body)
        url = self.outputs["FailedQueueUrl"]
        self.sqs.send_message(QueueUrl=url, MessageBody=text, MessageAttributes=attribute)

    def replay(self, **options: bool) -> ReplayReport:
        return replay(self.stack, Progress(disable=True), **options)

    def waiting(self, queue: str) -> list[str]:
        """The bodies of the messages that anybody can receive now."""
        received = self.sqs.receive_message(
            QueueUrl=self.outputs[queue], MaxNumberOfMessages=10, VisibilityTimeout=0
        )
        return [message["Body"] for message in received.get("Messages", [])]

    def started(self) -> dict[str, Any]:
        """The input of each execution by its ARN."""
        arn = self.outputs["StateMachineArn"]
        listed = self.machines.list_executions(stateMachineArn=arn)["executions"]
        arns = [execution["executionArn"] for execution in listed]
        return {one: json.loads(self.machines.describe_execution(executionArn=one)["input"]) for one in arns}


@pytest.fixture
def queues(monkeypatch) -> Iterator[Queues]:
    monkeypatch.setattr("pipeline.queue.EMPTY_AFTER", 0)
    with mock_aws():
        yield Queues()


def test_an_empty_queue_has_nothing_to_replay(queues):
    assert queues.replay() == ReplayReport()


def test_an_input_of_a_failed_execution_is_started_again_with_its_claim(queues):
    body = UPLOAD | {"id": "1", "claim": FAILED}
    queues.fail(body, FAILED)

    report = queues.replay()

    (started,) = queues.started().items()
    assert started[1] == body
    assert report == ReplayReport(messages=1, started=1, executions=[started[0]])
    assert queues.waiting("FailedQueueUrl") == []


def test_an_execution_that_was_ended_is_started_again_under_its_own_claim(queues):
    """The event about an execution has its input, which has a claim only if it was a replay itself."""
    for number, given in enumerate(({}, {"claim": "earlier"})):
        detail = {"executionArn": f"{FAILED}-{number}", "input": json.dumps(UPLOAD | given)}
        queues.fail({"source": "aws.states", "detail": detail})

    assert queues.replay().started == 2

    claims = {one["claim"] for one in queues.started().values()}
    assert claims == {f"{FAILED}-0", "earlier"}
    assert all(one["detail"] == UPLOAD["detail"] for one in queues.started().values())


def test_an_upload_that_could_not_be_delivered_is_started(queues):
    queues.fail(UPLOAD | {"id": "event"})

    assert queues.replay().started == 1
    assert list(queues.started().values()) == [UPLOAD | {"id": "event"}]


def test_a_result_that_could_not_be_delivered_is_sent_to_review(queues):
    detail = {"photo": "s3://uploads/a.jpg", "label": "bicycle"}
    queues.fail({"detail-type": "VehicleNeedsReview", "detail": detail, "id": "1"})

    report = queues.replay()

    assert (report.messages, report.to_review, report.started) == (1, 1, 0)
    assert [json.loads(body) for body in queues.waiting("ReviewQueueUrl")] == [detail]
    assert queues.waiting("FailedQueueUrl") == []
    assert queues.started() == {}


@pytest.mark.parametrize(
    ("messages", "attribute"),
    [
        ([UPLOAD | {"id": "same"}, UPLOAD | {"id": "same", "time": "later"}], None),
        ([UPLOAD | {"id": "1"}, UPLOAD | {"id": "2"}], FAILED),
    ],
)
def test_the_same_cause_is_started_once_even_by_two_replays(queues, messages, attribute):
    """By the failed execution if the message names one, and otherwise by the event."""
    reports = []
    for message in messages:
        queues.fail(message, attribute)
        reports.append(queues.replay())

    assert [(report.started, report.already) for report in reports] == [(1, 0), (0, 1)]
    assert len(queues.started()) == 1
    assert queues.waiting("FailedQueueUrl") == []


def test_events_without_an_id_are_told_apart_by_their_messages(queues):
    queues.fail(UPLOAD)
    queues.fail(UPLOAD)

    assert queues.replay().started == 2


FOREIGN = [
    "no JSON",
    "[]",
    '"text"',
    "{}",
    '{"detail": {"bucket": {"name": 1}, "object": {"key": "a"}}}',
    '{"detail": {"bucket": {"name": "a"}, "object": {}}}',
    '{"detail-type": "VehicleNeedsReview", "detail": [], "id": "1"}',
    '{"source": "aws.states", "detail": {"executionArn": "arn"}}',
    '{"source": "aws.states", "detail": {"executionArn": "arn", "input": "no JSON"}}',
    '{"source": "aws.states", "detail": {"executionArn": "arn", "input": "[1]"}}',
    "7",
    "[" * 100_000,
]


@pytest.mark.parametrize("body", FOREIGN)
def test_a_message_of_somebody_else_stays_and_can_be_received_at_once(queues, body):
    queues.fail(body)

    report = queues.replay()

    assert report == ReplayReport(messages=1, left=1)
    assert queues.waiting("FailedQueueUrl") == [body]


def test_a_dry_run_counts_and_changes_nothing(queues):
    queues.fail(UPLOAD | {"id": "1"})
    queues.fail({"detail-type": "VehicleNeedsReview", "detail": {}, "id": "2"})
    queues.fail("no JSON")

    report = queues.replay(dry_run=True)

    assert report == ReplayReport(messages=3, started=1, to_review=1, left=1)
    assert queues.started() == {}
    assert len(queues.waiting("FailedQueueUrl")) == 3
    assert queues.waiting("ReviewQueueUrl") == []


def test_messages_are_released_if_an_execution_cannot_be_started(queues):
    queues.fail(UPLOAD | {"id": "1"})
    queues.fail(UPLOAD | {"id": "2"})
    queues.outputs["StateMachineArn"] += "-gone"

    with pytest.raises(ClientError):
        queues.replay()

    assert len(queues.waiting("FailedQueueUrl")) == 2


def test_a_photo_that_fails_again_during_the_replay_is_left_for_the_next(queues, monkeypatch):
    """Otherwise a replay of a fault that lasts would never end."""
    queues.fail(UPLOAD | {"id": "1"})
    start = Stack.start_execution

    def start_and_fail(self, machine, body, **name):
        execution = start(self, machine, body, **name)
        queues.fail(body, execution)
        return execution

    monkeypatch.setattr(Stack, "start_execution", start_and_fail)

    report = queues.replay()

    assert (report.messages, report.started) == (1, 1)
    assert len(queues.waiting("FailedQueueUrl")) == 1


def test_messages_are_hidden_while_they_are_replayed(queues):
    queues.fail(UPLOAD | {"id": "1"})

    with recording() as calls:
        fresh = Stack("test", boto3.Session(region_name="us-east-1"), queues.outputs)
        replay(fresh, Progress(disable=True))

    assert {request["VisibilityTimeout"] for request in calls.of("ReceiveMessage")} == {VISIBILITY_TIMEOUT}
    assert calls.violations == []


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (ReplayReport(messages=2, started=2), "2 messages: 2 started"),
        (
            ReplayReport(messages=9, started=4, already=1, to_review=2, left=3),
            "9 messages: 4 started, 1 had been started before, "
            "2 sent to the review queue, 3 left in the queue",
        ),
    ],
)
def test_the_report_says_what_was_done(report, text):
    assert str(report) == text


def test_progress_counts_messages(queues):
    for number in range(3):
        queues.fail(UPLOAD | {"id": str(number)})
    progress = Progress(disable=True)

    replay(queues.stack, progress)

    (task,) = progress.tasks
    assert (task.completed, task.total) == (3, 3)
