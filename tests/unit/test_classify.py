"""The classify function: its request to the endpoint, its reading of the answer, and its captures."""

import io
import json
import math
import re
import uuid
import zlib
from base64 import b64encode
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError
from botocore.response import StreamingBody
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from functions.classify import app
from functions.classify.answer import EndpointAnswerError, parse_probabilities
from functions.classify.app import (
    RUNTIME,
    EndpointBusyError,
    EndpointUnavailableError,
    lambda_handler,
    logger,
)
from functions.classify.capture import capture_path, format_record
from model.serving.admission import Caller

TIMEOUT = ConnectTimeoutError(endpoint_url="https://s3")
IMAGE = b"\xff\xd8 a small photo"
EVENT = {
    "image_data": b64encode(IMAGE).decode(),
    "content_type": "image/jpeg",
    "inference_id": "5f1c-7e",
    "execution": "arn:of:the:execution",
}
REQUEST = {
    "EndpointName": "vehicle-classifier",
    "ContentType": "image/jpeg",
    "Accept": "application/json",
    "CustomAttributes": "patience=4; waited=0; priority=normal",
    "InferenceId": "5f1c-7e",
    "Body": IMAGE,
}


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("ENDPOINT_NAME", "vehicle-classifier")
    with Stubber(RUNTIME) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def answers(endpoint, body: bytes) -> None:
    response = {"Body": StreamingBody(io.BytesIO(body), len(body)), "ContentType": "application/json"}
    endpoint.add_response("invoke_endpoint", response, REQUEST)


def test_the_photo_is_sent_to_the_endpoint_and_its_probabilities_are_returned(endpoint, context):
    answers(endpoint, b"[0.92, 0.05, 0.03]")

    assert lambda_handler(EVENT, context) == {"inferences": [0.92, 0.05, 0.03]}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not json",
        b"[" * 100_000,
        b"{}",
        b"[]",
        b"null",
        b"[0.92, null]",
        b'["0.92", "0.08"]',
        b"[[0.92, 0.08]]",
        b"[NaN, 0.5]",
        b"[Infinity, 0]",
        b"[1.2, -0.2]",
        b"[1.005]",
        b'{"0.92": 1}',
        b"[true, false]",
        b"[0.5, 0.4]",
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_not_a_list_of_probabilities_is_a_fault(answer):
    with pytest.raises(EndpointAnswerError):
        parse_probabilities(answer)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=20))
def test_probabilities_rounded_by_the_model_are_accepted_unchanged(weights):
    rounded = [round(weight / sum(weights), 4) for weight in weights]

    assert parse_probabilities(json.dumps(rounded).encode()) == rounded


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20).filter(any))
def test_a_probability_survives_the_fifteen_digits_that_the_state_machine_writes_into_the_table(weights):
    answer = [weight / math.fsum(weights) for weight in weights]

    for probability in parse_probabilities(json.dumps(answer).encode()):
        assert Decimal(f"{probability:.15g}") == Decimal(repr(probability))
        assert probability == 0 or probability >= 1e-130  # DynamoDB refuses smaller numbers


@pytest.mark.parametrize(
    ("code", "status", "original_status"),
    [
        ("ServiceUnavailable", 503, None),
        ("InternalFailure", 500, None),
        ("InternalDependencyException", 530, None),
        ("ModelError", 424, 500),
    ],
)
def test_a_transient_fault_is_raised_as_the_error_that_the_state_machine_retries(
    code, status, original_status, endpoint, context
):
    more = {"OriginalStatusCode": original_status} if original_status else {}
    endpoint.add_client_error(
        "invoke_endpoint", code, http_status_code=status, modeled_fields=more, expected_params=REQUEST
    )

    with pytest.raises(EndpointUnavailableError, match=code):
        lambda_handler(EVENT, context)


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("ThrottlingException", {}),
        ("ModelNotReadyException", {}),
        ("ModelError", {"OriginalStatusCode": 429, "OriginalMessage": "overloaded"}),
        ("ModelError", {"OriginalStatusCode": 503, "OriginalMessage": '{"retry_after": "soon"}'}),
        ("ModelError", {"OriginalStatusCode": 503, "OriginalMessage": "[]"}),
    ],
)
def test_an_endpoint_without_capacity_is_busy_and_not_broken(code, more, endpoint, context, capsys):
    endpoint.add_client_error("invoke_endpoint", code, modeled_fields=more, expected_params=REQUEST)

    with pytest.raises(EndpointBusyError, match=f"The endpoint is busy: {code}."):
        lambda_handler(EVENT, context)

    assert '"EndpointBusy":[1.0]' in capsys.readouterr().out


