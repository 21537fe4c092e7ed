"""Each function in Lambda's own runtime, by the command that people use, on its sample event."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from local import Ports
from local.stack import Stack
from tests.conftest import ROOT, free_port

IMAGE = "public.ecr.aws/lambda/python:3.13-x86_64"


def missing() -> str | None:
    """What is missing to run a function in its container, if anything."""
    if not shutil.which("docker"):
        return "no docker on the path"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker engine runs"
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        return f"the image {IMAGE} is not here: docker pull {IMAGE}"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=f"sam local invoke: {missing()}")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that containers can reach."""
    stack = Stack(
        home=tmp_path_factory.mktemp("stack"), ports=Ports(free_port(), free_port()), for_containers=True
    )
    with stack.running(report=print):
        yield stack


def invoked(stack: Stack, function: str, event: Path) -> dict[str, Any]:
    done = subprocess.run(
        [
            Path(sys.executable).parent / "sam",
            *("local", "invoke", function, "--event", event, "--skip-pull-image"),
            *("--template", stack.home / "build" / "template.yaml"),
        ],
        env={**os.environ, "AWS_ENDPOINT_URL": stack.container_url, "SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_serialize_answers_its_sample_event_with_a_small_jpeg(stack):
    answer = invoked(stack, "SerializeFunction", ROOT / "events" / "serialize.json")

    assert answer.keys() == {"image_data", "content_type", "width", "height", "sha256"}
    image = Image.open(io.BytesIO(base64.b64decode(answer["image_data"])))
    assert (image.format, image.size) == ("JPEG", (224, 168))
    assert (answer["width"], answer["height"]) == (320, 240)


def test_classify_answers_its_sample_event_with_probabilities(stack):
    answer = invoked(stack, "ClassifyFunction", ROOT / "events" / "classify.json")

    assert answer.keys() == {"inferences"}
    assert len(answer["inferences"]) == 3
    assert sum(answer["inferences"]) == pytest.approx(1, abs=1e-4)


def test_filter_answers_its_sample_event_with_a_decision(stack):
    answer = invoked(stack, "FilterFunction", ROOT / "events" / "filter.json")

    assert answer == {"decision": "accepted", "label": "bicycle", "confidence": 0.93, "reason": "confident"}
