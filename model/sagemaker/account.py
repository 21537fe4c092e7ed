"""The AWS account that commands work in: which it is, what is marked as ours, and what refusals mean."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar

import boto3
import click
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
    ConnectionError as NoConnectionError,
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
"""The value of the tag ``project`` on everything of ours, and the beginning of every name."""
STAGE = re.compile(r"[a-z][a-z0-9]{0,15}")
"""A stage's name, which is part of names that may have 63 characters."""
ROLES_STACK = f"{PROJECT}-roles"
"""The stack made from ``model/roles.yaml``."""

# Throttled and failing calls are repeated, after longer and longer waits, before anyone hears of them.
PATIENT = Config(retries={"mode": "standard", "total_max_attempts": 8})

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")


class AccountError(Exception):
    """AWS refused or could not be reached; the message says what to do."""


class Tag(TypedDict):
    """A tag as most services take it."""

    Key: str
    Value: str


@dataclass
class Account:
    """An account in a region, as seen with the credentials of the environment.

    Attributes
    ----------
    session
        Where the clients come from.
    id
        The account's twelve digits.
    region, partition
        Such as ``us-east-1`` and ``aws``.
    """

    session: boto3.Session
    id: str
    region: str
    partition: str

    @cached_property
    def sagemaker(self) -> "SageMakerClient":  # noqa: D102
        return self.session.client("sagemaker", config=PATIENT)

    @cached_property
    def runtime(self) -> "SageMakerRuntimeClient":  # noqa: D102
        return self.session.client("sagemaker-runtime", config=PATIENT)

    @cached_property
    def autoscaling(self) -> "ApplicationAutoScalingClient":  # noqa: D102
        return self.session.client("application-autoscaling", config=PATIENT)

    @cached_property
    def cloudwatch(self) -> "CloudWatchClient":  # noqa: D102
        return self.session.client("cloudwatch", config=PATIENT)

    @cached_property
    def cloudformation(self) -> "CloudFormationClient":  # noqa: D102
        return self.session.client("cloudformation", config=PATIENT)

    @cached_property
    def ecr(self) -> "ECRClient":  # noqa: D102
        return self.session.client("ecr", config=PATIENT)

    @cached_property
    def logs(self) -> "CloudWatchLogsClient":  # noqa: D102
        return self.session.client("logs", config=PATIENT)

    @cached_property
    def s3(self) -> "S3Client":  # noqa: D102
        return self.session.client("s3", config=PATIENT)

    @cached_property
    def workspace(self) -> "Workspace":
        """What ``model/roles.yaml`` made in this account.

        Raises
        ------
        AccountError
            It has not been deployed here.
        """
        stack = described(self.cloudformation, ROLES_STACK)
        outputs = outputs_of(stack) if stack else {}
        try:
            return Workspace(outputs["ExecutionRoleArn"], outputs["WorkspaceBucketName"])
        except KeyError:
            raise AccountError(
                f"account {self.id} has no complete stack {ROLES_STACK} in {self.region}, which has the role "
                "and the bucket to use: make roles"
            ) from None


@dataclass(frozen=True)
class Workspace:
    """The role that SageMaker works under, and the bucket for data, models and captures."""

    role: str
    bucket: str


def connect() -> Account:
    """Find out which account and region the environment's credentials are for.

    Raises
    ------
    AccountError
        There are none, they are not valid, or there is no such region.
    """
    with translate_aws_errors():
        session = boto3.Session()
        region = session.region_name
        if not region:
            raise NoRegionError
        known = {
            name
            for partition in session.get_available_partitions()
            for name in session.get_available_regions("sagemaker", partition)
        }
        if region not in known:
            raise InvalidRegionError(region_name=region)
        identity = session.client("sts").get_caller_identity()
    return Account(session, identity["Account"], region, session.get_partition_for_region(region))


def tags(stage: str | None = None, **more: str) -> list[Tag]:
    """Return the tags of something of ours; what belongs to no stage serves all of them."""
    values = {"project": PROJECT} | ({"stage": stage} if stage else {}) | more
    return [Tag(Key=key, Value=value) for key, value in values.items()]


def tag_values(tags: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return tags by key, whichever of AWS's two ways of writing them they come in."""
    return {tag.get("Key", tag.get("key")): tag.get("Value", tag.get("value")) for tag in tags}


def described(cloudformation: "CloudFormationClient", stack: str) -> Mapping[str, Any] | None:
    """Return CloudFormation's description of a stack, ``None`` where there is none."""
    try:
        return cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


def outputs_of(stack: Mapping[str, Any]) -> dict[str, str]:
    """Return the outputs in a stack's description, by name."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


@contextmanager
def translate_aws_errors() -> Iterator[None]:
    """Raise what AWS refuses, or that it is out of reach, as an `AccountError`."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise AccountError(explain(error)) from error


def explain(error: BotoCoreError | ClientError) -> str:
    """Say in a line what went wrong and what to do about it."""
    match error:
        case NoRegionError():
            return "no region: set AWS_REGION, or `aws configure set region us-east-1`"
        case InvalidRegionError():
            return (
                f"{error.kwargs['region_name']} is no region that SageMaker is in, as far as boto3 "
                f"{boto3.__version__} knows: set AWS_REGION"
            )
        case NoCredentialsError() | PartialCredentialsError():
            return (
                "no AWS credentials: `aws configure`, `aws sso login`, or set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            )
        case NoConnectionError():
            return f"AWS is out of reach: {error}"
        case ClientError():
            return _explain_refusal(error.response["Error"]["Code"], error)
    return str(error)


def _explain_refusal(code: str, error: ClientError) -> str:
    message = error.response["Error"].get("Message") or str(error)
    advice = {
        "ExpiredToken": "sign in again: `aws sso login`",
        "ExpiredTokenException": "sign in again: `aws sso login`",
        "InvalidClientTokenId": "these credentials are of no account: `aws sts get-caller-identity`",
        "UnrecognizedClientException": "these credentials are of no account: `aws sts get-caller-identity`",
        "ResourceLimitExceeded": "ask for more (Service Quotas, SageMaker), or choose another instance type",
        "AccessDenied": "the permissions needed are in model/roles.yaml, under DeployerPolicy",
        "AccessDeniedException": "the permissions needed are in model/roles.yaml, under DeployerPolicy",
        "ThrottlingException": "AWS was too busy for long: try again",
    }.get(code)
    return f"{message} ({error.operation_name}){f': {advice}' if advice else ''}"


def is_gone(error: ClientError) -> bool:
    """Tell whether AWS means that what a call was about does not exist."""
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    return (
        code
        in {
            "ResourceNotFound",
            "ResourceNotFoundException",
            "RepositoryNotFoundException",
            "NoSuchBucket",
            "404",
        }
        or "NotFound" in code
        or "Could not find" in message  # SageMaker says ValidationException, and this
        or "does not exist" in message
    )


def ignore_missing(call: Callable[[], object]) -> None:
    """Make a call, which is to delete something; that there is no such thing is fine."""
    try:
        call()
    except ClientError as error:
        if not is_gone(error):
            raise


def check_stage(_ctx: click.Context, _option: click.Parameter, stage: str) -> str:
    """Check the option ``--stage``."""
    if not STAGE.fullmatch(stage):
        raise click.BadParameter("up to 16 lower case letters and digits, the first a letter")
    return stage


stage_option = click.option(
    "--stage", default="dev", show_default=True, callback=check_stage, help="Which of your deployments."
)
