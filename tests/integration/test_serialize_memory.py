"""The largest photos that are read fit in the function's memory, one after another in a warm function."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import photos

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure")

MB = 1_000_000
FUNCTION = 512 * 2**20
LAMBDA = 40 * MB
"""The most memory that Lambda's runtime itself uses."""

ENVIRONMENT = {"IMAGE_SIZE": "224", "MALLOC_TRIM_THRESHOLD_": "16777216"}
"""As in template.yaml. Without the second, the C library retains up to 130 MB of a HEIC."""

ROOT = Path(__file__).parents[2]

HANDLE = """
import json, sys, tempfile, time
from datetime import datetime, timezone
from pathlib import Path
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.response import StreamingBody
from botocore.stub import Stubber
from functions.serialize import app, sandbox

def peak():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024

# The decoding subprocess shares this process's memory, so its peak is the function's.
def serialize_and_write_peak(file, box, log_keys, serialize=sandbox.serialize):
    try:
        return serialize(file, box, log_keys)
    finally:
        child_peak.write_text(str(peak()))

sandbox.DECODING_SECONDS = 600  # in this test the memory counts
sandbox.serialize, child_peak = serialize_and_write_peak, Path(tempfile.mkdtemp()) / "peak"
context = LambdaContext()
context._function_name = context._invoked_function_arn = context._aws_request_id = "serialize"
context._memory_limit_in_mb = 512
for path in map(Path, sys.argv[1:]):
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    child_peak.write_text("0")
    size, started = path.stat().st_size, time.perf_counter()
    with path.open("rb") as file, Stubber(app.S3) as s3:
        stored = {"ContentLength": size, "LastModified": datetime.now(timezone.utc)}
        s3.add_response("get_object", {"Body": StreamingBody(file, size), **stored})
        answer = app.lambda_handler({"bucket": "uploads", "key": path.name}, context)
    line = {"measured": path.name, "peak": max(peak(), int(child_peak.read_text())), "answer": answer}
    print(json.dumps(line | {"seconds": time.perf_counter() - started}))
"""

UNDERSTATED = "AVIF with an understated size"


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("large")
    files = photos.LARGE | {UNDERSTATED: photos.avif_with_understated_size}
    for name, file in files.items():
        (folder / name).write_bytes(file())
    done = subprocess.run(
        [sys.executable, "-c", HANDLE, *(folder / name for name in files)],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["measured"]: line for line in lines if "measured" in line}


@pytest.mark.parametrize("name", photos.LARGE)
def test_a_large_photo_fits_in_the_functions_memory(name, measured):
    photo = measured[name]

    assert "image_data" in photo["answer"], photo["answer"]
    assert photo["peak"] + LAMBDA < FUNCTION


def test_a_photo_that_needs_more_memory_than_its_header_declares_is_rejected(measured):
    photo = measured[UNDERSTATED]

    assert photo["answer"]["rejected"]["reason"] == "damaged"
    assert photo["peak"] + LAMBDA < FUNCTION


def test_50_megapixels_of_a_phone_take_less_than_200_mb(measured):
    assert measured["JPEG of 50 megapixels"]["peak"] < 200 * MB
