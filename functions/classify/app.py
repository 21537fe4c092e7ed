"""Ask the SageMaker endpoint for the probability of each label of a serialized photo."""

import json
import math
import os
import uuid
import zlib
from base64 import b64decode
from datetime import UTC, datetime
from functools import cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypedDict

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

if TYPE_CHECKING or __package__:
    from functions.classify.answer import parse_probabilities
    from functions.classify.capture import capture_path, format_record
else:  # in Lambda, this folder is the root of all imports
    from answer import parse_probabilities
    from capture import capture_path, format_record

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient

PATIENCE = 4
"""Seconds that the endpoint is told to answer within. While a photo waits there, it occupies a function: with
more patience, 16 instances of 21 photos per second would occupy all of an account's 1,000."""

# One attempt. The state machine repeats it, because its waiting is free, and it knows how long the photo has
# waited. An endpoint that does not heed the patience, or that has to start (serverless), has 15 s.
RUNTIME: "SageMakerRuntimeClient" = boto3.client(
    "sagemaker-runtime",
    config=Config(connect_timeout=2, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 1}),
)

# In ASCII, because errors may quote control characters of Unicode, and logs are read in terminals.
logger = Logger(json_serializer=partial(json.dumps, default=str))
metrics = Metrics()


class Classification(TypedDict):
    """A probability for each label, in the order of the model's labels."""

    inferences: list[float]


class EndpointBusyError(Exception):
    """The endpoint has no capacity for the photo at the moment; the state machine waits for it."""


class EndpointUnavailableError(Exception):
    """The endpoint is down or failing; the state machine tries again."""


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context(correlation_id_path="execution")
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> Classification:
    """Handle ``{"image_data": base64, "content_type", "inference_id", …}``; the other fields are optional.

    ``execution`` is for the log, ``waited`` the time in seconds since the photo's execution began, and
    ``priority`` is ``low`` for a photo that all others may overtake.

    Raises `EndpointBusyError` or `EndpointUnavailableError` if a retry may succeed, `ClientError` if the
    endpoint does not exist, denies access or refuses the photo, and `EndpointAnswerError` if its answer is
    unusable.
    """
    image = b64decode(event["image_data"], validate=True)
    waited = event.get("waited", 0)
    try:
        answer = invoke(image, event["content_type"], event["inference_id"], waited, event.get("priority"))
    except (EndpointBusyError, EndpointUnavailableError) as error:
        busy = isinstance(error, EndpointBusyError)
        metrics.add_metric("EndpointBusy" if busy else "EndpointUnavailable", MetricUnit.Count, 1)
        metrics.add_metric("SecondsWaiting", MetricUnit.Seconds, waited)
        raise
    inferences = parse_probabilities(answer)
    if should_capture(event["inference_id"]):
        capture(image, event["content_type"], answer.decode(), event["inference_id"])
    metrics.add_metric("PhotosClassified", MetricUnit.Count, 1)
    logger.info("classified", extra={"inference_id": event["inference_id"], "inferences": inferences})
    return Classification(inferences=inferences)


def invoke(
    image: bytes, content_type: str, inference_id: str, waited: float = 0, priority: str | None = None
) -> bytes:
    """Return the endpoint's answer to an encoded image. Data capture records it under the inference id.

    Our container's admission reads the custom attributes; others ignore them.
    """
    attributes = f"patience={PATIENCE}; waited={waited}; priority={priority or 'normal'}"
    try:
        response = RUNTIME.invoke_endpoint(
            EndpointName=os.environ["ENDPOINT_NAME"],
            ContentType=content_type,
            Accept="application/json",
            CustomAttributes=attributes,
            InferenceId=inference_id,
            Body=image,
        )
        return response["Body"].read()
    except (BotoConnectionError, HTTPClientError) as error:
        raise EndpointUnavailableError(str(error)) from error
    except ClientError as error:
        answer: dict[str, Any] = {**error.response}
        if is_busy(answer):
            raise EndpointBusyError(retry_hint(answer)) from error
        if is_unavailable(answer):
            raise EndpointUnavailableError(str(error)) from error
        raise


def is_busy(answer: dict[str, Any]) -> bool:
    """Return whether an error answer only says that there is too much to do.

    A container says so with 429, or with 503 as AWS's own model servers do if no worker is free. SageMaker
    throttles a serverless endpoint beyond its concurrency, and calls one that has to start ModelNotReady.
    """
    code = answer["Error"]["Code"]
    overloaded = answer.get("OriginalStatusCode") in {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    }
    return overloaded or "Throttling" in code or code == "ModelNotReadyException"


def is_unavailable(answer: dict[str, Any]) -> bool:
    """Return whether a retry may succeed, by the container's status or else SageMaker's (InvokeEndpoint)."""
    status: int = answer.get("OriginalStatusCode") or answer["ResponseMetadata"]["HTTPStatusCode"]
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR


def retry_hint(answer: dict[str, Any]) -> str:
    """Return the message that tells the state machine when to try again, if the container has said it."""
    try:
        seconds = float(json.loads(answer["OriginalMessage"])["retry_after"])
    except (KeyError, TypeError, ValueError):
        return f"The endpoint is busy: {answer['Error']['Code']}."
    return f"The endpoint is busy. Retry after {math.ceil(seconds)} s."


def should_capture(inference_id: str) -> bool:
    """Choose ``CAPTURE_PERCENT`` of the photos by their ids, so that retries do not change the percentage."""
    percent = os.environ.get("CAPTURE_PERCENT") or "0"  # sam local invoke sets it to an empty string
    return zlib.crc32(inference_id.encode()) % 100 < float(percent)


def capture(image: bytes, content_type: str, answer: str, inference_id: str) -> None:
    """Write a request and its answer as SageMaker's data capture does, which serverless endpoints lack.

    A failure is logged and counted but not raised: the photo matters more than its capture.
    """
    now = datetime.now(UTC)
    uri = f"{os.environ['CAPTURE_URI']}/{capture_path(os.environ['ENDPOINT_NAME'], now)}"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    # The event id is derived from the inference id, so that a retried photo counts once.
    event_id = uuid.uuid5(uuid.NAMESPACE_OID, inference_id)
    record = format_record(image, content_type, answer, inference_id, now, event_id=event_id)
    try:
        storage().put_object(Bucket=bucket, Key=key, Body=record.encode())
    except (BotoCoreError, ClientError):
        logger.exception("not captured", extra={"inference_id": inference_id})
        metrics.add_metric("CapturesFailed", MetricUnit.Count, 1)


@cache
def storage() -> "S3Client":
    """Return the S3 client, created on first use because most endpoints capture by themselves.

    Two attempts of at most 2 s fit in the time that the attempt at the endpoint leaves of the timeout.
    """
    return boto3.client(
        "s3",
        config=Config(
            connect_timeout=1, read_timeout=1, retries={"mode": "standard", "total_max_attempts": 2}
        ),
    )
