"""An endpoint's life on SageMaker: made, asked whether it works, replaced without a gap, taken back.

boto3 throughout: the SageMaker SDK (3.27) has no deployment guardrails, and sends serverless configurations
wrongly (aws/sagemaker-core#225).
"""

import base64
import io
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from functions.classify.answer import EndpointAnswerError, parse_probabilities
from functions.classify.capture import VARIANT
from model.sagemaker.account import PROJECT, Account, explain, ignore_missing, is_gone, tag_values, tags
from model.sagemaker.registry import SEPARATOR

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import (
        DataCaptureConfigTypeDef,
        DeploymentConfigTypeDef,
        ProductionVariantTypeDef,
    )


POLL_SECONDS = 10.0
"""Between two looks at what SageMaker is doing, which takes minutes."""

BUSY = {"Creating", "Updating", "SystemUpdating", "RollingBack"}
"""States in which an endpoint can only be waited for."""

PHOTOS_PER_SECOND = 20.6
"""One instance of two cores, measured: `make bench BENCH=usage`, which holds this figure against its own."""
UTILIZATION = 0.7
"""Share of an instance's capacity that autoscaling aims at; the rest absorbs bursts while others start."""
GRAVITON = re.compile(r"ml\.[cmrtx]\d+g[a-z]*\.")
"""Instance types with AWS's own arm64 processors: c7g, m6gd, but not g5, whose g is for graphics."""

console = Console(stderr=True)


class EndpointError(Exception):
    """SageMaker could not do what was asked of an endpoint; the message says why and what is left."""


