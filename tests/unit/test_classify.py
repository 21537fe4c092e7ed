"""What the endpoint is asked, and what is made of its answer."""

import io
import json
from base64 import b64encode

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError
from botocore.response import StreamingBody
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from functions.classify.app import (
    RUNTIME,
    EndpointAnswerError,
    EndpointUnavailableError,
    lambda_handler,
    logger,
    probabilities,
)

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
