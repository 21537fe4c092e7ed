"""What the endpoint is asked, and what is made of its answer."""

import io
import json
import math
import re
import uuid
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
from functions.classify.app import (
    RUNTIME,
    EndpointAnswerError,
    EndpointUnavailableError,
    lambda_handler,
    logger,
    probabilities,
)
from model.serving.capture import VARIANT, format_record

TIMEOUT = ConnectTimeoutError(endpoint_url="https://s3")
IMAGE = b"\xff\xd8 a small photo"
EVENT = {
    "image_data": b64encode(IMAGE).decode(),
    "content_type": "image/jpeg",
    "inference_id": "5f1c-7e",
    "execution": "arn:of:the:execution",
}
ASKED = {
    "EndpointName": "vehicle-classifier",
    "ContentType": "image/jpeg",
    "Accept": "application/json",
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
    endpoint.add_response("invoke_endpoint", response, ASKED)


def test_the_photo_goes_to_the_endpoint_and_its_probabilities_come_back(endpoint, context):
    answers(endpoint, b"[0.92, 0.05, 0.03]")

    assert lambda_handler(EVENT, context) == {"inferences": [0.92, 0.05, 0.03]}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not json",
        b"{}",
        b"[]",
        b"null",
        b"[0.92, null]",
        b'["0.92", "0.08"]',
        b"[[0.92, 0.08]]",
        b"[NaN, 0.5]",
        b"[Infinity, 0]",
        b"[1.2, -0.2]",
        b"[true, false]",
        b"[0.5, 0.4]",
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_no_list_of_probabilities_is_a_fault(answer):
    with pytest.raises(EndpointAnswerError):
        probabilities(answer)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=20))
def test_probabilities_rounded_by_the_model_are_taken_as_they_are(weights):
    rounded = [round(weight / sum(weights), 4) for weight in weights]

    assert probabilities(json.dumps(rounded).encode()) == rounded


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20).filter(any))
def test_a_probability_survives_the_fifteen_digits_that_the_state_machine_writes_into_the_table(weights):
    answer = [weight / math.fsum(weights) for weight in weights]

    for probability in probabilities(json.dumps(answer).encode()):
        assert Decimal(f"{probability:.15g}") == Decimal(repr(probability))
        assert probability == 0 or probability >= 1e-130  # DynamoDB refuses smaller numbers


@pytest.mark.parametrize(
    ("code", "status", "original_status"),
    [
        ("ThrottlingException", 400, None),
        ("ServiceUnavailable", 503, None),
        ("InternalFailure", 500, None),
        ("InternalDependencyException", 530, None),
        ("ModelNotReadyException", 429, None),
        ("ModelError", 424, 500),
        ("ModelError", 424, 503),
    ],
)
def test_a_fault_that_may_pass_is_named_so_that_the_state_machine_retries_it(
    code, status, original_status, endpoint, context
):
    more = {"OriginalStatusCode": original_status} if original_status else {}
    endpoint.add_client_error(
        "invoke_endpoint", code, http_status_code=status, modeled_fields=more, expected_params=ASKED
    )

    with pytest.raises(EndpointUnavailableError, match=code):
        lambda_handler(EVENT, context)


@pytest.mark.parametrize(
    ("code", "status", "original_status"),
    [("ValidationError", 400, None), ("AccessDeniedException", 403, None), ("ModelError", 424, 400)],
)
def test_a_fault_that_stays_is_raised_as_it_is(code, status, original_status, endpoint, context):
    more = {"OriginalStatusCode": original_status} if original_status else {}
    endpoint.add_client_error(
        "invoke_endpoint", code, http_status_code=status, modeled_fields=more, expected_params=ASKED
    )

    with pytest.raises(ClientError, match=code):
        lambda_handler(EVENT, context)


@pytest.mark.parametrize("error", [EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError])
def test_an_endpoint_that_does_not_answer_is_unavailable(error, monkeypatch, context):
    def unreachable(**asked):
        raise error(endpoint_url="https://runtime")

    monkeypatch.setenv("ENDPOINT_NAME", "vehicle-classifier")
    monkeypatch.setattr(RUNTIME, "invoke_endpoint", unreachable)

    with pytest.raises(EndpointUnavailableError):
        lambda_handler(EVENT, context)