@dataclass(frozen=True)
class Hosting:
    """What an endpoint runs on.

    Attributes
    ----------
    instance_type
        Such as ``ml.m5.large``; ``None`` for a serverless endpoint.
    instances, most_instances
        How many there are at least and, while there is a lot to do, at most.
    invocations_per_instance
        How many photos a minute autoscaling aims at for each: what one of two cores was measured to answer,
        but for room for bursts while others start.
    serverless_memory
        MB, in whole GB.
    concurrency
        How many requests a serverless endpoint answers at once.
    capture_percent
        How many of the requests and answers are captured.
    kms_key
        With which volumes and captures are encrypted; ``None`` for AWS's own keys.
    """

    instance_type: str | None = "ml.m5.large"
    instances: int = 1
    most_instances: int = 4
    invocations_per_instance: int = field(default_factory=lambda: round(60 * UTILIZATION * PHOTOS_PER_SECOND))
    serverless_memory: int = 2048
    concurrency: int = 20
    capture_percent: int = 100
    kms_key: str | None = None

    @property
    def serverless(self) -> bool:
        """Whether there are no instances to look after."""
        return self.instance_type is None

    @property
    def platform(self) -> str:
        """The processor, as Docker names it."""
        graviton = self.instance_type and GRAVITON.match(self.instance_type)
        return "linux/arm64" if graviton else "linux/amd64"


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that exists."""

    name: str
    arn: str
    status: str
    config: str
    created_at: datetime
    modified_at: datetime
    failure: str | None
    variants: Sequence[Mapping[str, Any]]

    @property
    def instances(self) -> int:
        """How many instances it should have now, serverless ones being none."""
        return sum(variant.get("DesiredInstanceCount") or 0 for variant in self.variants)


@dataclass(frozen=True)
class Served:
    """What an endpoint serves, as the model registry has it.

    Attributes
    ----------
    name, package
        For people to read, and the ARN under which it is registered.
    labels, threshold, input_size
        As in the model's `Description`.
    """

    name: str
    package: str
    labels: tuple[str, ...]
    threshold: float
    input_size: int


def unique_name(stage: str, purpose: str = "") -> str:
    """Make a name that nothing has had: the time is in it, and chance."""
    middle = f"{stage}-{purpose}" if purpose else stage
    return f"{PROJECT}-{middle}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def describe(account: Account, name: str) -> Endpoint | None:
    """Look at an endpoint; ``None`` if there is none of that name."""
    try:
        found = account.sagemaker.describe_endpoint(EndpointName=name)
    except ClientError as error:
        if is_gone(error):
            return None
        raise
    return Endpoint(
        name=found["EndpointName"],
        arn=found["EndpointArn"],
        status=found["EndpointStatus"],
        config=found["EndpointConfigName"],
        created_at=found["CreationTime"],
        modified_at=found["LastModifiedTime"],
        failure=found.get("FailureReason"),
        variants=found.get("ProductionVariants", []),
    )


def find(account: Account, stage: str) -> Endpoint | None:
    """Find the endpoint that serves a stage: the latest that is tagged so, whatever its state."""
    pages = account.sagemaker.get_paginator("list_endpoints").paginate(
        NameContains=f"{PROJECT}-{stage}-", SortBy="CreationTime", SortOrder="Descending"
    )
    wanted = tag_values(tags(stage, purpose="serving"))
    for found in (found for page in pages for found in page["Endpoints"]):
        if wanted.items() <= tags_of(account, found["EndpointArn"]).items():
            return describe(account, found["EndpointName"])
    return None


def served(account: Account, name: str) -> Served:
    """Find out which model an endpoint serves.

    Raises
    ------
    EndpointError
        There is no such endpoint, or it was not made by this project.
    """
    there = describe(account, name)
    if there is None:
        raise EndpointError(f"there is no endpoint {name} in {account.region}: scones status")
    config = account.sagemaker.describe_endpoint_config(EndpointConfigName=there.config)
    return served_by(account, config["ProductionVariants"][0]["ModelName"])


def served_by(account: Account, model: str) -> Served:
    """Find out what a model of SageMaker's is.

    Raises
    ------
    EndpointError
        It was not made by this project.
    """
    container = account.sagemaker.describe_model(ModelName=model).get("PrimaryContainer", {})
    package = container.get("ModelPackageName", "")
    if f":model-package/{PROJECT}/" not in package:
        raise EndpointError(f"model {model} was deployed by others: --labels and --threshold say what it is")
    known = account.sagemaker.describe_model_package(ModelPackageName=package)["CustomerMetadataProperties"]
    return Served(
        name=known["name"],
        package=package,
        labels=tuple(known["labels"].split(SEPARATOR)),
        threshold=float(known["threshold"]),
        input_size=int(known["input_size"]),
    )


def tags_of(account: Account, arn: str) -> dict[str, str]:
    """Return the tags of something of SageMaker's; of what is gone, none."""
    try:
        pages = account.sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
        return tag_values([tag for page in pages for tag in page["Tags"]])
    except ClientError as error:
        if is_gone(error):
            return {}
        raise


def create_model(account: Account, name: str, stage: str, package: str) -> None:
    """Make the model that a model package describes."""
    account.sagemaker.create_model(
        ModelName=name,
        PrimaryContainer={"ModelPackageName": package},
        ExecutionRoleArn=account.workspace.role,
        Tags=tags(stage),
    )


def capture_uri(account: Account) -> str:
    """Return where endpoints capture their data; SageMaker adds ``/{endpoint}/{variant}/{time}``."""
    return f"s3://{account.workspace.bucket}/captures"


def create_config(
    account: Account,
    name: str,
    stage: str,
    hosting: Hosting,
    *,
    instances: int | None = None,
    captures: bool = True,
    more_tags: Mapping[str, str] | None = None,
) -> None:
    """Make an endpoint configuration for the model of the same name.

    Parameters
    ----------
    account, stage, hosting
        Where, whose, and on what.
    name
        The configuration's.
    instances
        How many to begin with; by default as many as `hosting` says.
    captures
        Whether data is captured.
    more_tags
        ``model``, if the model's name is another, and what else is to be known of the configuration.
    """
    capture: DataCaptureConfigTypeDef = {
        "EnableCapture": True,
        "InitialSamplingPercentage": hosting.capture_percent,
        "DestinationS3Uri": capture_uri(account),
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        # without it the answer is captured in base64, too
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        **({"KmsKeyId": hosting.kms_key} if hosting.kms_key else {}),  # type: ignore[typeddict-item]
    }
    more_tags = more_tags or {}
    variant = _variant(more_tags.get("model", name), hosting, instances or hosting.instances)
    captured = captures and hosting.capture_percent and not hosting.serverless
    # a serverless endpoint has no volume of its own to encrypt, and no data capture
    encrypted = hosting.kms_key and not hosting.serverless
    account.sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[variant],
        Tags=tags(stage, **more_tags),
        **({"DataCaptureConfig": capture} if captured else {}),  # type: ignore[arg-type]
        **({"KmsKeyId": hosting.kms_key} if encrypted else {}),  # type: ignore[arg-type]
    )


