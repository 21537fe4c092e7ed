"""`scones activate`: photos uploaded before a new bucket's events arrive get one result each."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from local.stack import Stack
from model.storage import delete_objects, list_prefix_versions
from pipeline import activation, load_test, sample_images
from pipeline.stack import find_stack
from pipeline.subscription import PROBE, Subscription, subscribed
from scones import cli

PHOTO = sample_images.encoded(sample_images.picture(sample_images.bicycle, 0))
PREFIX = "uploads/first-minutes/"


def run(stack: Stack, *options: str) -> Result:
    arguments = ["activate", "--stack", str(stack.description), "--json", *options]
    return CliRunner(mix_stderr=False).invoke(cli, arguments, catch_exceptions=False)


def report(stack: Stack, *options: str) -> dict[str, Any]:
    result = run(stack, *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def put(stack: Stack, key: str) -> None:
    stack.client("s3").put_object(Bucket=stack.outputs["UploadBucketName"], Key=key, Body=PHOTO)


def send_events(stack: Stack, *, enabled: bool) -> None:
    configuration = {"EventBridgeConfiguration": {}} if enabled else {}
    stack.client("s3").put_bucket_notification_configuration(
        Bucket=stack.outputs["UploadBucketName"], NotificationConfiguration=configuration
    )


@pytest.fixture
def new_stack(stack: Stack) -> Iterator[Stack]:
    """A stack whose bucket sends no events yet."""
    send_events(stack, enabled=False)
    yield stack
    send_events(stack, enabled=True)
    s3, bucket = stack.client("s3"), stack.outputs["UploadBucketName"]
    delete_objects(s3, bucket, list_prefix_versions(s3, bucket, activation.FOLDER))


def executed(stack: Stack) -> Counter[str]:
    """The number of executions for each key of this test."""
    step_functions = stack.client("stepfunctions")
    pages = step_functions.get_paginator("list_executions").paginate(
        stateMachineArn=stack.outputs["StateMachineArn"]
    )
    arns = [one["executionArn"] for page in pages for one in page["executions"]]
    inputs = [step_functions.describe_execution(executionArn=arn)["input"] for arn in arns]
    return Counter(key for given in inputs if (key := load_test.key_of(given)).startswith(PREFIX))


def leftovers(stack: Stack) -> list[str]:
    listed = stack.client("s3").list_object_versions(
        Bucket=stack.outputs["UploadBucketName"], Prefix=activation.FOLDER
    )
    names = [
        *stack.client("sqs").list_queues()["QueueUrls"],
        *(rule["Name"] for rule in stack.client("events").list_rules()["Rules"]),
        *(one["Key"] for one in listed.get("Versions", []) + listed.get("DeleteMarkers", [])),
    ]
    return [name for name in names if "activation" in name]


def test_each_photo_has_one_result_although_the_first_events_are_lost(new_stack, monkeypatch):
    lost = [f"{PREFIX}{number}.jpg" for number in range(3)]
    on_time = f"{PREFIX}on-time.jpg"
    target, bus = find_stack(str(new_stack.description)), new_stack.outputs["ResultsBusName"]
    receive = Subscription.received
    before_events: list[Counter[str]] = []

    def first_nothing_then_events(subscription: Subscription) -> list[dict[str, Any]]:
        received = receive(subscription)
        if not before_events:
            assert received == []
            put(new_stack, lost[2])
            before_events.append(executed(new_stack))
            send_events(new_stack, enabled=True)
            put(new_stack, on_time)
        return received

    monkeypatch.setattr(activation, "INTERVAL", 0)
    pattern = {"source": ["scones.vehicle-classifier", PROBE], "detail": {"key": [{"prefix": PREFIX}]}}
    for key in lost[:2]:
        put(new_stack, key)
    with subscribed(target, f"activate-{time.time_ns()}", {bus: pattern}) as results:
        results.wait_until_active({bus: {"key": PREFIX}})
        planned = report(new_stack, "--dry-run")
        with monkeypatch.context() as patched:
            patched.setattr(Subscription, "received", first_nothing_then_events)
            first = report(new_stack)
        second = report(new_stack)
        published: dict[str, str] = {}
        while len(set(published.values())) < len([*lost, on_time]):
            published |= {event["id"]: event["detail"]["key"] for event in results.received()}
        while received := results.received():
            published |= {event["id"]: event["detail"]["key"] for event in received}

    assert before_events == [Counter()]
    assert (planned["already_active"], planned["photos"] >= 2) == (False, True)
    assert first["probes"] == 2
    assert first["backfill"]["done"] == first["backfill"]["photos"] == first["photos"]
    assert second == {"already_active": True, "photos": 0, "probes": 0, "backfill": None}
    assert Counter(published.values()) == dict.fromkeys([*lost, on_time], 1)
    keys = [*lost, on_time]
    assert load_test.read_outcomes(target, keys) == dict.fromkeys(keys, "accepted")
    assert set(leftovers(new_stack)) == {activation.MARKER}


def test_without_any_event_it_fails_in_one_line_and_starts_nothing(new_stack):
    backfills = {"stateMachineArn": new_stack.outputs["BackfillStateMachineArn"]}
    before = new_stack.client("stepfunctions").list_executions(**backfills)["executions"]

    result = run(new_stack, "--timeout", "0")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: No event of s3://")
    assert result.stderr.count("\n") == 1
    assert new_stack.client("stepfunctions").list_executions(**backfills)["executions"] == before
    assert leftovers(new_stack) == []
