"""The inference server runs as a separate process and is called through boto3."""

import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from PIL import Image

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


class Server:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        # The line is printed once the port is open and the model is loaded.
        address = re.search(r"http://\S+", process.stderr.readline())
        assert address, process.stderr.read()
        self.url = address[0]

    def runtime(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", self.url)
        return boto3.client("sagemaker-runtime", config=Config(retries={"total_max_attempts": 1}))

    def stop(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "model", "serve", "--port=0", *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def runtime(server, monkeypatch):
    return server.runtime(monkeypatch)


@pytest.fixture(scope="module")
def photo() -> bytes:
    stream = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


def test_invoke_endpoint_returns_probabilities(runtime, photo):
    answer = runtime.invoke_endpoint(
        EndpointName="vehicles", ContentType="image/jpeg", Accept="application/json", Body=photo
    )

    assert answer["ContentType"] == "application/json"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert sum(json.load(answer["Body"])) == pytest.approx(1, abs=1e-6)


def test_invoke_endpoint_raises_a_model_error_with_the_reason(runtime):
    with pytest.raises(runtime.exceptions.ModelError) as raised:
        runtime.invoke_endpoint(EndpointName="vehicles", ContentType="image/jpeg", Body=b"a text")

    assert raised.value.response["OriginalStatusCode"] == 400
    assert "not a JPEG" in raised.value.response["OriginalMessage"]
    assert "LogStreamArn" in raised.value.response


def test_invoke_endpoint_raises_a_validation_error_for_an_invalid_name(runtime, photo):
    with pytest.raises(runtime.exceptions.ValidationError, match="endpointName"):
        runtime.invoke_endpoint(EndpointName="no_such_name", ContentType="image/jpeg", Body=photo)


def test_a_body_over_the_limit_is_refused_and_not_truncated(runtime):
    with pytest.raises(ClientError, match="413"):
        runtime.invoke_endpoint(EndpointName="vehicles", ContentType="image/jpeg", Body=b"x" * 20_000_000)


def test_eight_concurrent_callers_are_all_answered(runtime, photo):
    def ask(_: int) -> list[float]:
        answer = runtime.invoke_endpoint(EndpointName="vehicles", ContentType="image/jpeg", Body=photo)
        return json.load(answer["Body"])

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(ask, range(32)))

    assert all(answer == pytest.approx(answers[0], abs=1e-6) for answer in answers)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_at_once_with_all_records_written(how, photo, tmp_path, monkeypatch):
    with serving(f"--capture={tmp_path}") as server:
        runtime = server.runtime(monkeypatch)
        for number in range(3):
            runtime.invoke_endpoint(
                EndpointName="vehicles", ContentType="image/jpeg", Body=photo, InferenceId=f"photo-{number}"
            )
        code, stderr = server.stop(how), server.process.stderr.read()

    assert code == 0
    assert stderr == ""  # no warning about clients that are still connected
    lines = [line for file in tmp_path.rglob("*.jsonl") for line in file.read_text().splitlines()]
    assert [json.loads(line)["eventMetadata"]["inferenceId"] for line in lines] == [
        "photo-0",
        "photo-1",
        "photo-2",
    ]
    assert not list(tmp_path.rglob(".*"))


def test_requests_in_progress_when_it_is_stopped_are_still_answered_and_recorded(
    photo, tmp_path, monkeypatch
):
    with serving(f"--capture={tmp_path}") as server:
        runtime = server.runtime(monkeypatch)

        def ask(_: int) -> None:
            runtime.invoke_endpoint(EndpointName="vehicles", ContentType="image/jpeg", Body=photo)

        with ThreadPoolExecutor(8) as callers:
            futures = [callers.submit(ask, number) for number in range(200)]
            futures[0].result()
            code = server.stop(signal.SIGTERM)
            succeeded = sum(future.exception() is None for future in futures)

    assert code == 0
    assert succeeded > 0
    assert sum(len(file.read_text().splitlines()) for file in tmp_path.rglob("*.jsonl")) == succeeded


def test_a_port_in_use_fails_with_one_line_that_names_it(server):
    port = server.url.rpartition(":")[2]

    done = subprocess.run(
        [sys.executable, "-m", "model", "serve", f"--port={port}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == (
        f"Error: Cannot listen on 127.0.0.1, port {port}: Address already in use. "
        "Choose another port with --port.\n"
    )


def test_pictures_that_unpack_to_gigabytes_are_decoded_one_at_a_time(photo):
    stream = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(stream, "WEBP", lossless=True)
    headers = {"Content-Type": "image/webp", "X-Amzn-SageMaker-Custom-Attributes": "patience=60"}

    def peak(bombs: int) -> int:
        """The server's peak memory in kilobytes."""
        with serving() as server, ThreadPoolExecutor(bombs) as callers:
            request = {"content": stream.getvalue(), "headers": headers, "timeout": 60}
            answers = [
                callers.submit(httpx.post, f"{server.url}/invocations", **request) for _ in range(bombs)
            ]
            assert {answer.result().status_code for answer in answers} == {200}
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            return int(re.search(r"VmHWM:\s+(\d+)", status)[1])

    assert peak(8) < 1.5 * peak(1)
