"""Create, describe, update, call and delete SageMaker endpoints.

This uses boto3, because the SageMaker SDK (3.27) has no deployment guardrails and sends serverless
configurations wrongly (aws/sagemaker-core#225).
"""

import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import BotoCoreError, ClientError

from functions.classify.answer import EndpointAnswerError, parse_probabilities
from functions.classify.capture import VARIANT
from model.sagemaker.account import (
    PROJECT,
    Account,
    Tag,
    explain,
    ignore_missing,
    is_not_found,
    paginate,
    tag_values,
    tags,
)
from model.sagemaker.autoscaling import PHOTOS_AT_ONCE, Scaling
from model.sagemaker.registry import SEPARATOR
from model.terminal.tables import Console

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import (
        DataCaptureConfigTypeDef,
        DeploymentConfigTypeDef,
        ProductionVariantTypeDef,
    )
    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient

POLL_SECONDS = 10.0
CONSISTENCY_SECONDS = 60.0
"""SageMaker reads with eventual consistency, so it may not find a new configuration at once
(API_CreateEndpoint)."""
BUSY = {"Creating", "Updating", "SystemUpdating", "RollingBack"}
"""States in which SageMaker accepts no change to an endpoint."""
GRAVITON = re.compile(r"ml\.[cmrtx]\d+g[a-z]*\.")
"""Instance types with AWS's arm64 processors: c7g and m6gd, but not g5, where the g stands for graphics."""

console = Console(stderr=True)


class EndpointError(Exception):
    """An operation on an endpoint failed; the message says why and what remains."""


@dataclass(frozen=True)
class Hosting:
    """What an endpoint runs on.

    Without an `instance_type` it is serverless: `serverless_memory` is in MB, and `concurrency` the number of
    simultaneous requests. `photos_at_once` is what autoscaling aims at for each instance. Without a
    `kms_key`, AWS's own keys encrypt volumes and captures.
    """

    instance_type: str | None = "ml.m5.large"
    instances: int = 1
    max_instances: int = 4
    photos_at_once: float = PHOTOS_AT_ONCE
    serverless_memory: int = 2048
    concurrency: int = 20
    capture_percent: int = 100
    kms_key: str | None = None

    @property
    def serverless(self) -> bool:
        """Whether SageMaker manages the capacity."""
        return self.instance_type is None

    @property
    def platform(self) -> str:
        """The processor, as Docker names it."""
        graviton = self.instance_type and GRAVITON.match(self.instance_type)
        return "linux/arm64" if graviton else "linux/amd64"

    @property
    def scaling(self) -> Scaling | None:
        """The bounds for autoscaling, which a serverless endpoint does not need."""
        if self.serverless:
            return None
        return Scaling(self.instances, self.max_instances, self.photos_at_once)


@dataclass(frozen=True)
class Endpoint:
    """An existing endpoint, as SageMaker describes it."""

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
        """The desired number of instances, 0 for a serverless endpoint."""
        return sum(variant.get("DesiredInstanceCount") or 0 for variant in self.variants)


@dataclass(frozen=True)
class ServedModel:
    """A model that an endpoint serves, as the model registry describes it; `package` is its ARN."""

    name: str
    package: str
    labels: tuple[str, ...]
    threshold: float
    input_size: int


def _no_such_endpoint(region: str, name: str) -> EndpointError:
    return EndpointError(f"No such endpoint in {region}: {name}. List them with: scones status.")


def unique_name(stage: str, purpose: str = "") -> str:
    """Make a unique resource name from the stage, the time and a random suffix."""
    middle = f"{stage}-{purpose}" if purpose else stage
    return f"{PROJECT}-{middle}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def describe(account: Account, name: str) -> Endpoint | None:
    """Describe an endpoint; ``None`` if it does not exist."""
    found = ignore_missing(lambda: account.sagemaker.describe_endpoint(EndpointName=name))
    if found is None:
        return None
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
    """Find the endpoint of a stage by its tags, whatever its status; the newest if there are several."""
    name = next(_list_tagged(account, "Endpoint", stage, purpose="serving"), None)
    return describe(account, name) if name else None


