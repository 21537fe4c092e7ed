"""Roll a model out to a stage: create its endpoint, or update it without downtime."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from model.sagemaker import (
    alarms,
    autoscaling,
    endpoint,
    image,
    preflight,
    registry,
    smoke_test,
    training_job,
)
from model.sagemaker.account import Account, explain
from model.sagemaker.deployment_file import Deployment
from model.sagemaker.endpoint import Endpoint, EndpointError, Hosting
from model.sagemaker.registry import Candidate, RegistryError
from model.terminal.output import echo

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import (
        DeploymentConfigTypeDef,
        DescribeEndpointConfigOutputTypeDef,
    )

type RegisterUndo = Callable[[str, Callable[[], None]], None]
"""Registers a resource that was created, by its name, and how to delete it."""


@contextmanager
def select_candidate(
    account: Account, model: str | None, job: str | None, image_uri: str | None, hosting: Hosting
) -> Iterator[tuple[Candidate, str]]:
    """Select the model to deploy and the image to serve it with.

    `model` is a path or an address in S3, `job` a training job; without either it is the ready-made model.
    Without an `image_uri` it is the image of this code, or the one in which the job ran.
    """
    own_image = image_uri or image.uri(account, hosting.platform)
    if job:
        trained = training_job.find(account, job)
        graviton = hosting.platform == "linux/arm64"
        if trained.built_in and graviton:
            raise RegistryError(
                "SageMaker's built-in algorithm has no container for Graviton: use another --instance-type"
            )
        if not graviton:
            own_image = image_uri or trained.image
        if trained.built_in:
            yield training_job.built_in_candidate(trained), own_image
            return
        model = trained.model_url
    with registry.read_candidate(account, model) as candidate:
        yield candidate, own_image


def with_overrides(
    candidate: Candidate, labels: tuple[str, ...] | None, threshold: float | None
) -> Candidate:
    """Replace a candidate's labels and threshold by those that the user gave."""
    if labels:
        candidate = replace(candidate, labels=labels)
    if threshold is not None:
        candidate = replace(candidate, threshold=threshold)
    if len(candidate.labels) < 2 or not 0 <= candidate.threshold <= 1:  # noqa: PLR2004  one label is no choice
        raise RegistryError(
            f"{candidate.name} does not specify its labels and threshold: give --labels and --threshold"
        )
    return candidate


@dataclass(frozen=True)
class Rollout:
    """A model on its way to a stage's endpoint; an update bakes for `bake_seconds` in each of two steps."""

    account: Account
    stage: str
    candidate: Candidate
    image: str
    hosting: Hosting
    bake_seconds: int

    def plan(self) -> dict[str, str | None]:
        """Describe what `deploy` would do, after checking what can be checked without doing it."""
        current = self._check()
        return {
            "action": "update" if current else "create",
            "endpoint_name": current.name if current else None,
            "stage": self.stage,
            "account": self.account.id,
            "region": self.account.region,
            "model": self.candidate.name,
            "image": self.image,
            "on": self.hosting.instance_type or f"serverless, {self.hosting.serverless_memory} MB",
        }

    def deploy(self, *, approved: bool) -> Deployment:
        """Register the model, create or update the stage's endpoint, and return what it serves.

        `approved` approves a new model. Raises `RegistryError` if the model needs approval or was rejected,
        `EndpointError` if the endpoint failed; what was created is then deleted, or named if that failed too.
        """
        current = self._check()
        package, status = registry.register(self.account, self.candidate, self.image, approved=approved)
        registry.require_approved(package, status)
        captured = self.hosting.capture_percent
        return Deployment(
            stage=self.stage,
            region=self.account.region,
            account=self.account.id,
            endpoint_name=self._create_or_update(current, package),
            class_labels=self.candidate.labels,
            confidence_threshold=self.candidate.threshold,
            image_size=self.candidate.input_size,
            capture_uri=endpoint.capture_uri(self.account) if captured else None,
            capture_percent=captured if self.hosting.serverless else 0,
            model=self.candidate.name,
            model_package=package,
            deployed_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        )

    def _check(self) -> Endpoint | None:
        """Return the stage's endpoint, if it has one; an `EndpointError` if the deployment would fail."""
        current = endpoint.find(self.account, self.stage)
        if current:
            check_updatable(self.account, self.stage, current, self.hosting)
        preflight.require_quotas(self.account, self.hosting, current)
        return current

    def _create_or_update(self, current: Endpoint | None, package: str) -> str:
        if current is None:
            with undo_on_failure() as register_undo:
                return self._create(package, register_undo)
        with undo_on_failure() as register_undo:
            self._update(current, package, register_undo)
        _delete_unused(self.account, self.stage, previous=current.config)
        return current.name

    def _create(self, package: str, register_undo: RegisterUndo) -> str:
        account, name = self.account, endpoint.unique_name(self.stage)
        self._create_model_and_config(name, package, self.hosting.instances, register_undo)
        register_undo(f"endpoint {name}", partial(endpoint.delete, account, name))
        endpoint.create(account, name, name, self.stage, purpose="serving")
        self._smoke_test(name)
        register_undo(f"alarms of {name}", partial(alarms.delete_alarms, account, name))
        alarms.put_alarms(account, name, self.stage)
        register_undo(f"autoscaling of {name}", partial(autoscaling.stop_scaling, account, name))
        if scaling := self.hosting.scaling:
            autoscaling.start_scaling(account, name, scaling, self.stage)
        return name

    def _update(self, current: Endpoint, package: str, register_undo: RegisterUndo) -> None:
        account, name = self.account, endpoint.unique_name(self.stage)
        # Scaling stops during an update, so the new fleet starts as large as the old one; a canary needs two.
        instances = max(2, self.hosting.instances, current.instances)
        self._create_model_and_config(name, package, instances, register_undo, previous=current.config)
        self._try_model(name)
        alarms.put_alarms(account, current.name, self.stage)
        policy = None
        if not self.hosting.serverless:
            register_undo(f"alarms of {name}", partial(alarms.delete_alarms, account, name))
            watched = alarms.put_alarms(account, current.name, self.stage, config=name)
            policy = blue_green(instances, watched, self.bake_seconds)
        with autoscaling.paused(account, current.name, self.hosting.scaling, self.stage):
            endpoint.update(account, current.name, name, policy)

    def _create_model_and_config(
        self,
        name: str,
        package: str,
        instances: int,
        register_undo: RegisterUndo,
        previous: str | None = None,
    ) -> None:
        account, stage = self.account, self.stage
        endpoint.create_model(account, name, stage, package)
        register_undo(f"model {name}", partial(endpoint.delete_model, account, name))
        endpoint.create_config(
            account, name, stage, self.hosting, model=name, instances=instances, previous=previous
        )
        register_undo(f"endpoint configuration {name}", partial(endpoint.delete_config, account, name))

    def _try_model(self, model: str) -> None:
        """Run the smoke test on a temporary endpoint, before the model gets any traffic."""
        account, name = self.account, endpoint.unique_name(self.stage, "smoke")
        try:
            endpoint.create_config(
                account, name, self.stage, self.hosting, model=model, instances=1, captures=False
            )
            endpoint.create(account, name, name, self.stage, purpose="smoke-test")
            self._smoke_test(name)
        finally:
            endpoint.delete(account, name)
            endpoint.delete_config(account, name)

    def _smoke_test(self, name: str) -> None:
        classify = None
        if folder := self.candidate.folder:
            from model.network.classifier import Classifier  # noqa: PLC0415  ONNX Runtime is slow to import

            classify = Classifier(folder).classify
        smoke_test.smoke_test(self.account, name, len(self.candidate.labels), classify)


