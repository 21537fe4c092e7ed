import asyncio
import base64
import io
import json
import logging
import math
import os
import re
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
from moto import mock_aws
from PIL import Image
from starlette.applications import Starlette

from model.network.classifier import Classifier
from model.serving import hosting
from model.serving.app import CONTENT_TYPES, create_app
from model.serving.capture import Capture
from model.serving.hosting import MAX_BODY
from tests.waiting import PATIENCE, eventually

with warnings.catch_warnings():
    # It warns that httpx has a successor, which nothing else here needs.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.load()


@pytest.fixture(scope="module")
def client(classifier) -> Iterator[TestClient]:
    with TestClient(create_app(classifier)) as client:
        yield client


@pytest.fixture(scope="module")
def photo() -> bytes:
    stream = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


JPEG = {"Content-Type": "image/jpeg"}


def test_ping_succeeds_once_the_model_is_loaded(client):
    assert client.get("/ping").status_code == 200


def test_an_answer_is_a_plain_list_in_the_order_of_the_labels(client, classifier, photo):
    answer = client.post("/invocations", content=photo, headers=JPEG)

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == classifier.classify(photo)


@pytest.mark.parametrize("content_type", [*CONTENT_TYPES, "Image/JPEG; charset=binary"])
def test_every_content_type_of_a_photo_is_accepted(client, photo, content_type):
    assert (
        client.post("/invocations", content=photo, headers={"Content-Type": content_type}).status_code == 200
    )


@pytest.mark.parametrize(
    "accept", ["application/json", "*/*", "text/html, application/json;q=0.5", "application/*"]
)
def test_the_answer_is_json_if_the_client_accepts_it(client, photo, accept):
    assert client.post("/invocations", content=photo, headers=JPEG | {"Accept": accept}).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b"", JPEG, 400, "empty"),
        (b"a text", JPEG, 400, "not a JPEG"),
        (b"a text", {"Content-Type": "text/csv"}, 415, "image/jpeg"),
        (b"a text", {}, 415, "image/jpeg"),
        (b"a text", JPEG | {"Accept": "text/csv"}, 406, "application/json"),
        (b"x" * (MAX_BODY + 1), JPEG, 413, "6291456"),
    ],
    ids=["empty", "text", "csv", "no content type", "accepts csv", "too large"],
)
def test_an_invalid_request_is_refused_with_the_reason(client, body, headers, status, reason):
    answer = client.post("/invocations", content=body, headers=headers)

    assert answer.status_code == status
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/invocations", 405), ("GET", "/", 404)])
def test_other_routes_and_methods_are_refused_in_the_same_form(client, method, path, status):
    answer = client.request(method, path)

    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


class Broken:
    """A model with a bug."""

    def classify(self, photo: bytes) -> list[float]:
        raise RuntimeError("an internal detail")


def test_a_bug_is_logged_but_not_shown_to_the_client(photo, caplog):
    with TestClient(create_app(Broken())) as client, caplog.at_level(logging.ERROR):
        answer = client.post("/invocations", content=photo, headers=JPEG)
        through_endpoint = client.post("/endpoints/any/invocations", content=photo, headers=JPEG)

    assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
    assert "an internal detail" in caplog.text
    assert through_endpoint.status_code == 424
    assert through_endpoint.json()["OriginalStatusCode"] == 500
    assert through_endpoint.json()["Message"].startswith("Received server error (500) from primary")
    assert "internal detail" not in through_endpoint.text


def test_an_endpoint_answers_like_the_container_and_names_its_variant(client, photo):
    answer = client.post("/endpoints/vehicles-1/invocations", content=photo, headers=JPEG)

    assert answer.json() == client.post("/invocations", content=photo, headers=JPEG).json()
    assert answer.headers["x-Amzn-Invoked-Production-Variant"] == "AllTraffic"
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-amzn-RequestId"])


def test_a_refusal_by_the_container_is_a_model_error(client):
    answer = client.post("/endpoints/vehicles/invocations", content=b"a text", headers=JPEG)

    assert answer.status_code == 424
    assert answer.headers["x-amzn-ErrorType"] == "ModelError"
    error = answer.json()
    assert error["OriginalStatusCode"] == 400
    assert "not a JPEG" in json.loads(error["OriginalMessage"])["error"]
    assert error["LogStreamArn"].endswith("/aws/sagemaker/Endpoints/vehicles")


