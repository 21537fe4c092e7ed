"""Published events match their schemas, and the example subscriber receives the events of its rule."""

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from local.stack import Stack
from pipeline import sample_images
from pipeline.stack import find_stack
from pipeline.subscription import PROBE, subscribed
from tests.conftest import ROOT
from tests.waiting import eventually

PREFIX = "uploads/schemas/"
SCHEMAS = {
    schema["title"]: schema
    for file in sorted((ROOT / "events" / "schemas").glob("*.v1.json"))
    if (schema := json.loads(file.read_text()))
}
WHAT = {
    "VehicleClassified": "motorcycle.jpg",
    "VehicleNeedsReview": "scone.jpg",
    "PhotoRejected": "empty.jpg",
}
FILES = {
    "motorcycle.jpg": sample_images.encoded(sample_images.picture(sample_images.motorcycle, seed=3)),
    "bicycle.jpg": sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=3)),
    "scone.jpg": sample_images.encoded(sample_images.picture(sample_images.scone, seed=1)),
    "empty.jpg": b"",
}


@pytest.fixture(scope="module")
def subscriber(stack: Stack) -> Iterator[str]:
    """The queue of the deployed example."""
    cloudformation = stack.client("cloudformation")
    template, bus = (ROOT / "events" / "subscriber.yaml").read_text(), stack.outputs["ResultsBusName"]
    cloudformation.create_stack(
        StackName="another-team",
        TemplateBody=template,
        Parameters=[{"ParameterKey": "ResultsBusName", "ParameterValue": bus}],
    )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName="another-team", WaiterConfig={"Delay": 1}
    )
    (deployed,) = cloudformation.describe_stacks(StackName="another-team")["Stacks"]
    yield deployed["Outputs"][0]["OutputValue"]
    cloudformation.delete_stack(StackName="another-team")


@pytest.fixture(scope="module")
def published(stack: Stack, subscriber: str) -> dict[str, dict[str, Any]]:
    """The event for each file, by the file's name."""
    bus, found = stack.outputs["ResultsBusName"], dict[str, dict[str, Any]]()
    pattern = {"source": ["scones.vehicle-classifier", PROBE], "detail": {"key": [{"prefix": PREFIX}]}}
    with subscribed(
        find_stack(str(stack.description)), f"schemas-{time.time_ns()}", {bus: pattern}
    ) as hearing:
        hearing.wait_until_active({bus: {"key": PREFIX}})
        for name, content in FILES.items():
            stack.client("s3").put_object(
                Bucket=stack.outputs["UploadBucketName"], Key=PREFIX + name, Body=content
            )

        def all_received() -> bool:
            found.update({event["detail"]["key"].removeprefix(PREFIX): event for event in hearing.received()})
            return len(found) == len(FILES)

        eventually(all_received)
    return found


def test_the_schemas_are_valid_and_agree_on_shared_fields():
    assert SCHEMAS.keys() == WHAT.keys()
    details = [schema["properties"]["detail"]["properties"] for schema in SCHEMAS.values()]
    assert len({tuple(detail) for detail in details}) == 1
    for name in details[0].keys() - {"outcome", "label", "confidence", "inferences", "reason"}:
        assert details[0][name] == details[1][name] == details[2][name]
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("kind", WHAT)
def test_a_published_event_has_exactly_the_fields_of_its_schema(published, kind):
    event = published[WHAT[kind]]

    assert [error.message for error in Draft202012Validator(SCHEMAS[kind]).iter_errors(event)] == []
    assert datetime.fromisoformat(event["detail"]["classified_at"]).utcoffset() == timedelta(0)
    assert event["detail"].keys() == SCHEMAS[kind]["properties"]["detail"]["properties"].keys()
    for other in WHAT.keys() - {kind}:
        assert not Draft202012Validator(SCHEMAS[other]).is_valid(event)


def test_the_example_subscriber_receives_exactly_the_events_of_its_rule(stack, published, subscriber):
    time.sleep(1)  # for events that should not arrive
    messages = stack.client("sqs").receive_message(
        QueueUrl=subscriber, MaxNumberOfMessages=10, WaitTimeSeconds=5
    )["Messages"]

    assert [json.loads(message["Body"]) for message in messages] == [published["motorcycle.jpg"]]
