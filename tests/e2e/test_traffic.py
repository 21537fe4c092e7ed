"""`scones traffic`: the outcome of every photo sent is reported, as it really happened."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner, Result

from local.stack import Stack
from pipeline import load_test
from pipeline.stack import find_stack
from scones import cli

KEYS = ["sent", "accepted", "needs_review", "rejected", "failed", "missing", "double", "seconds"]


def run(stack: Stack, *arguments: object) -> Result:
    options = ["traffic", "--stack", str(stack.description), *map(str, arguments)]
    return CliRunner().invoke(cli, options, catch_exceptions=False)


def report(stack: Stack, *arguments: object, code: int = 0) -> dict[str, float]:
    result = run(stack, *arguments, "--json")
    assert result.exit_code == code, result.output
    counts: dict[str, float] = json.loads(result.stdout)
    assert list(counts) == KEYS
    return counts


def recorded(stack: Stack) -> list[str]:
    """The keys of all photos that have a result."""
    pages = (
        stack.client("dynamodb").get_paginator("scan").paginate(TableName=stack.outputs["ResultsTableName"])
    )
    return [item["photo"]["S"].split("/", 3)[3] for page in pages for item in page["Items"]]


def queues_and_rules(stack: Stack) -> list[str]:
    events = stack.client("events")
    return [
        *stack.client("sqs").list_queues()["QueueUrls"],
        *(rule["Name"] for rule in events.list_rules()["Rules"]),
        *(rule["Name"] for rule in events.list_rules(EventBusName=stack.outputs["ResultsBusName"])["Rules"]),
    ]


def test_a_burst_ends_with_none_missing_and_none_double_and_leaves_no_queues_or_rules(stack):
    before = queues_and_rules(stack)

    counts = report(stack, "--burst", 20, "--bad", 0.15, "--other", 0.1, "--duplicates", 0.1)

    del counts["seconds"]
    assert counts == {
        "sent": 20, "accepted": 15, "needs_review": 2, "rejected": 3, "failed": 0, "missing": 0, "double": 0,
    }  # fmt: skip
    assert queues_and_rules(stack) == before
    keys = [key for key in recorded(stack) if key.startswith(load_test.PREFIX)]
    assert len(keys) == 20
    assert [executions_for(stack, key) for key in keys if "/twice/" in key] == [2, 2]


def executions_for(stack: Stack, key: str) -> int:
    """How many executions there are for a key."""
    step_functions = stack.client("stepfunctions")
    listed = step_functions.list_executions(stateMachineArn=stack.outputs["StateMachineArn"])["executions"]
    arns = [one["executionArn"] for one in listed]
    return sum(
        load_test.key_of(step_functions.describe_execution(executionArn=arn)["input"]) == key for arn in arns
    )


@pytest.fixture
def impatient(monkeypatch) -> None:
    """Do not wait for second outcomes."""
    monkeypatch.setattr(load_test, "SETTLING", 0)
    monkeypatch.setattr(load_test, "QUIET", 0.5)


def test_photos_of_a_folder_are_sent_at_a_rate_and_deleted(stack, impatient, tmp_path):
    for number, photo in enumerate(load_test.draw("scone")):
        (tmp_path / f"{number}.jpg").write_bytes(photo[1])
    (tmp_path / "notes.txt").write_text("no photo")
    before = recorded(stack)

    counts = report(stack, "--burst", 6, "--rate", 3, "--photos", tmp_path, "--clean")

    assert counts["needs_review"] == 6
    assert counts["seconds"] >= 5 / 3
    assert recorded(stack) == before
    listed = stack.client("s3").list_object_versions(
        Bucket=stack.outputs["UploadBucketName"], Prefix=load_test.PREFIX
    )
    assert not [version for version in listed.get("Versions", []) if version["Key"].endswith("00-0.jpg")]


@contextmanager
def nothing_starts(stack: Stack) -> Iterator[None]:
    """Disable the rule that starts executions for uploads."""
    events = stack.client("events")
    (rule,) = [rule["Name"] for rule in events.list_rules()["Rules"] if "PhotoUploaded" in rule["Name"]]
    events.disable_rule(Name=rule)
    try:
        yield
    finally:
        events.enable_rule(Name=rule)


def test_photos_without_any_event_are_missing(stack, impatient):
    with nothing_starts(stack):
        counts = report(stack, "--burst", 3, "--patience", 2, code=1)

    assert (counts["sent"], counts["missing"]) == (3, 3)


def test_photos_whose_executions_fail_are_failed(stack, impatient):
    iam = stack.client("iam")
    (role,) = [
        one["RoleName"] for one in iam.list_roles()["Roles"] if "SerializeFunctionRole" in one["RoleName"]
    ]
    policy = iam.get_role_policy(RoleName=role, PolicyName="serialize")["PolicyDocument"]
    iam.delete_role_policy(RoleName=role, PolicyName="serialize")
    try:
        counts = report(stack, "--burst", 2, code=1)
    finally:
        iam.put_role_policy(RoleName=role, PolicyName="serialize", PolicyDocument=json.dumps(policy))
        stack.client("sqs").purge_queue(QueueUrl=stack.outputs["FailedQueueUrl"])

    assert (counts["sent"], counts["failed"], counts["missing"]) == (2, 2, 0)


def test_a_second_outcome_is_double(stack, monkeypatch):
    """A replay with the claim of the finished execution is the only way to publish a second outcome."""
    handle = load_test.LoadTest._handle
    replayed = []

    def replay_once(self, event):
        handle(self, event)
        if not replayed:
            step_functions = stack.client("stepfunctions")
            first = step_functions.describe_execution(executionArn=event["detail"]["execution"])
            execution_input = json.loads(first["input"]) | {"claim": first["executionArn"]}
            replayed.append(
                step_functions.start_execution(
                    stateMachineArn=first["stateMachineArn"], input=json.dumps(execution_input)
                )
            )

    monkeypatch.setattr(load_test.LoadTest, "_handle", replay_once)

    counts = report(stack, "--burst", 3, code=1)

    assert (counts["accepted"], counts["missing"], counts["double"]) == (3, 0, 1)


@pytest.mark.verify
def test_every_photo_of_a_burst_of_a_thousand_with_bad_ones_and_duplicates_is_reported(stack):
    counts = report(stack, "--burst", 1000, "--bad", 0.1, "--duplicates", 0.05)

    assert (counts["sent"], counts["accepted"], counts["rejected"]) == (1000, 900, 100)
    assert (counts["failed"], counts["missing"], counts["double"]) == (0, 0, 0)


def test_a_folder_without_photos_and_shares_above_one_are_refused(stack, tmp_path):
    empty = run(stack, "--photos", tmp_path)
    too_much = run(stack, "--bad", 0.6, "--other", 0.6)

    assert (empty.exit_code, too_much.exit_code) == (1, 2)
    assert "has no photos in it" in empty.output
    assert "together at most 1" in too_much.output


def test_a_stack_in_aws_is_found_by_its_name(stack, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", stack.endpoint_url)

    found = find_stack(stack.name)

    assert found.outputs == stack.outputs
    assert found.endpoint_url is None


def test_a_dry_run_prints_the_plan_and_sends_nothing(stack):
    before = stack.client("s3").list_objects_v2(Bucket=stack.outputs["UploadBucketName"])["KeyCount"]

    plan = json.loads(run(stack, "--burst", 20, "--duplicates", 0.1, "--dry-run", "--json").stdout)

    assert (plan["photos"], plan["twice"]) == (20, 2)
    assert plan["to"] == f"s3://{stack.outputs['UploadBucketName']}/{load_test.PREFIX}"
    assert stack.client("s3").list_objects_v2(Bucket=stack.outputs["UploadBucketName"])["KeyCount"] == before