def test_a_body_over_the_limit_does_not_reach_the_container(client):
    answer = client.post("/endpoints/vehicles/invocations", content=b"x" * (MAX_BODY + 1), headers=JPEG)

    assert answer.status_code == 413
    assert answer.json() == {"Message": "HTTP content length exceeded 6291456 bytes."}


@pytest.mark.parametrize("name", ["a", "Vehicles-2", "a--b", "x" * 63])
def test_endpoint_names_that_sagemaker_allows_are_served(client, photo, name):
    assert client.post(f"/endpoints/{name}/invocations", content=photo, headers=JPEG).status_code == 200


@pytest.mark.parametrize("name", ["-a", "a-", "a_b", "a.b", "a%0a", "é", "x" * 64])
def test_endpoint_names_that_sagemaker_does_not_allow_are_refused(client, photo, name, tmp_path):
    answer = client.post(f"http://testserver/endpoints/{name}/invocations", content=photo, headers=JPEG)

    assert answer.status_code in {400, 404}
    if answer.status_code == 400:
        assert answer.headers["x-amzn-ErrorType"] == "ValidationError"
        assert "endpointName" in answer.json()["Message"]


def captured(folder: Path) -> list[dict[str, dict[str, object]]]:
    return [
        json.loads(line) for file in sorted(folder.rglob("*.jsonl")) for line in file.read_text().splitlines()
    ]


def test_requests_to_an_endpoint_are_captured_in_sagemakers_format(classifier, photo, tmp_path):
    before = datetime.now(UTC).replace(microsecond=0)  # SageMaker's times are in seconds
    with TestClient(create_app(classifier, Capture(tmp_path))) as client:
        headers = JPEG | {"X-Amzn-SageMaker-Inference-Id": "photo-17"}
        answer = client.post("/endpoints/vehicles/invocations", content=photo, headers=headers)
        client.post("/endpoints/vehicles/invocations", content=photo, headers=JPEG)
        client.post("/endpoints/vehicles/invocations", content=b"a text", headers=JPEG)
        client.post("/invocations", content=photo, headers=JPEG)

    with_id, without = captured(tmp_path)
    metadata = with_id["eventMetadata"]
    assert with_id["captureData"] == {
        "endpointInput": {
            "observedContentType": "image/jpeg",
            "mode": "INPUT",
            "data": base64.b64encode(photo).decode(),
            "encoding": "BASE64",
        },
        "endpointOutput": {
            "observedContentType": "application/json",
            "mode": "OUTPUT",
            "data": answer.text,
            "encoding": "JSON",
        },
    }
    assert list(with_id) == ["captureData", "eventMetadata", "eventVersion"]
    assert with_id["eventVersion"] == "0"
    assert list(metadata) == ["eventId", "inferenceId", "inferenceTime"]
    assert metadata["inferenceId"] == "photo-17"
    assert before <= datetime.fromisoformat(metadata["inferenceTime"]) <= datetime.now(UTC)
    assert "inferenceId" not in without["eventMetadata"]
    assert without["eventMetadata"]["eventId"] != metadata["eventId"]


def test_a_capture_files_path_names_endpoint_variant_and_hour(classifier, photo, tmp_path):
    with TestClient(create_app(classifier, Capture(tmp_path))) as client:
        client.post("/endpoints/vehicles/invocations", content=photo, headers=JPEG)

    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    path = file.relative_to(tmp_path).as_posix()
    assert re.fullmatch(
        r"vehicles/AllTraffic/\d{4}/\d\d/\d\d/\d\d/\d\d-\d\d-\d{3}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.jsonl",
        path,
    )


def test_a_file_is_written_once_it_has_enough_records_or_is_old_enough(classifier, photo, tmp_path):
    full, old = tmp_path / "full", tmp_path / "old"
    with TestClient(create_app(classifier, Capture(full, max_records=2, max_seconds=PATIENCE))) as client:
        for written in (0, 2, 2, 4):
            client.post("/endpoints/vehicles/invocations", content=photo, headers=JPEG)
            assert len(captured(full)) == written
    with TestClient(create_app(classifier, Capture(old, max_seconds=0.01))) as client:
        client.post("/endpoints/vehicles/invocations", content=photo, headers=JPEG)
        eventually(lambda: len(captured(old)) == 1)


