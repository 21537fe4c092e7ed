"""Each command's policy is enough, and without any of its actions the command fails."""

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.exceptions import ClientError
from rich.progress import Progress

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import CaptureError, ReadCounts, TimeWindow
from local.stack import CAPTURE_URI, ENDPOINT_NAME, Stack
from pipeline import backfill, load_test, queue, subscription
from pipeline import stack as deployed
from pipeline.load_test import LoadTest
from pipeline.monitoring import ground_truth
from pipeline.replay import replay
from tests import permissions
from tests.permissions import Permission, Person
from tests.waiting import PATIENCE, eventually

QUIET = Progress(disable=True)


def find(stack: deployed.Stack) -> None:
    """Find the stack in AWS as each command does; a local stack is in a file."""
    stack.client("cloudformation").describe_stacks(StackName=stack.name)


def run_replay(stack: deployed.Stack, local: Stack) -> None:
    """Replay an upload, a result for review and a message of somebody else's."""
    bucket, sqs, url = stack.output("UploadBucketName"), local.client("sqs"), stack.output("FailedQueueUrl")
    photo = {"bucket": {"name": bucket}, "object": {"key": "uploads/replayed.jpg"}}
    event_id = uuid.uuid4().hex
    result = {"detail-type": "VehicleNeedsReview", "id": event_id, "detail": {"key": "uploads/replayed.jpg"}}
    sqs.purge_queue(QueueUrl=url)
    for body in ({"detail": photo, "id": event_id}, result, {"not": "ours"}):
        sqs.send_message(QueueUrl=url, MessageBody=json.dumps(body))

    find(stack)
    report = replay(stack, QUIET)

    assert (report.started, report.to_review, report.left) == (1, 1, 1)


def run_backfill(stack: deployed.Stack, local: Stack) -> None:
    """Start a backfill, follow it to its end and report on it; then stop another."""
    prefix = f"archive/permitted-{uuid.uuid4().hex[:8]}/"
    local.client("s3").put_object(
        Bucket=stack.output("UploadBucketName"), Key=f"{prefix}photo.jpg", Body=b"no photo"
    )

    find(stack)
    assert backfill.count_photos(stack, prefix) == 1
    assert backfill.find_running(stack, prefix) is None
    execution = backfill.start(stack, prefix, None, None)
    assert not backfill.follow(stack, execution, QUIET)
    report, failure = backfill.summarize(stack, execution)
    assert (report.done, report.rejected, failure) == (1, 1, None)
    stopped = backfill.start(stack, prefix, None, None)
    stack.client("stepfunctions").stop_execution(executionArn=stopped)  # as `follow` does on Ctrl-C


def run_traffic(stack: deployed.Stack, local: Stack) -> None:
    """Send a photo twice, look for failures, and delete it again."""
    prefix = f"{load_test.PREFIX}permitted-{uuid.uuid4().hex[:8]}/"
    planned = load_test.plan_photos(prefix, 1, None, bad=0, other=0, duplicates=1)

    find(stack)
    test = LoadTest(stack, prefix, planned, QUIET, rate=None, patience=PATIENCE)
    report = test.run()
    test._find_failures()
    load_test.delete_photos(stack, prefix, test.statuses)

    assert report.passed


def run_monitor(stack: deployed.Stack, local: Stack) -> None:
    """Read the endpoint's captures and the answers of reviewers."""
    now = datetime.now(UTC)
    source = f"{CAPTURE_URI}/{ENDPOINT_NAME}"
    bucket, prefix = captures.split_uri(source)
    local.client("s3").put_object(
        Bucket=bucket, Key=f"{prefix}/AllTraffic/{now:%Y/%m/%d/%H}/00-00-000-permitted.jsonl", Body=b"{}"
    )
    photo = {"bucket": stack.output("UploadBucketName"), "key": "uploads/permitted.jpg"}
    answer = {"data": "other", "encoding": "CSV"}
    record = {"groundTruthData": answer, "eventMetadata": {"eventId": "permitted"}, "photo": photo}
    local.client("s3").put_object(
        Bucket=stack.output("UploadBucketName"), Key="ground-truth/permitted.jsonl", Body=json.dumps(record)
    )
    counts = ReadCounts()

    list(captures.read(source, TimeWindow(now - timedelta(hours=1), now + timedelta(hours=1)), counts))
    truth = ground_truth.read_truth(stack.output("GroundTruthUri"))

    assert counts.files
    assert truth["permitted"] == "other"


