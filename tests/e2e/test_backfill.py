"""`scones backfill`: existing photos get one result each, however often the backfill is stopped."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import batched

import pytest
from click.testing import CliRunner

from local.stack import Stack
from model.terminal.errors import INTERRUPTED
from pipeline import backfill, load_test, sample_images
from pipeline.stack import find_stack
from pipeline.subscription import PROBE, Subscription, subscribed
from scones import cli
from tests.conftest import ROOT
from tests.waiting import PATIENCE, eventually

PICTURES = [sample_images.encoded(sample_images.picture(sample_images.bicycle, seed)) for seed in range(4)]


def run(stack: Stack, prefix: str, *options: object, code: int = 0) -> dict:
    arguments = ["backfill", prefix, "--stack", str(stack.description), "--json", *map(str, options)]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout.splitlines()[0])


def put(stack: Stack, keys: Sequence[str], photo: bytes = PICTURES[0]) -> None:
    s3 = stack.client("s3")
    for key in keys:
        s3.put_object(Bucket=stack.outputs["UploadBucketName"], Key=key, Body=photo)


@contextmanager
def subscription_to(stack: Stack, prefix: str) -> Iterator[Subscription]:
    """Receive every outcome that is published for keys with a prefix."""
    bus = stack.outputs["ResultsBusName"]
    pattern = {
        "source": ["scones.vehicle-classifier", PROBE],
        "detail": {"key": [{"prefix": prefix}]},
    }
    name = f"backfill-{time.time_ns()}"
    with subscribed(find_stack(str(stack.description)), name, {bus: pattern}) as subscription:
        subscription.wait_until_active({bus: {"key": prefix}})
        yield subscription


def published(subscription: Subscription) -> Counter[str]:
    """How often an outcome was published, by key."""
    events = {}
    while received := list(subscription.received()):
        events |= {event["id"]: event["detail"]["key"] for event in received}
    return Counter(events.values())


def test_photos_under_archive_start_nothing_and_a_backfill_gives_each_one_result(stack):
    keys = [f"archive/old/{number} +%25ü.jpg" for number in range(3)]
    put(stack, keys[:2])
    put(stack, keys[2:], b"no photo")
    assert load_test.read_outcomes(find_stack(str(stack.description)), keys) == {}

    with subscription_to(stack, "archive/old/") as subscription:
        first = run(stack, "archive/old/")
        second = run(stack, "archive/old/")
        counts = published(subscription)

    assert (first["photos"], first["done"], first["already"]) == (3, 3, 0)
    assert (first["accepted"], first["rejected"]) == (2, 1)
    assert (second["photos"], second["done"], second["already"]) == (3, 3, 3)
    assert counts == dict.fromkeys(keys, 1)
    assert load_test.read_outcomes(find_stack(str(stack.description)), keys) == {
        keys[0]: "accepted", keys[1]: "accepted", keys[2]: "rejected",
    }  # fmt: skip


def test_the_manifest_leads_to_the_outcome_of_each_photo(stack):
    put(stack, ["archive/listed/a.jpg"])

    manifest = run(stack, "archive/listed/")["manifest"].removeprefix("s3://")

    s3, (bucket, key) = stack.client("s3"), manifest.split("/", 1)
    content = json.load(s3.get_object(Bucket=bucket, Key=key)["Body"])
    (file,) = content["ResultFiles"]["SUCCEEDED"]
    (photo,) = json.load(s3.get_object(Bucket=bucket, Key=file["Key"])["Body"])
    assert json.loads(photo["Output"]) == {
        "photo": f"s3://{bucket}/archive/listed/a.jpg", "outcome": "accepted", "new": True,
    }  # fmt: skip


def test_a_new_version_is_classified_and_its_late_event_changes_nothing(stack):
    """The second version's event is lost at first, and the backfill knows no sequencer."""
    key, bucket = "uploads/backfilled/a.jpg", stack.outputs["UploadBucketName"]
    s3, events = stack.client("s3"), stack.client("events")
    with subscription_to(stack, "uploads/backfilled/") as subscription:
        put(stack, [key])
        eventually_published(subscription)
        (rule,) = [rule["Name"] for rule in events.list_rules()["Rules"] if "PhotoUploaded" in rule["Name"]]
        events.disable_rule(Name=rule)
        try:
            put(stack, [key], b"no photo")
        finally:
            events.enable_rule(Name=rule)

        report = run(stack, "uploads/backfilled/")
        late = s3.head_object(Bucket=bucket, Key=key)
        execution = stack.client("stepfunctions").start_execution(
            stateMachineArn=stack.outputs["StateMachineArn"],
            input=json.dumps(
                {
                    "detail": {
                        "bucket": {"name": bucket},
                        "object": {
                            "key": key,
                            "version-id": late["VersionId"],
                            "etag": late["ETag"].strip('"'),
                            "sequencer": "F" * 18,
                        },
                    }
                }
            ),
        )["executionArn"]
        describe = stack.client("stepfunctions").describe_execution
        eventually(lambda: describe(executionArn=execution)["status"] != "RUNNING")
        counts = published(subscription)

    assert (report["already"], report["rejected"]) == (0, 1)
    assert counts == {key: 1}  # and one before
    assert run(stack, "uploads/backfilled/")["already"] == 1