def test_the_time_at_which_there_will_be_room_is_passed_on(endpoint, context, capsys):
    refusal = {"OriginalStatusCode": 429, "OriginalMessage": '{"error": "busy", "retry_after": 36.2}'}
    asked = "patience=4; waited=62; priority=low"
    endpoint.add_client_error(
        "invoke_endpoint",
        "ModelError",
        http_status_code=424,
        modeled_fields=refusal,
        expected_params=REQUEST | {"CustomAttributes": asked},
    )

    with pytest.raises(EndpointBusyError, match=r"^The endpoint is busy. Retry after 37 s.$"):
        lambda_handler(EVENT | {"waited": 62, "priority": "low"}, context)

    assert '"SecondsWaiting":[62.0]' in capsys.readouterr().out
    assert Caller.from_attributes(asked) == Caller(app.PATIENCE, 62, low=True)


@pytest.mark.parametrize(
    ("code", "status", "original_status"),
    [("ValidationError", 400, None), ("AccessDeniedException", 403, None), ("ModelError", 424, 400)],
)
def test_a_permanent_fault_is_raised_unchanged(code, status, original_status, endpoint, context):
    more = {"OriginalStatusCode": original_status} if original_status else {}
    endpoint.add_client_error(
        "invoke_endpoint", code, http_status_code=status, modeled_fields=more, expected_params=REQUEST
    )

    with pytest.raises(ClientError, match=code):
        lambda_handler(EVENT, context)


@pytest.mark.parametrize("error", [EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError])
def test_an_endpoint_that_does_not_answer_is_unavailable(error, monkeypatch, context):
    def unreachable(**request):
        raise error(endpoint_url="https://runtime")

    monkeypatch.setenv("ENDPOINT_NAME", "vehicle-classifier")
    monkeypatch.setattr(RUNTIME, "invoke_endpoint", unreachable)

    with pytest.raises(EndpointUnavailableError):
        lambda_handler(EVENT, context)


def test_an_image_that_is_not_base64_is_a_fault(context):
    with pytest.raises(ValueError, match="base64"):
        lambda_handler(EVENT | {"image_data": "####"}, context)


def test_a_classified_photo_is_counted(endpoint, context, metrics):
    answers(endpoint, b"[0.92, 0.05, 0.03]")

    lambda_handler(EVENT, context)

    assert metrics() == {"PhotosClassified": ("Count", [1])}


def test_logs_contain_the_executions_id_and_nothing_of_the_photo(endpoint, context, logged):
    answers(endpoint, b"[0.92, 0.05, 0.03]")
    logged(logger)

    lambda_handler(EVENT, context)

    lines = logged(logger)
    assert any(line.get("correlation_id") == "arn:of:the:execution" for line in lines)
    assert EVENT["image_data"] not in json.dumps(lines)


class Storage:
    """A stand-in for S3 that records what is put."""

    def __init__(self, error: Exception | None = None) -> None:
        self.put: list[dict] = []
        self.error = error

    def put_object(self, **request: object) -> None:
        if self.error:
            raise self.error
        self.put.append(request)


@pytest.fixture
def captures_to(monkeypatch):
    """Set the function to capture photos into a stand-in for S3."""

    def use(storage: Storage, percent: str = "100") -> Storage:
        monkeypatch.setenv("CAPTURE_URI", "s3://bucket/captures")
        monkeypatch.setenv("CAPTURE_PERCENT", percent)
        monkeypatch.setattr(app, "storage", lambda: storage)
        return storage

    return use


def test_a_capture_has_the_path_and_format_of_an_endpoints_capture(endpoint, context, captures_to):
    storage = captures_to(Storage())
    answers(endpoint, b"[0.92, 0.05, 0.03]")

    lambda_handler(EVENT, context)

    (put,) = storage.put
    path = r"captures/vehicle-classifier/AllTraffic/\d{4}/\d\d/\d\d/\d\d/\d\d-\d\d-\d{3}-[0-9a-f-]{36}\.jsonl"
    assert put["Bucket"] == "bucket"
    assert re.fullmatch(path, put["Key"])
    captured, reference = (
        json.loads(line)
        for line in (
            put["Body"].decode(),
            format_record(IMAGE, "image/jpeg", "[0.92, 0.05, 0.03]", "5f1c-7e", datetime.now(UTC)),
        )
    )
    for record in (captured, reference):
        assert re.fullmatch(r"[0-9a-f-]{36}", record["eventMetadata"].pop("eventId"))
        record["eventMetadata"].pop("inferenceTime")
    assert captured == reference
    assert list(captured["eventMetadata"]) == list(reference["eventMetadata"])