COMMANDS: dict[str, Callable[[deployed.Stack, Stack], None]] = {
    "ReplayPolicy": run_replay,
    "BackfillPolicy": run_backfill,
    "TrafficPolicy": run_traffic,
    "MonitorPolicy": run_monitor,
}
UNCHECKED = {
    "sqs:TagQueue": "the emulator does not authorize the tags of a new queue",
    "events:TagResource": "the emulator does not authorize the tags of a new rule",
}
"""Actions that AWS authorizes and the emulator does not, and why removing them goes unnoticed here."""
PERMISSIONS = [
    permission
    for policy in COMMANDS
    for permission in permissions.of(policy)
    if permission.action not in UNCHECKED
]


@pytest.fixture(scope="module")
def people(stack) -> dict[str, Person]:
    """For each policy, a person who may do what it allows."""
    return {policy: Person(stack, f"{policy}Arn") for policy in COMMANDS}


@pytest.fixture(autouse=True)
def impatient(stack, monkeypatch) -> Iterator[None]:
    """Do not wait for what does not come."""
    monkeypatch.setattr(queue, "EMPTY_AFTER", 0)
    monkeypatch.setattr("pipeline.replay.VISIBILITY_TIMEOUT", 1)
    monkeypatch.setattr(load_test, "SETTLING", 0)
    monkeypatch.setattr(subscription, "ACTIVE_WITHIN", 30)
    yield
    for name in ("FailedQueueUrl", "ReviewQueueUrl"):
        stack.client("sqs").purge_queue(QueueUrl=stack.outputs[name])
    wait_for_backfills(stack)


def wait_for_backfills(stack: Stack) -> None:
    """Wait until no backfill is running; a command that fails may leave one."""
    step_functions, machine = stack.client("stepfunctions"), stack.outputs["BackfillStateMachineArn"]
    running = {"stateMachineArn": machine, "statusFilter": "RUNNING"}
    eventually(lambda: not step_functions.list_executions(**running)["executions"])


def run_as(person: Person, policy: str, local: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a policy's command as a person; `captures` uses the credentials of the environment."""
    key = person.stack.session.get_credentials()
    monkeypatch.setenv("AWS_ENDPOINT_URL", local.endpoint_url)
    monkeypatch.setattr(
        boto3, "DEFAULT_SESSION", boto3.Session(key.access_key, key.secret_key, region_name=local.region)
    )
    COMMANDS[policy](person.stack, local)


@pytest.mark.parametrize("policy", COMMANDS)
def test_a_command_needs_no_more_than_its_policy(stack, people, policy, monkeypatch):
    people[policy].may(people[policy].policy)

    run_as(people[policy], policy, stack, monkeypatch)

    with pytest.raises(ClientError, match="AccessDenied"):
        people[policy].stack.client("s3").put_object(
            Bucket=stack.outputs["UploadBucketName"], Key="uploads/a.jpg", Body=b""
        )


@pytest.fixture(scope="module")
def noticed() -> Iterator[set[Permission]]:
    yield from permissions.noticed(PERMISSIONS)


@pytest.mark.verify
@pytest.mark.parametrize("permission", PERMISSIONS, ids=" ".join)
def test_without_a_permission_a_command_fails(stack, people, noticed, permission, monkeypatch):
    person = people[permission.resource]
    person.may(permissions.without(person.policy, permission))

    with pytest.raises((ClientError, CaptureError)) as raised:
        run_as(person, permission.resource, stack, monkeypatch)

    assert any(permissions.is_missed(permission, str(error)) for error in with_context(raised.value))
    noticed.add(permission)


def with_context(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors during whose handling it was raised."""
    while error:
        yield error
        error = error.__context__


@pytest.mark.parametrize("action", UNCHECKED)
def test_every_unchecked_action_is_allowed_by_some_policy(action):
    assert action in {permission.action for policy in COMMANDS for permission in permissions.of(policy)}