def eventually_published(subscription: Subscription) -> None:
    eventually(lambda: list(subscription.received()))


def test_a_prefix_outside_uploads_and_archive_and_an_empty_one_are_refused(stack):
    put(stack, ["elsewhere/a.jpg"])
    arguments = ["backfill", "--stack", str(stack.description)]

    elsewhere = CliRunner().invoke(cli, [*arguments, "elsewhere/"])
    nothing = CliRunner().invoke(cli, [*arguments, "archive/nothing/"])

    assert (elsewhere.exit_code, nothing.exit_code) == (1, 1)
    assert elsewhere.output.startswith("Error: Photos are read under uploads/ and archive/ only")
    assert "No photos under s3://" in nothing.output


def test_a_backfill_with_too_many_failures_gives_up_and_can_be_run_again(stack):
    keys = [f"archive/failing/{number}.jpg" for number in range(2)]
    put(stack, keys)
    iam = stack.client("iam")
    names = [role["RoleName"] for role in iam.list_roles()["Roles"]]
    (role,) = [name for name in names if "SerializeFunctionRole" in name]
    policy = iam.get_role_policy(RoleName=role, PolicyName="serialize")["PolicyDocument"]
    iam.delete_role_policy(RoleName=role, PolicyName="serialize")
    try:
        failing = run(stack, "archive/failing/", code=1)
        tolerated = run(stack, "archive/failing/", "--tolerate", 100, code=1)
    finally:
        iam.put_role_policy(RoleName=role, PolicyName="serialize", PolicyDocument=json.dumps(policy))
        stack.client("sqs").purge_queue(QueueUrl=stack.outputs["FailedQueueUrl"])

    assert (failing["done"], failing["failed"], tolerated["failed"]) == (0, 2, 2)
    assert run(stack, "archive/failing/")["accepted"] == 2


def stop_and_resume(stack: Stack, count: int) -> None:
    """Backfill photos, press Ctrl-C half-way, run it again: each has one result, published once."""
    prefix = f"archive/many-{count}/"
    keys = [f"{prefix}{number:05}.jpg" for number in range(count)]
    for number, batch in enumerate(batched(keys, -(-count // len(PICTURES)), strict=False)):
        put(stack, batch, PICTURES[number])
    command = [sys.executable, "-m", "scones", "backfill", prefix, "--stack", stack.description, "--json"]
    target = find_stack(str(stack.description))

    with subscription_to(stack, prefix) as subscription:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        while not half_way(target, count):
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
        stopped = json.loads(output)
        resumed = run(stack, prefix)
        counts = published(subscription)

    assert process.returncode == INTERRUPTED
    assert stopped["photos"] == resumed["photos"] == count
    assert 0 < stopped["done"] < count
    assert stopped["done"] + stopped["left"] == count
    assert resumed["done"] == count
    assert resumed["already"] >= stopped["done"]
    assert counts == dict.fromkeys(keys, 1)
    assert load_test.read_outcomes(target, keys) == dict.fromkeys(keys, "accepted")


def half_way(target, count: int) -> bool:
    running = target.client("stepfunctions").list_executions(
        stateMachineArn=target.output("BackfillStateMachineArn"), statusFilter="RUNNING"
    )["executions"]
    return any(
        backfill.item_counts(target, one["executionArn"]).get("succeeded", 0) >= count / 2 for one in running
    )


def test_after_a_stop_half_way_and_a_resume_none_is_missing_and_none_double(stack):
    stop_and_resume(stack, 16)


@pytest.mark.verify
def test_after_a_stop_half_way_and_a_resume_two_thousand_have_one_result_each(stack):
    stop_and_resume(stack, 2000)


def test_a_dry_run_counts_and_starts_nothing(stack):
    put(stack, [f"archive/dry/{number}.jpg" for number in range(3)])

    assert run(stack, "archive/dry/", "--dry-run") == {"photos": 3, "already_running": None}
    executions = stack.client("stepfunctions").list_executions(
        stateMachineArn=stack.outputs["BackfillStateMachineArn"]
    )["executions"]
    inputs = [
        stack.client("stepfunctions").describe_execution(executionArn=one["executionArn"])["input"]
        for one in executions
    ]
    assert not any("archive/dry/" in given for given in inputs)
