"""Ask the SageMaker endpoint how probable each label is for a serialized photo."""

import json
import math
import os
import uuid
import zlib
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypedDict

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient

# The client rides out a blip; the state machine, which waits for free, an outage. Three attempts of at
# most 17 s and their pauses end within the function's 60 s.
RUNTIME: "SageMakerRuntimeClient" = boto3.client(
    "sagemaker-runtime",
    config=Config(connect_timeout=2, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 3}),
)

VARIANT = "AllTraffic"
"""The endpoint's one variant, part of a capture's path."""

DECIMALS = 15
"""The precision of a probability.

The state machine writes probabilities into the table with JSONata's ``$string``, which keeps 15 significant
digits; with more, the table would differ from the event. DynamoDB also refuses numbers under 1E-130, which
round to 0.
"""

logger = Logger()
metrics = Metrics()


class Classification(TypedDict):
    """A probability for each label, in the order of the model's labels."""

    inferences: list[float]


class EndpointUnavailableError(Exception):
    """The endpoint is down, throttled or broken for now: worth another try, which the state machine makes."""


class EndpointAnswerError(Exception):
    """The endpoint answered with something other than a JSON list of probabilities that add up to 1."""


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context(correlation_id_path="execution")
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> Classification:
    """Handle ``{"image_data": base64, "content_type", "inference_id", "execution"?}``.

    Raises
    ------
    EndpointUnavailableError
        A fault that may pass.
    botocore.exceptions.ClientError
        The endpoint does not exist, may not be invoked, or refuses the photo.
    EndpointAnswerError
        The endpoint's answer cannot be used.
    """
    image = b64decode(event["image_data"], validate=True)
    answer = invoke(image, event["content_type"], event["inference_id"])
    inferences = probabilities(answer)
    if captures(event["inference_id"]):
        capture(image, event["content_type"], answer.decode(), event["inference_id"])
    metrics.add_metric("PhotosClassified", MetricUnit.Count, 1)
    logger.info("classified", extra={"inference_id": event["inference_id"], "inferences": inferences})
    return Classification(inferences=inferences)


def invoke(image: bytes, content_type: str, inference_id: str) -> bytes:
    """Return the endpoint's answer to an encoded image; data capture files it under the inference id.

    Raises
    ------
    EndpointUnavailableError
        No answer, throttling, or an error of SageMaker's or the container's own (5XX).
    botocore.exceptions.ClientError
        Any other refusal. API Reference, InvokeEndpoint, lists them.
    """
    try:
        response = RUNTIME.invoke_endpoint(
            EndpointName=os.environ["ENDPOINT_NAME"],
            ContentType=content_type,
            Accept="application/json",
            InferenceId=inference_id,
            Body=image,
        )
        return response["Body"].read()
    except (BotoConnectionError, HTTPClientError) as error:
        raise EndpointUnavailableError(str(error)) from error
    except ClientError as error:
        if is_transient(error):
            raise EndpointUnavailableError(str(error)) from error
        raise


def is_transient(error: ClientError) -> bool:
    """Tell a fault of the moment from one that stays, by the container's status or else SageMaker's."""
    answer: dict[str, Any] = {**error.response}
    status = answer.get("OriginalStatusCode") or answer["ResponseMetadata"]["HTTPStatusCode"]
    return (
        status >= HTTPStatus.INTERNAL_SERVER_ERROR
        or status == HTTPStatus.TOO_MANY_REQUESTS
        or "Throttling" in answer["Error"]["Code"]
    )


def probabilities(answer: bytes) -> list[float]:
    """Read the endpoint's answer, e.g. ``[0.92, 0.05, 0.03]``.

    It is what SageMaker's built-in image-classification algorithm gives for ``application/json``: AWS,
    "Image Classification - MXNet: Input/Output Interface". That algorithm and float32 models round, hence
    the tolerance on the sum.

    Raises
    ------
    EndpointAnswerError
        It is no JSON list, a number is no probability, or they do not add up to 1 within one percent.
    """
    try:
        inferences = json.loads(answer)
    except ValueError as error:
        raise EndpointAnswerError(f"not JSON: {answer[:80]!r}") from error
    if not isinstance(inferences, list) or not inferences:
        raise EndpointAnswerError(f"not a list of probabilities: {answer[:80]!r}")
    if not all(type(p) in (int, float) and 0 <= p <= 1 for p in inferences):
        raise EndpointAnswerError(f"not probabilities: {answer[:80]!r}")
    if not math.isclose(math.fsum(inferences), 1, abs_tol=0.01):
        raise EndpointAnswerError(
            f"probabilities that add up to {math.fsum(inferences):.3f}: {answer[:80]!r}"
        )
    return [round(float(p), DECIMALS) for p in inferences]


def captures(inference_id: str) -> bool:
    """Say whether a photo is captured here, of which ``CAPTURE_PERCENT`` are where the endpoint cannot.

    The same id has the same answer, so that another try of a photo does not change the share.
    """
    percent = os.environ.get("CAPTURE_PERCENT") or "0"  # empty where sam local invoke means none
    return zlib.crc32(inference_id.encode()) % 100 < float(percent)


def capture(image: bytes, content_type: str, answer: str, inference_id: str) -> None:
    """File question and answer where and as SageMaker's data capture does, which a serverless endpoint lacks.

    A photo is worth more than its capture: what goes wrong is logged and counted, and that is all.
    """
    now = datetime.now(UTC)
    bucket, _, prefix = os.environ["CAPTURE_URI"].removeprefix("s3://").partition("/")
    folder = "/".join(filter(None, (prefix, os.environ["ENDPOINT_NAME"], VARIANT)))
    name = f"{now:%Y/%m/%d/%H/%M-%S}-{now.microsecond // 1000:03}-{uuid.uuid4()}.jsonl"
    record = format_record(image, content_type, answer, inference_id, now)
    try:
        storage().put_object(Bucket=bucket, Key=f"{folder}/{name}", Body=record.encode())
    except (BotoCoreError, ClientError):
        logger.exception("not captured", extra={"inference_id": inference_id})
        metrics.add_metric("CapturesFailed", MetricUnit.Count, 1)


@cache
def storage() -> "S3Client":
    """Return the client of S3, made when it is first needed: most endpoints capture by themselves.

    Two attempts of at most 2 s fit in what three attempts at the endpoint leave of the function's 60 s.
    """
    return boto3.client(
        "s3",
        config=Config(
            connect_timeout=1, read_timeout=1, retries={"mode": "standard", "total_max_attempts": 2}
        ),
    )


def format_record(
    image: bytes, content_type: str, answer: str, inference_id: str, answered_at: datetime
) -> str:
    """Format a capture as SageMaker does: a line of JSON, the photo in base64, the answer as it is.

    The event's id follows from the inference's, so that a photo that is tried again counts once.
    """
    record = {
        "captureData": {
            "endpointInput": {
                "observedContentType": content_type,
                "mode": "INPUT",
                "data": b64encode(image).decode(),
                "encoding": "BASE64",
            },
            "endpointOutput": {
                "observedContentType": "application/json",
                "mode": "OUTPUT",
                "data": answer,
                "encoding": "JSON",
            },
        },
        "eventMetadata": {
            "eventId": str(uuid.uuid5(uuid.NAMESPACE_OID, inference_id)),
            "inferenceId": inference_id,
            "inferenceTime": f"{answered_at:%Y-%m-%dT%H:%M:%SZ}",
        },
        "eventVersion": "0",
    }
    return json.dumps(record, separators=(",", ":")) + "\n"
