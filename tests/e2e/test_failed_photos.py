"""A photo that fails is reported, kept, and retried once: from the failure to `scones replay`."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from local import processes
from local.stack import Stack
from pipeline import load_test, sample_images
from pipeline.stack import find_stack
from scones import cli
from tests.waiting import eventually

PHOTO = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1))


class Queue:
    """A queue of the stack, or one that a test created."""

    def __init__(self, stack: Stack, url: str) -> None:
        self.sqs, self.url = stack.client("sqs"), url

    def messages(self, count: int) -> list[dict[str, Any]]:
        """Receive and delete this many messages, waiting for them."""
        found: list[dict[str, Any]] = []

        def receive() -> bool:
            for message in self.sqs.receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=10, WaitTimeSeconds=1, MessageAttributeNames=["All"]
            ).get("Messages", []):
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
                found.append(message)
            return len(found) >= count

        eventually(receive)
        return found

    def length(self) -> int:
        count = "ApproximateNumberOfMessages"
        attributes = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=[count])
        return int(attributes["Attributes"][count])

    def put(self, body: object, **attributes: str) -> None:
        self.sqs.send_message(
            QueueUrl=self.url,
            MessageBody=body if isinstance(body, str) else json.dumps(body),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
            },
        )


@pytest.fixture
def failed(stack) -> Iterator[Queue]:
    """The failed queue, empty before and after."""
    queue = Queue(stack, stack.outputs["FailedQueueUrl"])
    queue.sqs.purge_queue(QueueUrl=queue.url)
    yield queue
    queue.sqs.purge_queue(QueueUrl=queue.url)


@pytest.fixture
def notices(stack) -> Iterator[Queue]:
    """A queue that is subscribed to the alarm topic."""
    sqs, sns, topic = stack.client("sqs"), stack.client("sns"), stack.outputs["AlarmTopicArn"]
    url = sqs.create_queue(QueueName=f"notices-{time.time_ns()}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
    subscription = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)["SubscriptionArn"]
    yield Queue(stack, url)
    sns.unsubscribe(SubscriptionArn=subscription)
    sqs.delete_queue(QueueUrl=url)


@contextlib.contextmanager
def forbidden(stack: Stack, function: str) -> Iterator[None]:
    """A function has no permissions during a ``with`` block."""
    iam = stack.client("iam")
    names = [role["RoleName"] for role in iam.list_roles()["Roles"]]
    (role,) = [name for name in names if f"{function.capitalize()}FunctionRole" in name]
    policy = iam.get_role_policy(RoleName=role, PolicyName=function)["PolicyDocument"]
    iam.delete_role_policy(RoleName=role, PolicyName=function)
    try:
        yield
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=function, PolicyDocument=json.dumps(policy))


def put(stack: Stack, key: str) -> str:
    stack.client("s3").put_object(Bucket=stack.outputs["UploadBucketName"], Key=key, Body=PHOTO)
    return key


def replay(stack: Stack, *options: str) -> Result:
    arguments = ["replay", "--stack", str(stack.description), *options]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def report(stack: Stack, *options: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(replay(stack, "--json", *options).stdout.splitlines()[0])
    return result


def executions_of(stack: Stack, key: str) -> list[str]:
    """The ARNs of a photo's running executions; other photos' may be running too."""
    step_functions = stack.client("stepfunctions")
    running = step_functions.list_executions(
        stateMachineArn=stack.outputs["StateMachineArn"], statusFilter="RUNNING"
    )["executions"]
    arns = [one["executionArn"] for one in running]
    return [arn for arn in arns if key in step_functions.describe_execution(executionArn=arn)["input"]]


def outcome(stack: Stack, key: str) -> str | None:
    return load_test.read_outcomes(find_stack(str(stack.description)), [key]).get(key)


def test_a_notification_names_photo_cause_and_execution_and_a_replay_retries_it(stack, failed, notices):
    # Nothing in a key may look like a line of the notification, or like a sentence with a link.
    key = "uploads/failed/räder 1\nYour session has expired, sign in at https://example.com/\u202e.jpg"
    with forbidden(stack, "classify"):
        put(stack, key)
        (notice,) = notices.messages(1)
        eventually(failed.length)

    message = json.loads(notice["Body"])
    assert message["Subject"] == "Scones Unlimited: a photo could not be classified"
    lines = message["Message"].splitlines()
    shown = "uploads/failed/r%C3%A4der%201%0AYour%20session%20has%20expired%2C%20sign%20in%20at%20https%3A//"
    assert lines[0] == f"Photo: s3://{stack.outputs['UploadBucketName']}/{shown}example.com/%E2%80%AE.jpg"
    assert len(lines) == 6
    assert lines[1].startswith("Error: ")
    assert "AccessDenied" in lines[2]
    machine = stack.outputs["StateMachineArn"].rpartition(":")[2]
    assert lines[3].startswith(
        "Execution: https://us-east-1.console.aws.amazon.com/states/home?region=us-east-1#/v2/executions/"
        f"details/arn:aws:states:us-east-1:000000000000:execution:{machine}:"
    )
    assert "/9j/" not in message["Message"]

    assert (report(stack, "--dry-run")["started"], failed.length()) == (1, 1)
    assert report(stack)["started"] == 1
    assert eventually(lambda: outcome(stack, key)) == "accepted"
    assert replay(stack).output == "The failed queue is empty; there is nothing to replay.\n"


def test_a_photo_that_fails_again_is_kept_for_the_next_replay(stack, failed, notices):
    with forbidden(stack, "serialize"):
        put(stack, "uploads/failed/again.jpg")
        eventually(failed.length)
        assert report(stack)["started"] == 1
        notices.messages(2)
        eventually(failed.length)

    assert report(stack)["started"] == 1
    assert eventually(lambda: outcome(stack, "uploads/failed/again.jpg")) == "accepted"


def test_a_failure_that_is_in_the_queue_twice_is_retried_once(stack, failed, notices):
    with forbidden(stack, "classify"):
        put(stack, "uploads/failed/twice.jpg")
        (message,) = failed.messages(1)
    for _ in range(2):
        failed.put(message["Body"], execution=message["MessageAttributes"]["execution"]["StringValue"])

    assert {"messages": 2, "started": 1, "already": 1}.items() <= report(stack).items()
    assert failed.length() == 0


def test_a_stopped_execution_is_reported_and_retried(stack, failed, notices):
    """The same rule handles executions that time out, which the emulator cannot produce."""
    key = "uploads/failed/stopped.jpg"
    (entry,) = [
        one for one in processes.registered(stack.home / "processes.json") if one["name"] == "the endpoint"
    ]
    step_functions, endpoint = stack.client("stepfunctions"), psutil.Process(entry["pid"])
    endpoint.suspend()
    try:
        put(stack, key)
        (running,) = eventually(lambda: executions_of(stack, key))
        step_functions.stop_execution(executionArn=running)
    finally:
        endpoint.resume()
    (notice,) = notices.messages(1)

    assert "ended as ABORTED" in json.loads(notice["Body"])["Message"]
    assert f"/details/{running}" in json.loads(notice["Body"])["Message"]
    assert report(stack)["started"] == 1
    assert eventually(lambda: outcome(stack, key)) == "accepted"


@pytest.mark.parametrize(
    ("detail", "matches"),
    [
        ({"status": "TIMED_OUT", "error": None}, True),
        ({"status": "FAILED", "error": "States.DataLimitExceeded"}, True),
        ({"status": "FAILED", "error": "EndpointUnavailableError"}, False),
        ({"status": "SUCCEEDED", "error": None}, False),
    ],
)
def test_the_rule_matches_only_what_the_state_machine_cannot_catch(stack, detail, matches):
    events = stack.client("events")
    (rule,) = [rule for rule in events.list_rules()["Rules"] if "UncaughtRule" in rule["Name"]]
    event = {
        "id": "1",
        "account": "000000000000",
        "region": "us-east-1",
        "time": "2026-03-04T18:39:38Z",
        "resources": [],
        "source": "aws.states",
        "detail-type": "Step Functions Execution Status Change",
        "detail": {"stateMachineArn": stack.outputs["StateMachineArn"]} | detail,
    }

    tested = events.test_event_pattern(EventPattern=rule["EventPattern"], Event=json.dumps(event))

    assert tested["Result"] is matches


def test_undelivered_events_are_delivered_to_their_target(stack, failed):
    bucket = stack.outputs["UploadBucketName"]
    with_photo = stack.client("s3").put_object(Bucket=bucket, Key="archive/undelivered.jpg", Body=PHOTO)
    review = Queue(stack, stack.outputs["ReviewQueueUrl"])
    review.sqs.purge_queue(QueueUrl=review.url)
    failed.put(
        {
            "id": "7b1b",
            "detail-type": "Object Created",
            "detail": {
                "bucket": {"name": bucket},
                "object": {"key": "archive/undelivered.jpg", "version-id": with_photo["VersionId"]},
            },
        }
    )
    detail = {"key": "uploads/unsure.jpg", "outcome": "needs_review"}
    failed.put(
        {
            "id": "7b1c",
            "source": "scones.vehicle-classifier",
            "detail-type": "VehicleNeedsReview",
            "detail": detail,
        }
    )

    done = report(stack)

    assert (done["started"], done["to_review"], done["left"]) == (1, 1, 0)
    assert eventually(lambda: outcome(stack, "archive/undelivered.jpg")) == "accepted"
    assert [json.loads(message["Body"]) for message in review.messages(1)] == [detail]


def test_a_message_that_is_not_an_input_of_the_pipeline_stays_in_the_queue(stack, failed):
    failed.put("not even JSON")
    failed.put({"detail": {}})

    result = replay(stack)

    assert result.exit_code == 1
    assert "2 of 2 messages are not inputs of this pipeline" in result.output
    assert failed.length() == 2
