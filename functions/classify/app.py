"""Ask the SageMaker endpoint how probable each label is for a serialized photo."""

import json
import math
import os
from base64 import b64decode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypedDict

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

if TYPE_CHECKING:
    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient

# The client rides out a blip; the state machine, which waits for free, an outage. Three attempts of at
# most 17 s and their pauses end within the function's 60 s.
RUNTIME: "SageMakerRuntimeClient" = boto3.client(
    "sagemaker-runtime",
    config=Config(connect_timeout=2, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 3}),
)

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
    inferences = probabilities(invoke(image, event["content_type"], event["inference_id"]))
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
        if may_pass(error):
            raise EndpointUnavailableError(str(error)) from error
        raise


def may_pass(error: ClientError) -> bool:
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
    return [float(p) for p in inferences]
