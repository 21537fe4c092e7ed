"""Waiting for a new bucket's events: repeated probes, and nothing left behind however it ends."""

from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws
from rich.progress import Progress

from pipeline import activation
from pipeline.stack import Stack, StackError
from pipeline.subscription import Subscription

LONG = 3600.0


@pytest.fixture
def target(monkeypatch) -> Iterator[Stack]:
    """A stack whose bucket sends no events, and a first probe that is repeated at once."""
    monkeypatch.setattr(activation, "INTERVAL", 0)
    with mock_aws():
        session = boto3.Session(region_name="us-east-1")
        stack = Stack(f"scones-unlimited-{'long' * 20}", session, {"UploadBucketName": "uploads"})
        stack.client("s3").create_bucket(Bucket="uploads")
        enabled = {"Status": "Enabled"}
        stack.client("s3").put_bucket_versioning(Bucket="uploads", VersioningConfiguration=enabled)
        yield stack


def receive(monkeypatch, *answers: list[dict] | BaseException) -> None:
    """Have the subscription receive these batches of events, or raise these errors, in turn."""
    remaining = iter(answers)

    def received(_: Subscription) -> list[dict]:
        answer = next(remaining)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(Subscription, "received", received)


def remains(stack: Stack) -> list[object]:
    versions = stack.client("s3").list_object_versions(Bucket="uploads")
    return [
        *stack.client("sqs").list_queues().get("QueueUrls", []),
        *stack.client("events").list_rules()["Rules"],
        *versions.get("Versions", []),
        *versions.get("DeleteMarkers", []),
    ]


def wait(stack: Stack, timeout: float) -> int:
    return activation.wait_for_events(stack, timeout, Progress(disable=True))


def test_the_first_event_ends_the_wait(target, monkeypatch):
    receive(monkeypatch, [{"source": "aws.s3"}])

    assert wait(target, LONG) == 1
    assert remains(target) == []


def test_a_probe_without_an_event_is_repeated(target, monkeypatch):
    receive(monkeypatch, [], [], [{"source": "aws.s3"}])

    assert wait(target, LONG) == 3
    assert remains(target) == []


def test_a_timeout_says_what_to_do_and_leaves_nothing(target, monkeypatch):
    receive(monkeypatch, [])

    with pytest.raises(StackError, match="No event of s3://uploads arrived within 0 s") as raised:
        wait(target, 0)

    assert "then run `scones activate` again" in str(raised.value)
    assert remains(target) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("lost connection")])
def test_an_interruption_leaves_nothing(target, monkeypatch, error):
    receive(monkeypatch, [], error)

    with pytest.raises(type(error)):
        wait(target, LONG)

    assert remains(target) == []


def test_a_stack_is_active_once_it_is_marked(target):
    assert not activation.is_active(target)

    activation.mark_active(target)
    activation.mark_active(target)

    assert activation.is_active(target)