def _variant(model: str, hosting: Hosting, instances: int) -> "ProductionVariantTypeDef":
    if hosting.instance_type is None:
        return {
            "VariantName": VARIANT,
            "ModelName": model,
            "ServerlessConfig": {
                "MemorySizeInMB": hosting.serverless_memory,
                "MaxConcurrency": hosting.concurrency,
            },
        }
    return {
        "VariantName": VARIANT,
        "ModelName": model,
        "InstanceType": cast("Any", hosting.instance_type),
        "InitialInstanceCount": instances,
        "InitialVariantWeight": 1.0,
    }


def create(account: Account, name: str, config: str, stage: str, purpose: str) -> None:
    """Make an endpoint and wait until it is in service.

    Raises
    ------
    EndpointError
        It could not be brought into service; the reason is SageMaker's.
    """
    account.sagemaker.create_endpoint(
        EndpointName=name, EndpointConfigName=config, Tags=tags(stage, purpose=purpose)
    )
    settled = wait(account, name, f"Creating {name}")
    if settled.status != "InService":
        raise EndpointError(f"{name} could not be created: {settled.failure or settled.status}")


def update(account: Account, name: str, config: str, deployment: "DeploymentConfigTypeDef | None") -> None:
    """Bring an endpoint to another configuration and wait until all traffic goes there.

    Raises
    ------
    EndpointError
        SageMaker took the update back, or it failed.
    """
    account.sagemaker.update_endpoint(
        EndpointName=name,
        EndpointConfigName=config,
        **({"DeploymentConfig": deployment} if deployment else {}),  # type: ignore[arg-type]
    )
    settled = wait(account, name, f"Updating {name}")
    if settled.config != config:
        raise EndpointError(
            f"the update was taken back, {name} serves what it did before ({settled.config}): "
            f"{settled.failure or 'an alarm went off'}"
        )
    if settled.status != "InService":
        raise EndpointError(f"{name} is {settled.status}: {settled.failure or 'SageMaker gives no reason'}")


def blue_green(
    instances: int, alarms: Sequence[str], bake_seconds: int, *, canary: bool = True
) -> "DeploymentConfigTypeDef":
    """Return how traffic moves to new instances: one first, the rest once it has baked without an alarm.

    A canary is at most half of the new fleet, so a lone instance takes all traffic at once
    (https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-blue-green-canary.html).
    """
    routing: Any = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": bake_seconds}
    if canary and instances > 1:
        routing = routing | {"Type": "CANARY", "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1}}
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            # the old instances stay that long, so that going back takes no time
            "TerminationWaitInSeconds": bake_seconds,
            "MaximumExecutionTimeoutInSeconds": 3600 + 4 * bake_seconds,
        },
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm} for alarm in alarms]},
    }


def wait(account: Account, name: str, doing: str) -> Endpoint:
    """Wait, showing progress, until SageMaker is done with an endpoint, well or badly."""
    with console.status(f"{doing} …") as status:
        while True:
            seen = describe(account, name)
            if seen is None:
                raise EndpointError(f"{name} was deleted meanwhile")
            if seen.status not in BUSY:
                return seen
            status.update(f"{doing} … {seen.status}, {seen.instances or '?'} instances")
            time.sleep(POLL_SECONDS)


