"""`sam local invoke` runs each function in Lambda's own runtime with its sample event."""

import base64
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from samcli.yamlhelper import yaml_parse

from local.stack import CAPTURE_BUCKET, CAPTURE_URI, ENDPOINT_NAME, Stack
from pipeline import sample_images
from tests import containers
from tests.conftest import ROOT
from tests.waiting import eventually

MISSING = containers.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"sam local invoke: {MISSING}")


@pytest.fixture(scope="module")
def stack(stack_for_containers: Stack) -> Stack:
    return stack_for_containers


def invoked(stack: Stack, function: str, event: Path) -> dict[str, Any]:
    done = subprocess.run(
        [
            Path(sys.executable).parent / "sam",
            *("local", "invoke", function, "--event", event, "--skip-pull-image"),
            *("--template", stack.home / "build" / "template.yaml"),
            *("--parameter-overrides", f"CaptureUri={CAPTURE_URI} EndpointName={ENDPOINT_NAME}"),
        ],
        env={**os.environ, "AWS_ENDPOINT_URL": stack.container_url, "SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_every_function_and_sample_event_is_tested_here():
    resources = yaml_parse((ROOT / "template.yaml").read_text())["Resources"]
    functions = {name for name, one in resources.items() if one["Type"] == "AWS::Serverless::Function"}
    samples = {file.stem for file in (ROOT / "events").glob("*.json")}

    # A new function or event needs a test below.
    assert functions == {"SerializeFunction", "ClassifyFunction", "FilterFunction", "MonitorFunction"}
    assert samples == {"serialize", "classify", "filter", "monitor", "photo-uploaded"}


def test_a_fault_is_reported_with_the_name_of_its_class(stack, tmp_path):
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"inferences": [0.5, 0.5]}))

    assert invoked(stack, "FilterFunction", event)["errorType"] == "InferencesError"


def test_serialize_returns_a_small_jpeg(stack):
    answer = invoked(stack, "SerializeFunction", ROOT / "events" / "serialize.json")

    assert answer.keys() == {"image_data", "content_type", "width", "height", "sha256", "uploaded_at"}
    image = Image.open(io.BytesIO(base64.b64decode(answer["image_data"])))
    assert (image.format, image.size) == ("JPEG", (224, 168))
    assert (answer["width"], answer["height"]) == (320, 240)


def test_classify_returns_probabilities(stack):
    answer = invoked(stack, "ClassifyFunction", ROOT / "events" / "classify.json")

    assert answer.keys() == {"inferences"}
    assert len(answer["inferences"]) == 3
    assert sum(answer["inferences"]) == pytest.approx(1, abs=1e-4)


def test_filter_returns_a_decision(stack):
    answer = invoked(stack, "FilterFunction", ROOT / "events" / "filter.json")

    assert answer == {"decision": "accepted", "label": "bicycle", "confidence": 0.93, "reason": "confident"}


def test_monitor_reads_the_endpoints_captures(stack, tmp_path):
    minute = timedelta(minutes=1)
    before = datetime.now(UTC) - minute
    photo = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1))
    stack.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=ENDPOINT_NAME, ContentType="image/jpeg", Body=photo
    )
    eventually(lambda: stack.client("s3").list_objects_v2(Bucket=CAPTURE_BUCKET).get("KeyCount"))
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"from": before.isoformat(), "to": (datetime.now(UTC) + minute).isoformat()}))

    answer = invoked(stack, "MonitorFunction", event)

    assert answer["records"] >= 1
    assert (answer["broken"], answer["drifted"]) == (0, [])
    assert 0.5 < answer["estimated_accuracy"] <= 1


def test_monitor_handles_a_day_without_traffic(stack):
    answer = invoked(stack, "MonitorFunction", ROOT / "events" / "monitor.json")

    assert answer["window"] == {"from": "2026-03-03T19:00:00Z", "to": "2026-03-04T19:00:00Z"}
    assert answer["records"] == 0
