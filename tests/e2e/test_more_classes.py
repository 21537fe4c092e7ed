"""Five classes, as in docs/more-classes.md: photos, data set, model, stack, results.

The stack is also the cheapest one (docs/costs.md): an Express workflow, and captures made by the classify
function, as for a serverless endpoint.
"""

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from boto3.dynamodb.types import TypeDeserializer
from click.testing import CliRunner
from PIL import ImageDraw, ImageFilter

from local import Ports, demo
from local.stack import CAPTURE_BUCKET, ENDPOINT_NAME, Stack
from pipeline import sample_images
from pipeline.review_page import assign_keys
from pipeline.review_queue import ReviewQueue
from scones import cli
from tests.conftest import free_port

EACH = 8
CAPTURES = f"s3://{CAPTURE_BUCKET}/classify-function"


def car(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    draw.rounded_rectangle((110, 190, 530, 300), 40, fill=(170, 40, 40))
    draw.polygon([(190, 195), (250, 120), (400, 120), (460, 195)], fill=(120, 160, 190))
    for x in (200, 440):
        sample_images.wheel(draw, (x, 300), 44, tyre=16, spokes=5)


def bus(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    draw.rectangle((60, 70, 580, 310), fill=(230, 190, 30))
    for x in range(85, 540, 75):
        draw.rectangle((x, 100, x + 55, 170), fill=(60, 80, 100))
    for x in (150, 490):
        sample_images.wheel(draw, (x, 315), 40, tyre=18, spokes=4)


def handcart(draw: ImageDraw.ImageDraw, chance: random.Random) -> None:
    draw.polygon([(180, 150), (480, 150), (430, 270), (230, 270)], fill=(110, 80, 50))
    draw.line((480, 150, 600, 100), fill=(60, 50, 40), width=14)
    sample_images.wheel(draw, (330, 300), 40, tyre=10, spokes=8)


SUBJECTS: Mapping[str, sample_images.Draw] = {
    "bicycle": sample_images.bicycle,
    "bus": bus,
    "car": car,
    "handcart": handcart,
    "motorcycle": sample_images.motorcycle,
}


def photo(subject: sample_images.Draw, seed: int) -> bytes:
    """Draw a subject as a phone might photograph it: with varying light and angle."""
    chance = random.Random(seed)
    image = sample_images.picture(subject, seed).rotate(chance.uniform(-4, 4), fillcolor=(140, 140, 140))
    image = image.point(lambda level: level * chance.uniform(0.85, 1.1))
    return sample_images.encoded(
        image.filter(ImageFilter.GaussianBlur(chance.uniform(0, 0.8))).convert("RGB")
    )


class Serverless(Stack):
    """A stack for many photos, and for `scones deploy --serverless`."""

    def deploy(self, parameters: Mapping[str, object]) -> None:
        settings = {"CaptureUri": CAPTURES, "CapturePercent": 100, "WorkflowType": "EXPRESS"}
        super().deploy({**parameters, **settings})


def role_of(stack: Stack, function: str) -> str:
    roles = [role["RoleName"] for role in stack.client("iam").list_roles()["Roles"]]
    (role,) = [name for name in roles if f"{function}FunctionRole" in name]
    return role


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Make a model of five classes with the three commands of the walk-through."""
    folder = tmp_path_factory.mktemp("five")
    for label, subject in SUBJECTS.items():
        (folder / "photos" / label).mkdir(parents=True)
        for seed in range(EACH):
            (folder / "photos" / label / f"{seed}.jpg").write_bytes(photo(subject, seed))
    run("data", "--source", folder / "photos", "--out", folder / "data")
    run("train", "--data", folder / "data", "--out", folder / "model")
    run("evaluate", "--model", folder / "model", "--data", folder / "data", "--out", folder / "evaluation")
    return folder / "model"


@pytest.fixture(scope="module")
def five(model, tmp_path_factory) -> Iterator[Stack]:
    stack = Serverless(tmp_path_factory.mktemp("stack"), Ports(free_port(), free_port()), model)
    with stack.running(progress=print):
        yield stack


def test_a_stack_classifies_five_classes_without_any_edits(five):
    sent = {f"{label}.jpg": photo(subject, seed=100) for label, subject in SUBJECTS.items()}

    outcomes = {one.photo: one for one in demo.classify(five, sent)}

    assert {name: one.label for name, one in outcomes.items()} == {
        f"{label}.jpg": label for label in SUBJECTS
    }
    items = five.client("dynamodb").scan(TableName=five.outputs["ResultsTableName"])["Items"]
    labels = five.outputs["ClassLabels"].split(",")
    assert set(SUBJECTS) <= set(labels)
    machine = five.client("stepfunctions").describe_state_machine(
        stateMachineArn=five.outputs["StateMachineArn"]
    )
    assert machine["type"] == "EXPRESS"
    for item in items:
        result = {name: TypeDeserializer().deserialize(value) for name, value in item.items()}
        assert len(result["inferences"]) == len(labels)
        assert labels[max(range(len(labels)), key=result["inferences"].__getitem__)] == result["label"]


def test_captures_by_classify_are_read_like_an_endpoints(five, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", five.endpoint_url)

    labels = five.outputs["ClassLabels"]
    output = run("monitor", "--captures", f"{CAPTURES}/{ENDPOINT_NAME}", "--labels", labels, "--json")

    report = json.loads(output)
    assert (report["records"], report["broken"], report["without"]) == (len(SUBJECTS), 0, {})
    assert {label: n for label, n in report["class_mix"].items() if n} == dict.fromkeys(SUBJECTS, 1)
    monitored = five.client("lambda").invoke(FunctionName=five.outputs["MonitorFunctionName"], Payload="{}")
    assert "FunctionError" not in monitored


def test_classify_may_write_only_this_endpoints_captures(five):
    policy = five.client("iam").get_role_policy(RoleName=role_of(five, "Classify"), PolicyName="classify")

    statements = policy["PolicyDocument"]["Statement"]
    (allowed,) = [one for one in statements if "s3:PutObject" in one["Action"]]

    assert allowed["Action"] == "s3:PutObject"
    assert allowed["Resource"] == f"arn:aws:s3:::{CAPTURE_BUCKET}/classify-function/{ENDPOINT_NAME}/*"


@contextmanager
def without_permissions(stack: Stack, function: str) -> Iterator[None]:
    """Remove all permissions of a function for a ``with`` block."""
    iam, role = stack.client("iam"), role_of(stack, function)
    policy = iam.get_role_policy(RoleName=role, PolicyName=function.lower())["PolicyDocument"]
    iam.delete_role_policy(RoleName=role, PolicyName=function.lower())
    try:
        yield
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=function.lower(), PolicyDocument=json.dumps(policy))


def test_executions_of_an_express_workflow_cannot_be_listed_as_in_aws(five):
    step_functions = five.client("stepfunctions")

    with pytest.raises(step_functions.exceptions.StateMachineTypeNotSupported):
        step_functions.list_executions(stateMachineArn=five.outputs["StateMachineArn"])


def test_a_backfill_through_express_workflows_counts_failures(five):
    for name in ("a.jpg", "b.jpg"):
        five.client("s3").put_object(
            Bucket=five.outputs["UploadBucketName"],
            Key=f"archive/{name}",
            Body=photo(sample_images.bicycle, 100),
        )
    command = ["backfill", "archive/", "--stack", str(five.description), "--tolerate", "100", "--json"]

    with without_permissions(five, "Classify"):
        failed = CliRunner().invoke(cli, command)
    retried = json.loads(run(*command))

    report = json.loads(failed.stdout.splitlines()[0])
    assert (failed.exit_code, report["failed"], report["done"]) == (1, 2, 0)
    assert (retried["failed"], retried["done"], retried["already"], retried["accepted"]) == (0, 2, 0, 2)
    assert json.loads(run(*command))["already"] == 2


def test_traffic_through_express_workflows_has_an_outcome_for_every_photo(five):
    sent = json.loads(
        run("traffic", "--burst", 6, "--duplicates", 0.3, "--stack", five.description, "--json")
    )

    assert (sent["sent"], sent["failed"], sent["missing"], sent["double"]) == (6, 0, 0, 0)


def test_the_review_page_has_a_key_for_each_class(five):
    from pipeline.stack import find_stack  # noqa: PLC0415

    queue = ReviewQueue(find_stack(str(five.description)), "ada")

    assert set(SUBJECTS) <= assign_keys(queue.labels).keys()
