"""Five classes, as docs/more-classes.md walks through them: photos, data set, model, stack, results.

The stack is the cheapest besides (docs/costs.md): Express, and for a serverless endpoint, so that classify
captures.
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
CAPTURES = f"s3://{CAPTURE_BUCKET}/of-classify"


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
    """A drawing as a phone might take it: another light and another angle each time."""
    chance = random.Random(seed)
    image = sample_images.picture(subject, seed).rotate(chance.uniform(-4, 4), fillcolor=(140, 140, 140))
    image = image.point(lambda level: level * chance.uniform(0.85, 1.1))
    return sample_images.encoded(
        image.filter(ImageFilter.GaussianBlur(chance.uniform(0, 0.8))).convert("RGB")
    )


class Serverless(Stack):
    """A stack deployed as for many photos and `scones deploy --serverless`."""

    def deploy(self, parameters: Mapping[str, object]) -> None:
        cheapest = {"CaptureUri": CAPTURES, "CapturePercent": 100, "WorkflowType": "EXPRESS"}
        super().deploy({**parameters, **cheapest})


def role_of(stack: Stack, function: str) -> str:
    roles = [role["RoleName"] for role in stack.client("iam").list_roles()["Roles"]]
    (role,) = [name for name in roles if f"{function}FunctionRole" in name]
    return role


def done(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model of five classes, made with the three commands of the walk-through."""
    folder = tmp_path_factory.mktemp("five")
    for label, subject in SUBJECTS.items():
        (folder / "photos" / label).mkdir(parents=True)
        for seed in range(EACH):
            (folder / "photos" / label / f"{seed}.jpg").write_bytes(photo(subject, seed))
    done("data", "--source", folder / "photos", "--out", folder / "data")
    done("train", "--data", folder / "data", "--out", folder / "model")
    done("evaluate", "--model", folder / "model", "--data", folder / "data", "--out", folder / "evaluation")
    return folder / "model"


@pytest.fixture(scope="module")
def five(model, tmp_path_factory) -> Iterator[Stack]:
    stack = Serverless(tmp_path_factory.mktemp("stack"), Ports(free_port(), free_port()), model)
    with stack.running(report=print):
        yield stack


def test_a_stack_of_five_classes_answers_with_them_and_nothing_was_edited(five):
    sent = {f"{label}.jpg": photo(subject, seed=100) for label, subject in SUBJECTS.items()}

    outcomes = {one.photo.name: one for one in demo.classify(five, sent)}

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


def test_what_classify_captured_is_read_as_an_endpoints_captures_are(five, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", five.endpoint_url)

    labels = five.outputs["ClassLabels"]
    printed = done("monitor", "--captures", f"{CAPTURES}/{ENDPOINT_NAME}", "--labels", labels, "--json")

    read = json.loads(printed)
    assert (read["records"], read["broken"], read["without"]) == (len(SUBJECTS), 0, {})
    assert {label: n for label, n in read["class_mix"].items() if n} == dict.fromkeys(SUBJECTS, 1)
    monitored = five.client("lambda").invoke(FunctionName=five.outputs["MonitorFunctionName"], Payload="{}")
    assert "FunctionError" not in monitored


def test_the_role_may_write_captures_of_this_endpoint_and_nothing_else(five):
    policy = five.client("iam").get_role_policy(RoleName=role_of(five, "Classify"), PolicyName="classify")

    statements = policy["PolicyDocument"]["Statement"]
    (allowed,) = [one for one in statements if "s3:PutObject" in one["Action"]]

    assert allowed["Action"] == "s3:PutObject"
    assert allowed["Resource"] == f"arn:aws:s3:::{CAPTURE_BUCKET}/of-classify/{ENDPOINT_NAME}/*"


@contextmanager
def without_permissions(stack: Stack, function: str) -> Iterator[None]:
    """Take away all that a function may do, for a while."""
    iam, role = stack.client("iam"), role_of(stack, function)
    policy = iam.get_role_policy(RoleName=role, PolicyName=function.lower())["PolicyDocument"]
    iam.delete_role_policy(RoleName=role, PolicyName=function.lower())
    try:
        yield
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=function.lower(), PolicyDocument=json.dumps(policy))


def test_executions_of_an_express_workflow_are_in_its_log_alone_as_in_aws(five):
    step_functions = five.client("stepfunctions")

    with pytest.raises(step_functions.exceptions.StateMachineTypeNotSupported):
        step_functions.list_executions(stateMachineArn=five.outputs["StateMachineArn"])


def test_express_workflows_are_backfilled_too_and_their_failures_are_failures(five):
    for name in ("a.jpg", "b.jpg"):
        five.client("s3").put_object(
            Bucket=five.outputs["UploadBucketName"],
            Key=f"archive/{name}",
            Body=photo(sample_images.bicycle, 100),
        )
    asked = ["backfill", "archive/", "--stack", str(five.description), "--tolerate", "100", "--json"]

    with without_permissions(five, "Classify"):
        failed = CliRunner().invoke(cli, asked)
    then = json.loads(done(*asked))

    report = json.loads(failed.stdout.splitlines()[0])
    assert (failed.exit_code, report["failed"], report["done"]) == (1, 2, 0)
    assert (then["failed"], then["done"], then["already"], then["accepted"]) == (0, 2, 0, 2)
    assert json.loads(done(*asked))["already"] == 2


def test_traffic_through_express_workflows_is_accounted_for(five):
    sent = json.loads(
        done("traffic", "--burst", 6, "--duplicates", 0.3, "--stack", five.description, "--json")
    )

    assert (sent["sent"], sent["failed"], sent["missing"], sent["double"]) == (6, 0, 0, 0)


def test_the_review_page_has_a_key_for_each_class(five):
    from pipeline.stack import find_stack  # noqa: PLC0415

    queue = ReviewQueue(find_stack(str(five.description)), "ada")

    assert set(SUBJECTS) <= assign_keys(queue.labels).keys()
