"""The whole stack: photos go to the bucket; outcomes to the table, the bus and the review queue."""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer

from local import demo
from local.stack import Stack
from pipeline import sample_images
from pipeline.stack import find_stack
from pipeline.subscription import PROBE, Subscription, subscribed
from tests import photos
from tests.waiting import eventually

Result = dict[str, Any]


def uploaded(stack: Stack, files: dict[str, bytes]) -> dict[str, demo.Outcome]:
    """Upload photos and wait for the outcome of each, by name."""
    return {outcome.photo: outcome for outcome in demo.classify(stack, files, silence=60)}


def result(stack: Stack, key: str) -> Result:
    photo = {"photo": {"S": f"s3://{stack.outputs['UploadBucketName']}/{key}"}}
    item = stack.client("dynamodb").get_item(TableName=stack.outputs["ResultsTableName"], Key=photo)["Item"]
    return {name: TypeDeserializer().deserialize(value) for name, value in item.items()}


def executions(stack: Stack, key: str) -> list[dict[str, Any]]:
    """Every execution for a key, with its input, oldest first."""
    step_functions = stack.client("stepfunctions")
    pages = step_functions.get_paginator("list_executions").paginate(
        stateMachineArn=stack.outputs["StateMachineArn"]
    )
    described = [
        step_functions.describe_execution(executionArn=execution["executionArn"])
        for page in pages
        for execution in page["executions"]
    ]
    found = [one for one in described if json.loads(one["input"])["detail"]["object"]["key"] == key]
    return sorted(found, key=lambda one: one["startDate"])


def ended(stack: Stack, key: str, count: int) -> list[dict[str, Any]]:
    """The executions for a key, once there are `count` and none is running."""

    def look() -> list[dict[str, Any]]:
        found = executions(stack, key)
        running = [execution for execution in found if execution["status"] == "RUNNING"]
        return found if len(found) >= count and not running else []

    return eventually(look)


def run(stack: Stack, event: dict[str, Any]) -> dict[str, Any]:
    """Start an execution and wait for its end."""
    step_functions = stack.client("stepfunctions")
    arn = step_functions.start_execution(
        stateMachineArn=stack.outputs["StateMachineArn"], input=json.dumps(event)
    )["executionArn"]

    def look() -> dict[str, Any] | None:
        described = step_functions.describe_execution(executionArn=arn)
        return described if described["status"] != "RUNNING" else None

    return eventually(look)