def format_plan(plan: dict[str, str | None]) -> str:
    """Format the result of `Rollout.plan` as a sentence."""
    action = f"Would update {plan['endpoint_name']}" if plan["endpoint_name"] else "Would create an endpoint"
    place = f"account {plan['account']}, {plan['region']}, stage {plan['stage']}"
    return f"{action} ({place}): {plan['model']} in {plan['image']} on {plan['on']}."


@contextmanager
def undo_on_failure() -> Iterator[RegisterUndo]:
    """Delete what a block has created, last first, if the block fails, and raise `EndpointError`.

    The message names what could not be deleted. An interruption deletes nothing, because SageMaker would have
    to finish first; it prints what exists.
    """
    created: dict[str, Callable[[], None]] = {}
    try:
        yield created.__setitem__
    except KeyboardInterrupt:
        echo(
            f"Interrupted. Left in AWS: {', '.join(created) or 'nothing new'}. "
            "Delete everything with: scones destroy.",
            err=True,
        )
        raise
    except Exception as error:
        remaining = ", ".join(name for name, delete in reversed(created.items()) if not _succeeds(delete))
        outcome = (
            f"could not delete: {remaining}; retry with: scones destroy"
            if remaining
            else "nothing is left behind"
        )
        raise EndpointError(f"{explain(error)} ({outcome})") from error


def _succeeds(delete: Callable[[], None]) -> bool:
    try:
        delete()
    except (BotoCoreError, ClientError, EndpointError):
        return False
    return True


def check_updatable(account: Account, stage: str, current: Endpoint, hosting: Hosting) -> None:
    """Check that an endpoint is in service and would stay serverless, or not serverless."""
    if current.status != "InService":
        reason = f" ({current.failure})" if current.failure else ""
        raise EndpointError(
            f"{current.name} is {current.status}{reason}: wait, or scones destroy --stage {stage}"
        )
    config = account.sagemaker.describe_endpoint_config(EndpointConfigName=current.config)
    if is_serverless(config) != hosting.serverless:
        raise EndpointError(
            f"{current.name} {'is' if is_serverless(config) else 'is not'} serverless, and an update cannot "
            f"change that: use another --stage, or scones destroy --stage {stage} first"
        )


def is_serverless(config: "DescribeEndpointConfigOutputTypeDef") -> bool:
    """Tell whether an endpoint configuration is serverless."""
    return "ServerlessConfig" in config["ProductionVariants"][0]


def blue_green(
    instances: int, alarm_names: list[str], bake_seconds: int, *, canary: bool = True
) -> "DeploymentConfigTypeDef":
    """Return an update policy: traffic moves to one new instance first, and to the rest if no alarm goes off.

    Without alarms, nothing rolls the update back.
    A canary is at most half of the new fleet, so a single instance takes all traffic at once
    (https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-blue-green-canary.html).
    """
    routing: Any = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": bake_seconds}
    if canary and instances > 1:
        routing = routing | {"Type": "CANARY", "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1}}
    policy: DeploymentConfigTypeDef = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            # The old instances stay this long, so that a rollback takes no time.
            "TerminationWaitInSeconds": bake_seconds,
            "MaximumExecutionTimeoutInSeconds": 3600 + 4 * bake_seconds,
        }
    }
    if alarm_names:
        policy["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in alarm_names]}
    return policy


def _delete_unused(account: Account, stage: str, previous: str) -> None:
    """Delete the alarms of updates, and the configurations and models before the previous one."""
    current = endpoint.find(account, stage)
    used = {previous, current.config if current else ""}
    for name in endpoint.list_configs(account, stage):
        if current and name != current.name:  # the first configuration has the endpoint's name
            alarms.delete_alarms(account, name)
        if name not in used:
            endpoint.delete_config(account, name)
            endpoint.delete_model(account, name)