def delete(account: Account, name: str) -> None:
    """Delete an endpoint, once SageMaker is done with it, and wait until it is gone; none is fine."""
    with console.status(f"Deleting {name} …"):
        asked = False
        while seen := describe(account, name):
            if not asked and seen.status not in BUSY:
                ignore_missing(lambda: account.sagemaker.delete_endpoint(EndpointName=name))
                asked = True
                continue
            time.sleep(POLL_SECONDS)


def delete_config(account: Account, name: str) -> None:
    """Delete an endpoint configuration; none is fine."""
    ignore_missing(lambda: account.sagemaker.delete_endpoint_config(EndpointConfigName=name))


def delete_model(account: Account, name: str) -> None:
    """Delete a model; none is fine."""
    ignore_missing(lambda: account.sagemaker.delete_model(ModelName=name))


def ask(account: Account, endpoint: str, photo: bytes, content_type: str) -> list[float]:
    """Ask an endpoint about a photo as the pipeline does, and take its answer apart as the pipeline does.

    Raises
    ------
    EndpointError
        It answers with something else than probabilities, or refuses.
    """
    try:
        answer = account.runtime.invoke_endpoint(
            EndpointName=endpoint, ContentType=content_type, Accept="application/json", Body=photo
        )
        return parse_probabilities(answer["Body"].read())
    except EndpointAnswerError as error:
        raise EndpointError(f"{endpoint} answers with {error}") from error
    except ClientError as error:
        if is_gone(error):
            raise EndpointError(f"there is no endpoint {endpoint} in {account.region}") from error
        raise EndpointError(f"{endpoint} does not answer: {explain(error)}") from error


def asking(account: Account, endpoint: str, size: int) -> Callable[[bytes], list[float]]:
    """Return what asks an endpoint about a photo, reduced to `size` x `size` pixels as the pipeline does it.

    What it returns raises `EndpointError` as `ask` does, and `PhotoError` for what is no photo.
    """
    from functions.serialize.photo import RejectedError, serialize  # noqa: PLC0415  Pillow
    from model.photo import PhotoError  # noqa: PLC0415  Pillow

    def classify(photo: bytes) -> list[float]:
        try:
            reduced = serialize(io.BytesIO(photo), size)
        except RejectedError as error:
            raise PhotoError(error.detail) from error
        return ask(account, endpoint, base64.b64decode(reduced["image_data"]), reduced["content_type"])

    return classify


class Undo:
    """What to take back, last first, if what has been begun cannot be finished."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], None]]] = []

    def add(self, what: str, step: Callable[[], None]) -> None:
        """Remember that `what` was made, and how to take it back."""
        self._steps.append((what, step))

    def forget(self) -> None:
        """Keep everything."""
        self._steps.clear()

    def run(self) -> list[str]:
        """Take everything back; return what could not be."""
        left = []
        while self._steps:
            what, step = self._steps.pop()
            try:
                step()
            except (BotoCoreError, ClientError, EndpointError):
                left.append(what)
        return left

    def names(self) -> list[str]:
        """Name what there is to take back."""
        return [what for what, _ in self._steps]


@contextmanager
def undone_on_failure() -> Iterator[Undo]:
    """Take back what a block made, if it fails, and say what cannot be.

    An interruption takes nothing back, which would have to wait for SageMaker to finish first; it says what
    there is.
    """
    undo = Undo()
    try:
        yield undo
    except KeyboardInterrupt:
        left = undo.names()
        there = ", ".join(left) or "nothing new"
        console.print(
            f"Interrupted. In AWS there is still: {there} (scones destroy)",
            soft_wrap=True,
            highlight=False,
        )
        raise
    except Exception as error:
        reason = explain(error) if isinstance(error, (BotoCoreError, ClientError)) else str(error)
        left = undo.run()
        rest = f"left behind: {', '.join(left)}; scones destroy" if left else "nothing is left behind"
        raise EndpointError(f"{reason} ({rest})") from error
