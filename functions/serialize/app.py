"""Download a courier's photo from S3 and reduce it to the model's input size."""

import functools
import hashlib
import json
import os
import re
import tempfile
from contextlib import closing
from datetime import UTC
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as BotoConnectionError

if TYPE_CHECKING or __package__:
    from functions.serialize.photo import MAX_BOX, RejectedError
    from functions.serialize.sandbox import serialize_in_subprocess
else:  # in Lambda, this folder is the root of all imports
    from photo import MAX_BOX, RejectedError
    from sandbox import serialize_in_subprocess

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef

# Three attempts of at most 7 s with their pauses, plus decoding, fit in the function's timeout of 45 s.
S3: "S3Client" = boto3.client(
    "s3",
    config=Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3}),
)

MAX_BYTES = 160_000_000
"""Fits in /tmp (512 MB: AWS Lambda Developer Guide, "Lambda quotas"), and enough for 24 megapixels of
incompressible 16-bit PNG."""

# In ASCII, because keys may contain control characters of Unicode, and logs are read in terminals.
logger = Logger(json_serializer=functools.partial(json.dumps, default=str))
metrics = Metrics()


class StorageUnavailableError(Exception):
    """S3 is throttled, failing or unreachable; the state machine retries it."""


class SettingError(ValueError):
    """An environment variable of the function has an unusable value."""


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context(correlation_id_path="execution", clear_state=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Handle ``{"bucket", "key", "version_id"?, "execution"?}``.

    Returns the reduced photo, or ``{"rejected": {"reason", "detail"}}``, and unless the object is missing
    ``uploaded_at``, the time at which S3 stored it (ISO 8601, UTC, in seconds). Raises
    `StorageUnavailableError` or `DecodingStoppedError` if a retry may succeed, `ClientError` if S3 refuses an
    object that exists, and `SettingError` if the environment is unusable.
    """
    box = image_size()
    logger.append_keys(bucket=event["bucket"], key=event["key"], version_id=event.get("version_id"))
    log_keys: dict[str, Any] = {}
    stored: dict[str, Any] = {}
    try:
        with tempfile.SpooledTemporaryFile(max_size=8_000_000) as file:
            sha256 = download(event["bucket"], event["key"], event.get("version_id"), file, stored)
            photo = serialize_in_subprocess(file, box, log_keys)
    except RejectedError as rejection:
        rejected = {"reason": rejection.reason, "detail": rejection.detail}
        metrics.add_metric("PhotosRejected", MetricUnit.Count, 1)
        # As metadata, because a dimension would split the count that alarms watch.
        metrics.add_metadata("reason", rejection.reason)
        logger.info("photo rejected", extra={**log_keys, **rejected})
        return {"rejected": rejected, **stored}
    metrics.add_metric("PhotosSerialized", MetricUnit.Count, 1)
    logger.info("photo serialized", extra={**log_keys, "sha256": sha256})
    return {**photo, "sha256": sha256, **stored}


@functools.cache
def image_size() -> int:
    """Return ``IMAGE_SIZE``, the side in pixels of the square that photos are reduced to fit in."""
    size = os.environ.get("IMAGE_SIZE", "")
    if not re.fullmatch("[0-9]{1,3}", size) or not 1 <= int(size) <= MAX_BOX:
        raise SettingError(f"IMAGE_SIZE must be a whole number from 1 to {MAX_BOX}, not {size!r}")
    return int(size)


def download(bucket: str, key: str, version_id: str | None, file: IO[bytes], stored: dict[str, Any]) -> str:
    """Write an object to a file and return the SHA-256 of its bytes in hex.

    Adds ``uploaded_at`` to `stored`.

    Raises `RejectedError` if the object is ``missing``, ``empty`` or has ``too_many_bytes``,
    `StorageUnavailableError` if S3 fails, throttles (5XX) or answers incompletely, and `ClientError` if it
    refuses the request otherwise (API Reference, "Error Responses").
    """
    request: GetObjectRequestTypeDef = {"Bucket": bucket, "Key": key}
    if version_id:
        request["VersionId"] = version_id
    try:
        answer = S3.get_object(**request)
        stored["uploaded_at"] = f"{answer['LastModified'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return _copy(answer, file)
    except (BotoConnectionError, HTTPClientError, IncompleteReadError) as error:
        raise StorageUnavailableError(str(error)) from error
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "NoSuchVersion", "404"}:
            raise RejectedError("missing", "The file was deleted before it was read.") from error
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise StorageUnavailableError(str(error)) from error
        raise


def _copy(stored: "GetObjectOutputTypeDef", file: IO[bytes]) -> str:
    with closing(stored["Body"]) as body:
        logger.append_keys(bytes_in=stored["ContentLength"])
        if stored["ContentLength"] == 0:
            raise RejectedError("empty", "The file is empty.")
        if stored["ContentLength"] > MAX_BYTES:
            raise RejectedError("too_many_bytes", f"The file is larger than {MAX_BYTES / 1e6:.0f} MB.")
        digest = hashlib.sha256()
        for chunk in body.iter_chunks(1_000_000):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()