def list_configs(account: Account, stage: str) -> list[str]:
    """List the names of a stage's endpoint configurations."""
    return list(_list_tagged(account, "EndpointConfig", stage))


def _list_tagged(account: Account, kind: str, stage: str, **more: str) -> Iterator[str]:
    """Yield the names of a stage's endpoints or configurations that have these tags, newest first."""
    expected, prefix = tag_values(tags(stage, **more)), f"{PROJECT}-{stage}-"
    operation = {"Endpoint": "list_endpoints", "EndpointConfig": "list_endpoint_configs"}[kind]
    order = {"SortBy": "CreationTime", "SortOrder": "Descending"}
    for found in paginate(account.sagemaker, operation, f"{kind}s", NameContains=prefix, **order):
        if expected.items() <= tags_of(account, found[f"{kind}Arn"]).items():
            yield found[f"{kind}Name"]


def served_model(account: Account, name: str) -> ServedModel:
    """Look up the model that an endpoint serves; an `EndpointError` if this project did not deploy it."""
    found = describe(account, name)
    if found is None:
        raise _no_such_endpoint(account.region, name)
    config = account.sagemaker.describe_endpoint_config(EndpointConfigName=found.config)
    return describe_model(account, config["ProductionVariants"][0]["ModelName"])


def describe_model(account: Account, name: str) -> ServedModel:
    """Look up a SageMaker model in the registry; an `EndpointError` if this project did not create it."""
    container = account.sagemaker.describe_model(ModelName=name).get("PrimaryContainer", {})
    package = container.get("ModelPackageName", "")
    if f":model-package/{PROJECT}/" not in package:
        raise EndpointError(
            f"this project did not create model {name}: describe it with --labels and --threshold"
        )
    details = account.sagemaker.describe_model_package(ModelPackageName=package)["CustomerMetadataProperties"]
    return ServedModel(
        name=details["name"],
        package=package,
        labels=tuple(details["labels"].split(SEPARATOR)),
        threshold=float(details["threshold"]),
        input_size=int(details["input_size"]),
    )


def tags_of(account: Account, arn: str) -> dict[str, str]:
    """Return the tags of a SageMaker resource, none if it does not exist."""
    listed = paginate(account.sagemaker, "list_tags", "Tags", ResourceArn=arn)
    return ignore_missing(lambda: tag_values(listed)) or {}


def create_model(account: Account, name: str, stage: str, package: str) -> None:
    """Create a SageMaker model from a model package."""
    account.sagemaker.create_model(
        ModelName=name,
        PrimaryContainer={"ModelPackageName": package},
        ExecutionRoleArn=account.workspace.role,
        Tags=tags(stage),
    )


def capture_uri(account: Account) -> str:
    """Return where endpoints capture data; SageMaker appends ``/{endpoint}/{variant}/{time}``."""
    return f"s3://{account.workspace.bucket}/captures"


def create_config(
    account: Account,
    name: str,
    stage: str,
    hosting: Hosting,
    *,
    model: str,
    instances: int,
    captures: bool = True,
    previous: str | None = None,
) -> None:
    """Create an endpoint configuration for a model.

    It starts with `instances`, captures data if both `captures` and `hosting` say so, and remembers in a tag
    the `previous` configuration, to which a rollback returns.
    """
    capture: DataCaptureConfigTypeDef = {
        "EnableCapture": True,
        "InitialSamplingPercentage": hosting.capture_percent,
        "DestinationS3Uri": capture_uri(account),
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        # Without this, the answer is captured in base64 as well.
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        **({"KmsKeyId": hosting.kms_key} if hosting.kms_key else {}),  # type: ignore[typeddict-item]
    }
    # A serverless endpoint has no data capture, and no volume of its own to encrypt.
    captured = captures and hosting.capture_percent and not hosting.serverless
    encrypted = hosting.kms_key and not hosting.serverless
    account.sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[_variant(model, hosting, instances)],
        Tags=tags(stage, model=model, **({"previous": previous} if previous else {})),
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
    """Create an endpoint and wait until it is in service; an `EndpointError` has SageMaker's reason."""
    deadline = time.monotonic() + CONSISTENCY_SECONDS
    while not _request_creation(account, name, config, tags(stage, purpose=purpose), deadline):
        time.sleep(POLL_SECONDS / 5)
    created = wait(account, name, f"Creating {name}")
    if created.status != "InService":
        raise EndpointError(f"{name} could not be created: {created.failure or created.status}")