AT = datetime(2026, 11, 25, 5, 4, 34, 327_999, tzinfo=UTC)
CAPTURED = (
    '{"captureData":{"endpointInput":{"observedContentType":"image/jpeg","mode":"INPUT","data":"cGhvdG8=",'
    '"encoding":"BASE64"},"endpointOutput":{"observedContentType":"application/json","mode":"OUTPUT",'
    '"data":"[0.92, 0.08]","encoding":"JSON"}},'
    '"eventMetadata":{"eventId":"7d444840-9dc0-11d1-b245-5ffdce74fad2",'
    '"inferenceId":"5f1c-7e","inferenceTime":"2026-11-25T05:04:34Z"},"eventVersion":"0"}\n'
)
"""A line as SageMaker writes it (Developer Guide, "Capture data from real-time endpoint")."""


def test_a_captured_line_is_written_as_sagemaker_writes_it():
    event = uuid.UUID("7d444840-9dc0-11d1-b245-5ffdce74fad2")

    line = format_record(b"photo", "image/jpeg", "[0.92, 0.08]", "5f1c-7e", AT, event_id=event)

    assert line == CAPTURED
    anonymous = format_record(b"photo", "image/jpeg", "[0.92, 0.08]", None, AT, event_id=event)
    assert anonymous == CAPTURED.replace('"inferenceId":"5f1c-7e",', "")


def test_a_capture_file_is_named_after_the_time_of_its_first_record():
    assert capture_path("vehicles", AT).startswith("vehicles/AllTraffic/2026/11/25/05/04-34-327-")
    assert capture_path("vehicles", AT) != capture_path("vehicles", AT)


def test_a_retried_photo_is_captured_as_the_same_event(captures_to, monkeypatch):
    storage = captures_to(Storage())
    monkeypatch.setenv("ENDPOINT_NAME", "vehicle-classifier")
    for inference_id in "aab":
        app.capture(IMAGE, "image/jpeg", "[1]", inference_id)

    ids = [json.loads(put["Body"])["eventMetadata"]["eventId"] for put in storage.put]

    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("error", [ClientError({"Error": {"Code": "AccessDenied"}}, "PutObject"), TIMEOUT])
def test_a_failed_capture_is_counted_and_the_photo_still_classified(
    endpoint, context, captures_to, error, metrics
):
    captures_to(Storage(error))
    answers(endpoint, b"[0.92, 0.05, 0.03]")

    assert lambda_handler(EVENT, context) == {"inferences": [0.92, 0.05, 0.03]}
    assert metrics()["CapturesFailed"] == ("Count", [1])


def test_a_failed_capture_is_logged_with_the_photos_id(captures_to, monkeypatch, logged):
    captures_to(Storage(TIMEOUT))
    monkeypatch.setenv("ENDPOINT_NAME", "vehicle-classifier")
    logged(logger)

    app.capture(IMAGE, "image/jpeg", "[1]", "5f1c-7e")

    (line,) = logged(logger)
    assert (line["message"], line["inference_id"]) == ("not captured", "5f1c-7e")


@pytest.mark.parametrize("environment", [{}, {"CAPTURE_PERCENT": "", "CAPTURE_URI": ""}])
def test_nothing_is_captured_by_default(endpoint, context, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(app, "storage", lambda: pytest.fail("S3 was called"))
    answers(endpoint, b"[0.92, 0.05, 0.03]")

    lambda_handler(EVENT, context)


def test_the_percentage_that_is_captured_is_the_configured_one(captures_to):
    captures_to(Storage(), "30")

    chosen = [app.should_capture(str(uuid.UUID(int=number))) for number in range(5000)]

    assert 0.27 < sum(chosen) / len(chosen) < 0.33
    assert chosen == [app.should_capture(str(uuid.UUID(int=number))) for number in range(5000)]


@pytest.mark.parametrize("percent", [0, 1, 30, 99, 100])
def test_a_photo_in_the_hundredth_after_the_percentage_is_not_captured(percent, captures_to):
    """An id's hash falls into one of a hundred equal parts, of which the first `percent` are captured."""
    captures_to(Storage(), str(percent))
    ids = [str(number) for number in range(2000)]

    captured = {zlib.crc32(one.encode()) % 100 for one in ids if app.should_capture(one)}

    assert captured == set(range(percent))