def test_logs_carry_the_executions_id_and_nothing_of_the_photo(endpoint, context, logged):
    answers(endpoint, b"[0.92, 0.05, 0.03]")
    logged(logger)

    lambda_handler(EVENT, context)

    lines = logged(logger)
    assert any(line.get("correlation_id") == "arn:of:the:execution" for line in lines)
    assert EVENT["image_data"] not in json.dumps(lines)


class Storage:
    """S3, of which only what is put is wanted."""

    def __init__(self, error: Exception | None = None) -> None:
        self.put: list[dict] = []
        self.error = error

    def put_object(self, **what: object) -> None:
        if self.error:
            raise self.error
        self.put.append(what)


@pytest.fixture
def captures_to(monkeypatch):
    """Have everything captured into an S3 of ours."""

    def use(storage: Storage, percent: str = "100") -> Storage:
        monkeypatch.setenv("CAPTURE_URI", "s3://bucket/captures")
        monkeypatch.setenv("CAPTURE_PERCENT", percent)
        monkeypatch.setattr(app, "storage", lambda: storage)
        return storage

    return use


def test_what_is_captured_here_is_what_an_endpoint_captures(endpoint, context, captures_to):
    storage = captures_to(Storage())
    answers(endpoint, b"[0.92, 0.05, 0.03]")

    lambda_handler(EVENT, context)

    (put,) = storage.put
    place = (
        r"captures/vehicle-classifier/AllTraffic/\d{4}/\d\d/\d\d/\d\d/\d\d-\d\d-\d{3}-[0-9a-f-]{36}\.jsonl"
    )
    assert put["Bucket"] == "bucket"
    assert re.fullmatch(place, put["Key"])
    ours, theirs = (
        json.loads(line)
        for line in (
            put["Body"].decode(),
            format_record(IMAGE, "image/jpeg", "[0.92, 0.05, 0.03]", "5f1c-7e", datetime.now(UTC)),
        )
    )
    for record in (ours, theirs):
        assert re.fullmatch(r"[0-9a-f-]{36}", record["eventMetadata"].pop("eventId"))
        record["eventMetadata"].pop("inferenceTime")
    assert ours == theirs
    assert list(ours["eventMetadata"]) == list(theirs["eventMetadata"])
    assert app.VARIANT == VARIANT


def test_a_photo_that_is_tried_again_is_the_same_event(captures_to):
    records = [app.format_record(IMAGE, "image/jpeg", "[1]", name, datetime.now(UTC)) for name in "aab"]

    ids = [json.loads(record)["eventMetadata"]["eventId"] for record in records]

    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("error", [ClientError({"Error": {"Code": "AccessDenied"}}, "PutObject"), TIMEOUT])
def test_what_cannot_be_captured_is_classified_counted_and_logged(
    endpoint, context, captures_to, error, capsys
):
    captures_to(Storage(error))
    answers(endpoint, b"[0.92, 0.05, 0.03]")

    assert lambda_handler(EVENT, context) == {"inferences": [0.92, 0.05, 0.03]}
    assert '"CapturesFailed":[1.0]' in capsys.readouterr().out


@pytest.mark.parametrize("said", [{}, {"CAPTURE_PERCENT": "", "CAPTURE_URI": ""}])
def test_nothing_is_captured_unless_the_stack_says_so(endpoint, context, monkeypatch, said):
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(app, "storage", lambda: pytest.fail("S3 was asked"))
    answers(endpoint, b"[0.92, 0.05, 0.03]")

    lambda_handler(EVENT, context)


def test_the_share_that_is_captured_is_the_one_asked_for(captures_to):
    captures_to(Storage(), "30")

    chosen = [app.captures(str(uuid.UUID(int=number))) for number in range(5000)]

    assert 0.27 < sum(chosen) / len(chosen) < 0.33
    assert chosen == [app.captures(str(uuid.UUID(int=number))) for number in range(5000)]
