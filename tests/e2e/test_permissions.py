"""Every permission is needed: removing any action of any function's role makes something fail.

A permission that is added to a role is tested automatically. Its test fails until an event here makes the
function use it.
"""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from functions.monitor.capture_analysis.drift import Baseline
from local.stack import CAPTURE_BUCKET, ENDPOINT_NAME, Stack, parameters
from model.network.classifier import Classifier
from pipeline import sample_images
from tests import permissions
from tests.conftest import ROOT
from tests.permissions import RESOURCES, Permission

UNCHECKED = {
    "logs:CreateLogStream": "the emulator writes a function's log by itself",
    "logs:PutLogEvents": "the emulator writes a function's log by itself",
    "xray:PutTraceSegments": "the emulator keeps no traces",
    "xray:PutTelemetryRecords": "the emulator keeps no traces",
}
"""Actions that AWS authorizes and the emulator does not, and why removing them goes unnoticed here."""

FUNCTIONS = {
    resource["Properties"]["Role"]["Fn::GetAtt"][0]: name
    for name, resource in RESOURCES.items()
    if resource["Type"] == "AWS::Serverless::Function"
}
"""The function of each role."""
PERMISSIONS = [
    permission
    for role in FUNCTIONS
    for permission in permissions.of(role)
    if permission.action not in UNCHECKED
]

type Event = dict[str, Any]


EMPTY_BASELINE = Baseline("none", ["bicycle", "other"], 0.8, 1, 0.9, None, numbers={}, counts={})


def failure(stack: Stack, function: str, event: Event) -> str | None:
    """Return the error that a function ends with, or the denial that it has logged and tolerated."""
    pages = stack.client("lambda").get_paginator("list_functions").paginate()
    names = [one["FunctionName"] for page in pages for one in page["Functions"]]
    (name,) = [name for name in names if function in name]
    answer = stack.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event), LogType="Tail")
    if "FunctionError" in answer:
        return str(json.loads(answer["Payload"].read())["errorMessage"])
    written = base64.b64decode(answer["LogResult"]).decode()
    return written if "not authorized" in written else None


@pytest.fixture(scope="module")
def probes(stack, tmp_path_factory) -> Iterator[dict[str, list[Event]]]:
    """For each function, events that together use all its permissions, and succeed with them."""
    bucket, s3 = stack.outputs["UploadBucketName"], stack.client("s3")
    photo = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1))
    put = s3.put_object(Bucket=bucket, Key="uploads/probe.jpg", Body=photo)
    read = {"bucket": bucket, "key": "uploads/probe.jpg"}
    baseline = tmp_path_factory.mktemp("baseline") / "baseline.json"
    baseline.write_text(EMPTY_BASELINE.text())
    defaults = parameters(Classifier.load().description)
    stack.deploy(defaults | {"CapturePercent": 100} | stack.place_baseline(baseline))
    now = datetime.now(UTC)
    capture = f"captures/{ENDPOINT_NAME}/AllTraffic/{now:%Y/%m/%d/%H}/00-00-000-probe.jsonl"
    s3.put_object(Bucket=CAPTURE_BUCKET, Key=capture, Body=b"")
    window = {"from": f"{now - timedelta(hours=1):%FT%TZ}", "to": f"{now + timedelta(hours=1):%FT%TZ}"}
    events = {
        "SerializeFunction": [
            read,
            read | {"version_id": put["VersionId"]},
            read | {"key": "uploads/gone.jpg"},
        ],
        "ClassifyFunction": [json.loads((ROOT / "events" / "classify.json").read_text())],
        "FilterFunction": [json.loads((ROOT / "events" / "filter.json").read_text())],
        "MonitorFunction": [window],
    }
    failures = [failure(stack, function, event) for function in events for event in events[function]]
    assert [error for error in failures if error] == []
    yield events
    # otherwise every photo of the following tests would be captured twice
    stack.deploy(defaults | {"CapturePercent": 0})


@pytest.fixture(scope="module")
def noticed() -> Iterator[set[Permission]]:
    yield from permissions.noticed(PERMISSIONS)


@pytest.mark.parametrize("permission", PERMISSIONS, ids=" ".join)
def test_without_a_permission_a_function_fails(stack, probes, noticed, permission):
    iam, function = stack.client("iam"), FUNCTIONS[permission.resource]
    (role,) = [one["RoleName"] for one in iam.list_roles()["Roles"] if permission.resource in one["RoleName"]]
    (policy,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    whole = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]

    try:
        reduced = json.dumps(permissions.without(whole, permission))
        iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=reduced)
        failures = [failure(stack, function, event) for event in probes[function]]
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=json.dumps(whole))

    assert [error for error in failures if error and permissions.is_missed(permission, error)]
    noticed.add(permission)


@pytest.mark.parametrize("action", UNCHECKED)
def test_every_unchecked_action_is_allowed_by_some_role(action):
    assert action in {permission.action for role in FUNCTIONS for permission in permissions.of(role)}