def _request_creation(account: Account, name: str, config: str, tags: list[Tag], deadline: float) -> bool:
    """Call CreateEndpoint; return false if it cannot find the configuration and there is time to retry."""
    try:
        account.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config, Tags=tags)
    except ClientError as error:
        if is_not_found(error) and time.monotonic() < deadline:
            return False
        raise
    return True


def update(
    account: Account,
    name: str,
    config: str,
    deployment: "DeploymentConfigTypeDef | None",
    *,
    keep_instances: bool = False,
) -> None:
    """Update an endpoint to another configuration and wait until that one has all traffic.

    With `keep_instances` the number of instances stays, instead of the configuration's initial number.
    Raises `EndpointError` if SageMaker rolled the update back, or the endpoint failed.
    """
    # Captures follow the configuration; the weight of the only variant does not matter.
    kept: Any = {
        "RetainAllVariantProperties": True,
        "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DataCaptureConfig"}],
    }
    account.sagemaker.update_endpoint(
        EndpointName=name,
        EndpointConfigName=config,
        **({"DeploymentConfig": deployment} if deployment else {}),  # type: ignore[arg-type]
        **(kept if keep_instances else {}),
    )
    updated = wait(account, name, f"Updating {name}")
    if updated.config != config:
        raise EndpointError(
            f"update rolled back; {name} still serves the previous model ({updated.config}): "
            f"{updated.failure or 'an alarm went off'}"
        )
    if updated.status != "InService":
        raise EndpointError(f"{name} is {updated.status}: {updated.failure or 'SageMaker gives no reason'}")


def wait(account: Account, name: str, action: str) -> Endpoint:
    """Show progress until SageMaker has finished an operation on an endpoint, successfully or not."""
    with console.status(f"{action} …") as status:
        while True:
            current = describe(account, name)
            if current is None:
                raise EndpointError(f"{name} was deleted in the meantime")
            if current.status not in BUSY:
                return current
            status.update(f"{action} … {current.status}, {current.instances or '?'} instances")
            time.sleep(POLL_SECONDS)


def delete(account: Account, name: str) -> None:
    """Delete an endpoint if it exists, as soon as SageMaker allows it, and wait until it is gone."""
    with console.status(f"Deleting {name} …"):
        requested = False
        while current := describe(account, name):
            if not requested and current.status not in BUSY:
                ignore_missing(lambda: account.sagemaker.delete_endpoint(EndpointName=name))
                requested = True
                continue
            time.sleep(POLL_SECONDS)


def delete_config(account: Account, name: str) -> None:
    """Delete an endpoint configuration, if it exists."""
    ignore_missing(lambda: account.sagemaker.delete_endpoint_config(EndpointConfigName=name))


def delete_model(account: Account, name: str) -> None:
    """Delete a model, if it exists."""
    ignore_missing(lambda: account.sagemaker.delete_model(ModelName=name))


def ask(runtime: "SageMakerRuntimeClient", endpoint: str, photo: bytes, content_type: str) -> list[float]:
    """Send a photo to an endpoint as the pipeline does, and read the answer as the pipeline does.

    Raises `EndpointError` if the endpoint does not exist, fails, or answers with something other than
    probabilities.
    """
    try:
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint, ContentType=content_type, Accept="application/json", Body=photo
        )
        return parse_probabilities(answer["Body"].read())
    except EndpointAnswerError as error:
        raise EndpointError(f"{endpoint} did not answer with a list of probabilities: {error}") from error
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, ClientError) and is_not_found(error):
            raise _no_such_endpoint(runtime.meta.region_name, endpoint) from error
        raise EndpointError(f"{endpoint} does not answer: {explain(error)}") from error