def test_all_captures_are_written_to_s3_before_the_server_stops(classifier, photo, tmp_path):
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="captures")
        with TestClient(create_app(classifier, Capture(tmp_path, "s3://captures/data"))) as client:
            client.post("/endpoints/vehicles/invocations", content=photo, headers=JPEG)

        (key,) = [one["Key"] for one in s3.list_objects_v2(Bucket="captures")["Contents"]]
        (file,) = tmp_path.rglob("*.jsonl")
        assert key == f"data/{file.relative_to(tmp_path).as_posix()}"
        assert s3.get_object(Bucket="captures", Key=key)["Body"].read() == file.read_bytes()


def test_a_failing_capture_bucket_is_logged_and_photos_are_still_answered(classifier, photo, caplog):
    with mock_aws(), TestClient(create_app(classifier, Capture("s3://nobodys"))) as client:
        answer = client.post("/endpoints/vehicles/invocations", content=photo, headers=JPEG)

    assert answer.status_code == 200
    assert "1 captured records could not be written to s3://nobodys/vehicles/AllTraffic/" in caplog.text


class Occupied:
    """A model that answers only when it is told to."""

    def __init__(self) -> None:
        self.photos = []
        self.may_answer = threading.Event()

    def classify(self, photo: bytes) -> list[float]:
        self.photos.append(photo)
        assert self.may_answer.wait(60)
        return [1.0]


@pytest.fixture
def occupied(monkeypatch) -> Iterator[tuple[TestClient, Occupied]]:
    """A server whose only worker is occupied until the test ends."""
    monkeypatch.setattr(os, "process_cpu_count", lambda: 1)
    model = Occupied()
    with TestClient(create_app(model)) as client, ThreadPoolExecutor(1) as caller:
        first = caller.submit(client.post, "/invocations", content=b"first", headers=JPEG)
        while not model.photos:
            pass
        yield client, model
        model.may_answer.set()
        assert first.result().json() == [1.0]


def test_a_photo_that_cannot_be_answered_in_time_is_refused_with_the_time_to_come_back(occupied):
    client, model = occupied
    impatient = JPEG | {"X-Amzn-SageMaker-Custom-Attributes": "patience=0"}

    answer = client.post("/invocations", content=b"second", headers=impatient)
    through_endpoint = client.post("/endpoints/any/invocations", content=b"second", headers=impatient)

    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) == math.ceil(answer.json()["retry_after"])
    assert answer.json()["error"].startswith("busy; retry after ")
    assert through_endpoint.status_code == 424
    assert through_endpoint.json()["OriginalStatusCode"] == 429
    assert json.loads(through_endpoint.json()["OriginalMessage"])["retry_after"] > 0
    assert client.get("/ping").status_code == 200
    assert model.photos == [b"first"]


@pytest.mark.parametrize("path", ["/invocations", "/endpoints/any/invocations"])
def test_a_body_that_stops_half_way_is_given_up(classifier, monkeypatch, path):
    monkeypatch.setattr(hosting, "BODY_SECONDS", 0.05)
    half = {"type": "http.request", "body": b"half", "more_body": True}

    async def request() -> int:
        return await status(create_app(classifier), path, half)

    assert asyncio.run(request()) == 408


async def status(app: Starlette, path: str, *messages: dict[str, object]) -> int:
    """Call an application with these messages, and nothing after them; return its answer's status."""
    coming, sent = iter(messages), []

    async def receive():
        for message in coming:
            return message
        return await asyncio.Future()

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"image/jpeg")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    await asyncio.wait_for(app(scope, receive, send), 60)
    return sent[0]["status"]


def test_a_caller_that_hangs_up_in_the_queue_costs_no_work(occupied):
    client, model = occupied
    photo = {"type": "http.request", "body": b"second", "more_body": False}

    client.portal.call(status, client.app, "/invocations", photo, {"type": "http.disconnect"})

    model.may_answer.set()
    assert client.post("/invocations", content=b"third", headers=JPEG).status_code == 200
    assert model.photos == [b"first", b"third"]


def test_all_bodies_together_are_bounded(occupied, monkeypatch):
    client, _ = occupied
    monkeypatch.setattr(hosting, "MAX_BODIES", 10)  # the first photo's 5 bytes are held

    impatient = JPEG | {"X-Amzn-SageMaker-Custom-Attributes": "patience=0"}
    assert client.post("/invocations", content=b"123456", headers=impatient).status_code == 503
    assert client.post("/invocations", content=b"12345", headers=impatient).status_code == 429
