"""The AWS account in use: its clients, the project's tags and workspace, and readable AWS errors."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as AwsConnectionError,
)

if TYPE_CHECKING:
    from mypy_boto3_application_autoscaling import ApplicationAutoScalingClient
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sagemaker import SageMakerClient
    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient

PROJECT = "scones-unlimited"
"""The value of the tag ``project`` on every resource of this project, and the prefix of every name."""
ROLES_STACK = f"{PROJECT}-roles"
"""The stack deployed from ``model/roles.yaml``."""
RETRY_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 8})
"""Retries throttled and failed calls with exponential backoff."""

NOT_FOUND_CODES = {
    "ResourceNotFound",
    "ResourceNotFoundException",
    "RepositoryNotFoundException",
    "NoSuchBucket",
    "404",
}
ADVICE = {
    "ExpiredToken": "sign in again: `aws sso login`",
    "ExpiredTokenException": "sign in again: `aws sso login`",
    "InvalidClientTokenId": "these credentials belong to no account: `aws sts get-caller-identity`",
    "UnrecognizedClientException": "these credentials belong to no account: `aws sts get-caller-identity`",
    "ResourceLimitExceeded": (
        "request an increase (Service Quotas, SageMaker), or choose another instance type"
    ),
    "AccessDenied": "model/roles.yaml lists the permissions required, under DeployerPolicy",
    "AccessDeniedException": "model/roles.yaml lists the permissions required, under DeployerPolicy",
    "ThrottlingException": "AWS kept throttling the request: try again later",
}
"""What to do about an error code of AWS."""


class AccountError(Exception):
    """AWS rejected a request or could not be reached; the message says what to do."""


class Tag(TypedDict):
    """A tag in the form that most AWS services expect."""

    Key: str
    Value: str


@dataclass
class Account:
    """An AWS account in one region, accessed with the credentials of the environment."""

    session: boto3.Session
    id: str
    region: str
    partition: str

    @cached_property
    def sagemaker(self) -> "SageMakerClient":  # noqa: D102
        return self.session.client("sagemaker", config=RETRY_CONFIG)

    @cached_property
    def runtime(self) -> "SageMakerRuntimeClient":  # noqa: D102
        return self.session.client("sagemaker-runtime", config=RETRY_CONFIG)

    @cached_property
    def autoscaling(self) -> "ApplicationAutoScalingClient":  # noqa: D102
        return self.session.client("application-autoscaling", config=RETRY_CONFIG)

    @cached_property
    def cloudwatch(self) -> "CloudWatchClient":  # noqa: D102
        return self.session.client("cloudwatch", config=RETRY_CONFIG)

    @cached_property
    def cloudformation(self) -> "CloudFormationClient":  # noqa: D102
        return self.session.client("cloudformation", config=RETRY_CONFIG)

    @cached_property
    def ecr(self) -> "ECRClient":  # noqa: D102
        return self.session.client("ecr", config=RETRY_CONFIG)

    @cached_property
    def logs(self) -> "CloudWatchLogsClient":  # noqa: D102
        return self.session.client("logs", config=RETRY_CONFIG)

    @cached_property
    def s3(self) -> "S3Client":  # noqa: D102
        return self.session.client("s3", config=RETRY_CONFIG)

    @cached_property
    def workspace(self) -> "Workspace":
        """The role and the bucket that ``model/roles.yaml`` created in this account."""
        stack = describe_stack(self.cloudformation, ROLES_STACK)
        outputs = stack_outputs(stack) if stack else {}
        try:
            return Workspace(outputs["ExecutionRoleArn"], outputs["WorkspaceBucketName"])
        except KeyError:
            raise AccountError(
                f"account {self.id} has no complete stack {ROLES_STACK} in {self.region}, which provides the "
                "role and the bucket. Create it with: make roles."
            ) from None


@dataclass(frozen=True)
class Workspace:
    """SageMaker's execution role (ARN), and the bucket for data, models and captures."""

    role: str
    bucket: str


def connect() -> Account:
    """Look up the account and the region of the environment's credentials.

    Raises `AccountError` if the credentials are missing or invalid, or SageMaker is not available in the
    region.
    """
    with translate_aws_errors():
        session = boto3.Session()
        region = session.region_name
        if not region:
            raise NoRegionError
        sagemaker_regions = {
            name
            for partition in session.get_available_partitions()
            for name in session.get_available_regions("sagemaker", partition)
        }
        if region not in sagemaker_regions:
            raise InvalidRegionError(region_name=region)
        identity = session.client("sts").get_caller_identity()
    return Account(session, identity["Account"], region, session.get_partition_for_region(region))


def tags(stage: str | None = None, **more: str) -> list[Tag]:
    """Return the project's tags; a resource that all stages share has no ``stage`` tag."""
    values = {"project": PROJECT} | ({"stage": stage} if stage else {}) | more
    return [Tag(Key=key, Value=value) for key, value in values.items()]


def tag_values(tags: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return tags by key; services spell the members ``Key`` and ``Value`` or ``key`` and ``value``."""
    return {tag.get("Key", tag.get("key")): tag.get("Value", tag.get("value")) for tag in tags}


def paginate(client: Any, operation: str, key: str, **parameters: object) -> Iterator[Any]:  # noqa: ANN401  boto3's
    """Yield the items under `key` from every page of a listing."""
    for page in client.get_paginator(operation).paginate(**parameters):
        yield from page[key]


def describe_stack(cloudformation: "CloudFormationClient", name: str) -> Mapping[str, Any] | None:
    """Return CloudFormation's description of a stack, or ``None`` if it does not exist."""
    try:
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


def stack_outputs(stack: Mapping[str, Any]) -> dict[str, str]:
    """Return the outputs in a stack's description, by name."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


@contextmanager
def translate_aws_errors() -> Iterator[None]:
    """Raise botocore's errors as `AccountError`."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise AccountError(explain(error)) from error


def explain(error: Exception) -> str:
    """Describe an error in one line; an AWS error includes what to do about it."""
    match error:
        case NoRegionError():
            return "no region: set AWS_REGION, or `aws configure set region us-east-1`"
        case InvalidRegionError():
            return (
                f"SageMaker is not available in {error.kwargs['region_name']}, according to boto3 "
                f"{boto3.__version__}: set AWS_REGION to another region"
            )
        case NoCredentialsError() | PartialCredentialsError():
            return (
                "no AWS credentials: `aws configure`, `aws sso login`, or set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            )
        case AwsConnectionError():
            return f"AWS cannot be reached: {error}"
        case ClientError():
            details = error.response["Error"]
            advice = ADVICE.get(details["Code"])
            message = details.get("Message") or str(error)
            return f"{message} ({error.operation_name}){f': {advice}' if advice else ''}"
    return str(error)


def is_not_found(error: ClientError) -> bool:
    """Tell whether AWS reports that the resource of a call does not exist."""
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    return (
        code in NOT_FOUND_CODES
        or "NotFound" in code
        or "Could not find" in message  # SageMaker's wording, with the code ValidationException
        or "does not exist" in message
    )


def ignore_missing[T](call: Callable[[], T]) -> T | None:
    """Return the result of a call to AWS, or ``None`` if the resource does not exist."""
    try:
        return call()
    except ClientError as error:
        if is_not_found(error):
            return None
        raise