class Subscriber:
    """Another team, with a queue and a rule of its own on the results bus."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription

    def events(self, about: set[str]) -> list[dict[str, Any]]:
        """The events received about these keys, once there is one for each."""
        received: list[dict[str, Any]] = []

        def look() -> bool:
            while events := list(self.subscription.received()):
                received.extend(events)
            return about <= {event["detail"]["key"] for event in received}

        eventually(look)
        time.sleep(1)  # for events that should not arrive
        look()
        return [event for event in received if event["detail"]["key"] in about]


def messages(sqs: Any, url: str) -> Iterator[dict[str, Any]]:
    """Receive and delete all messages of a queue."""
    while batch := sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    ).get("Messages"):
        for message in batch:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            yield message


@pytest.fixture(scope="module")
def routing(stack) -> Iterator[Subscriber]:
    bus = stack.outputs["ResultsBusName"]
    pattern = {"source": ["scones.vehicle-classifier", PROBE]}
    with subscribed(
        find_stack(str(stack.description)), f"routing-{time.time_ns()}", {bus: pattern}
    ) as subscription:
        subscription.wait_until_active({bus: {}})
        yield Subscriber(subscription)


def test_every_photo_gets_one_outcome_in_the_table_on_the_bus_and_if_needed_in_the_review_queue(
    stack, routing
):
    review = stack.outputs["ReviewQueueUrl"]
    list(messages(stack.client("sqs"), review))
    everyday = {f"everyday/{name}": photo for name, photo in sample_images.demo_pictures()}

    outcomes = uploaded(stack, everyday)

    assert {name: (outcome.outcome, outcome.label) for name, outcome in outcomes.items()} == {
        "everyday/bicycle-1.jpg": ("accepted", "bicycle"),
        "everyday/bicycle-2.jpg": ("accepted", "bicycle"),
        "everyday/bicycle-3.jpg": ("accepted", "bicycle"),
        "everyday/motorcycle-1.jpg": ("accepted", "motorcycle"),
        "everyday/motorcycle-2.jpg": ("accepted", "motorcycle"),
        "everyday/motorcycle-3.jpg": ("accepted", "motorcycle"),
        "everyday/bicycle-in-fog.jpg": ("needs_review", "bicycle"),
        "everyday/scone.png": ("needs_review", "other"),
        "everyday/from-the-phone.jpg": ("accepted", "motorcycle"),
        "everyday/upload-broke-off.jpg": ("rejected", None),
        "everyday/route 7/a+b c.png": ("accepted", "bicycle"),
    }
    keys = {f"uploads/{name}" for name in everyday}
    events = routing.events(about=keys)
    assert {event["detail"]["key"]: event["detail-type"] for event in events} == {
        f"uploads/{name}": {
            "accepted": "VehicleClassified",
            "needs_review": "VehicleNeedsReview",
            "rejected": "PhotoRejected",
        }[outcome.outcome]
        for name, outcome in outcomes.items()
    }
    assert len(events) == len(keys)
    for_review = [json.loads(message["Body"])["key"] for message in messages(stack.client("sqs"), review)]
    assert sorted(for_review) == ["uploads/everyday/bicycle-in-fog.jpg", "uploads/everyday/scone.png"]


ODD_FILES: dict[str, tuple[str, str, bytes]] = {
    **{f"odd/{name}": ("needs_review", "not_a_vehicle", make()) for name, make in photos.READABLE.items()},
    **{f"odd/{name}": ("rejected", reason, make()) for name, (reason, make) in photos.REJECTED.items()},
    **{f"odd/{key}": ("needs_review", "not_a_vehicle", photos.photo()) for key in photos.ODD_KEYS},
    "odd/fifty megapixels.jpg": (
        "needs_review",
        "not_a_vehicle",
        photos.fifty_megapixel_jpeg(progressive=True),
    ),
}


def test_odd_files_and_odd_names_each_get_one_correct_result(stack, routing):
    outcomes = uploaded(stack, {name: file for name, (*_, file) in ODD_FILES.items()})

    assert {name: (outcome.outcome, outcome.reason) for name, outcome in outcomes.items()} == {
        name: (outcome, reason) for name, (outcome, reason, _) in ODD_FILES.items()
    }
    keys = [
        event["detail"]["key"] for event in routing.events(about={f"uploads/{name}" for name in ODD_FILES})
    ]
    assert sorted(keys) == sorted(f"uploads/{name}" for name in ODD_FILES)


def test_a_file_that_cannot_be_uploaded_is_reported_and_does_not_block_others(stack, tmp_path):
    files = {"gone.jpg": tmp_path / "gone.jpg", "latin-1 \udcfc.jpg": b"", "last.jpg": photos.photo()}

    outcomes = {one.photo: one for one in demo.classify(stack, files, at_once=1)}

    assert outcomes["gone.jpg"].reason == "cannot be read: No such file or directory"
    assert outcomes["latin-1 \udcfc.jpg"].reason.startswith("cannot be a key in S3: ")
    assert [outcomes[name].outcome for name in files] == ["failed", "failed", "needs_review"]


def test_the_state_stays_small_even_for_noise(stack):
    name = "noise.png"
    uploaded(stack, {name: photos.photo("PNG", photos.noise(224, 224))})
    (execution,) = executions(stack, f"uploads/{name}")

    history = stack.client("stepfunctions").get_execution_history(
        executionArn=execution["executionArn"], maxResults=1000
    )["events"]

    states = [
        details[side]
        for event in history
        for kind, details in event.items()
        if kind.endswith("EventDetails")
        for side in ("input", "output")
        if side in details
    ]
    assert 40_000 < max(len(state.encode()) for state in states) < 64 * 1024


def test_a_result_has_every_attribute_of_the_contract(stack):
    uploaded(
        stack, {"contract.jpg": sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=2))}
    )

    item = result(stack, "uploads/contract.jpg")

    (execution,) = executions(stack, "uploads/contract.jpg")
    event = json.loads(execution["input"])
    assert item["photo"] == f"s3://{stack.outputs['UploadBucketName']}/uploads/contract.jpg"
    assert item["outcome"] == "accepted"
    assert item["label"] == "bicycle"
    assert item["confidence"] == max(item["inferences"])
    assert len(item["inferences"]) == 3
    assert item["reason"] == "confident"
    assert item["classified_at"].endswith("Z")
    assert item["inference_id"] == event["id"]
    assert item["execution"] == execution["executionArn"]
    assert item["etag"] == event["detail"]["object"]["etag"]
    assert item["version_id"] == event["detail"]["object"].get("version-id")
    assert item["model"] == "vehicle-classifier"
    photo = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=2))
    assert item["sha256"] == hashlib.sha256(photo).hexdigest()
    until = datetime.fromtimestamp(int(item["expires_at"]), UTC) - datetime.fromisoformat(
        item["classified_at"]
    )
    assert until / timedelta(days=1) == pytest.approx(365, abs=1e-4)


def test_the_endpoint_captures_the_photo_under_the_inference_id(stack):
    uploaded(
        stack, {"captured.jpg": sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=3))}
    )
    inference_id = result(stack, "uploads/captured.jpg")["inference_id"]

    def captured() -> list[dict[str, Any]]:
        files = stack.captures.glob("vehicle-classifier/AllTraffic/*/*/*/*/*.jsonl")
        records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [record for record in records if record["eventMetadata"].get("inferenceId") == inference_id]

    (record,) = eventually(captured)
    assert record["captureData"]["endpointInput"]["encoding"] == "BASE64"
    assert json.loads(record["captureData"]["endpointOutput"]["data"])[0] > 0.5


def test_a_duplicate_event_leads_to_one_result_and_one_event(stack, routing):
    uploaded(
        stack, {"twice.jpg": sample_images.encoded(sample_images.picture(sample_images.motorcycle, seed=1))}
    )
    (first,) = executions(stack, "uploads/twice.jpg")
    before = result(stack, "uploads/twice.jpg")

    again = run(stack, json.loads(first["input"]))

    assert again["status"] == "SUCCEEDED"
    assert result(stack, "uploads/twice.jpg") == before
    assert len(routing.events(about={"uploads/twice.jpg"})) == 1


def test_a_later_upload_to_the_same_key_replaces_the_result_but_an_earlier_one_does_not(stack, routing):
    key = "uploads/courier-17.jpg"
    uploaded(
        stack, {"courier-17.jpg": sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1))}
    )
    (first,) = executions(stack, key)
    stack.client("s3").put_object(
        Bucket=stack.outputs["UploadBucketName"],
        Key=key,
        Body=sample_images.encoded(sample_images.picture(sample_images.motorcycle, seed=1)),
    )
    ended(stack, key, count=2)
    assert result(stack, key)["label"] == "motorcycle"

    run(stack, json.loads(first["input"]))

    assert result(stack, key)["label"] == "motorcycle"
    labels = [event["detail"]["label"] for event in routing.events(about={key})]
    assert sorted(labels) == ["bicycle", "motorcycle"]


@pytest.mark.parametrize(
    ("role", "action"),
    [("ClassifyFunctionRole", "sagemaker:InvokeEndpoint"), ("SerializeFunctionRole", "s3:GetObjectVersion")],
)
def test_a_missing_permission_fails_the_execution_and_a_replay_then_succeeds(stack, routing, role, action):
    iam, sqs = stack.client("iam"), stack.client("sqs")
    key = f"uploads/forbidden-{role}.jpg"
    (name,) = [one["RoleName"] for one in iam.list_roles()["Roles"] if role in one["RoleName"]]
    (policy,) = iam.list_role_policies(RoleName=name)["PolicyNames"]
    document = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
    poorer = json.loads(json.dumps(document).replace(f'"{action}"', '"sts:GetCallerIdentity"'))
    assert poorer != document

    iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(poorer))
    try:
        outcomes = uploaded(stack, {key.removeprefix("uploads/"): next(sample_images.demo_pictures())[1]})
    finally:
        iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(document))

    (outcome,) = outcomes.values()
    assert outcome.outcome == "failed"
    assert "AccessDenied" in outcome.reason
    (failed,) = [one for one in messages(sqs, stack.outputs["FailedQueueUrl"]) if key in one["Body"]]
    assert run(stack, json.loads(failed["Body"]))["status"] == "SUCCEEDED"
    assert result(stack, key)["outcome"] == "accepted"
    assert len(routing.events(about={key})) == 1


def test_a_replay_completes_an_execution_that_failed_between_recording_and_publishing(stack, routing):
    key = "uploads/half-way.jpg"
    uploaded(stack, {"half-way.jpg": next(sample_images.demo_pictures())[1]})
    (first,) = executions(stack, key)
    replay = json.loads(first["input"]) | {"claim": first["executionArn"]}

    run(stack, replay)

    assert result(stack, key)["execution"] != first["executionArn"]
    assert len(routing.events(about={key})) == 2


BASE64 = re.compile(r"/9j/|iVBORw0KGgo|R0lGOD|UklGR|image_data|endpointInput|[A-Za-z0-9+/]{200,}={0,2}")
"""The start of JPEG, PNG, GIF and WebP in base64, the field with the photo, and any long base64."""


def test_no_log_and_no_message_contains_a_photo(stack):
    review, failed = (stack.outputs[f"{name}QueueUrl"] for name in ("Review", "Failed"))
    logs, tiny = (
        stack.client("logs"),
        photos.photo("PNG", photos.noise(90, 90)),
    )  # which the model gets as PNG
    uploaded(stack, {"quiet.png": tiny, "quiet.jpg": photos.photo("JPEG"), "quiet.txt": b"no photo"})

    written = [
        event["message"]
        for group in logs.describe_log_groups()["logGroups"]
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=group["logGroupName"])
        for event in page["events"]
    ]
    servers = [line for file in stack._logs.glob("*.log") for line in file.read_text().splitlines()]
    sent = [message["Body"] for url in (review, failed) for message in messages(stack.client("sqs"), url)]

    assert any('"decided"' in line for line in written)
    assert any("quiet.png" in body for body in sent)
    assert [text for text in (*written, *servers, *sent) if BASE64.search(text)] == []
