"""Roll a model out to a stage's endpoint: create the endpoint, or update it without downtime."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from model.labels import split_labels
from model.sagemaker import alarms as alarms_module
from model.sagemaker import autoscaling, endpoint, image, registry, smoke_test, training_job
from model.sagemaker.account import (
    PROJECT,
    Account,
    tag_values,
    tags,
)
from model.sagemaker.endpoint import Endpoint, EndpointError, Hosting, Undo

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import DescribeEndpointConfigOutputTypeDef


def foreseen(
    account: Account, stage: str, candidate: registry.Candidate, uri: str, hosting: Hosting
) -> dict[str, str | None]:
    """Say what deploying a model would do, having checked what can be without doing it.

    Raises
    ------
    EndpointError
        The stage's endpoint could not be updated.
    """
    there = endpoint.find(account, stage)
    if there:
        check_replaceable(account, stage, there, hosting)
    return {
        "action": "update" if there else "create",
        "endpoint_name": there.name if there else None,
        "stage": stage,
        "account": account.id,
        "region": account.region,
        "model": candidate.name,
        "image": uri,
        "on": hosting.instance_type or f"serverless, {hosting.serverless_memory} MB",
    }


@contextmanager
def chosen(
    account: Account, model: str | None, job: str | None, image_uri: str | None, hosting: Hosting
) -> Iterator[tuple[registry.Candidate, str]]:
    """Give the model to deploy, and the image to serve it with.

    Raises
    ------
    ArtifactError, RegistryError, TrainingJobError
        There is no such model.
    """
    ours = image_uri or image.uri(account, hosting.platform)
    if job:
        trained = training_job.find(account, job)
        graviton = hosting.platform == "linux/arm64"
        if trained.built_in and graviton:
            raise registry.RegistryError(
                "SageMaker's built-in algorithm has no container for Graviton: another --instance-type"
            )
        if trained.built_in:
            yield training_job.built_in_candidate(trained), image_uri or trained.image
            return
        if not graviton:
            ours = image_uri or trained.image
        model = trained.model_url
    if model and model.startswith("s3://"):
        with registry.candidate_from_s3(account, model) as candidate:
            yield candidate, ours
    else:
        with registry.candidate_from_disk(Path(model) if model else None) as candidate:
            yield candidate, ours


def completed(
    candidate: registry.Candidate, labels: str | None, threshold: float | None
) -> registry.Candidate:
    """Put in what a user says of a model, and make sure that the stack can be told what it has to know.

    Raises
    ------
    RegistryError
        It cannot.
    """
    if labels:
        candidate = replace(candidate, labels=split_labels(labels))
    if threshold is not None:
        candidate = replace(candidate, threshold=threshold)
    if len(candidate.labels) < 2 or not 0 <= candidate.threshold <= 1:  # noqa: PLR2004  one label is no choice
        raise registry.RegistryError(
            f"{candidate.name} does not say its labels and what confidence to accept: --labels, --threshold"
        )
    return candidate


def require_approved(package: str, status: str) -> None:
    """Make sure that a model package may be deployed.

    Raises
    ------
    RegistryError
        Nobody has approved it, or somebody rejected it.
    """
    if status == "Approved":
        return
    if status == "Rejected":
        raise registry.RegistryError(f"{package} was rejected: it is not deployed")
    raise registry.RegistryError(
        f"{package} waits for approval; then deploy again: aws sagemaker update-model-package "
        f"--model-package-arn {package} --model-approval-status Approved"
    )


@dataclass(frozen=True)
class Release:
    """A model package on its way to an endpoint.

    Attributes
    ----------
    account, stage
        Where, and whose endpoint.
    candidate, package
        The model, and the ARN under which it is registered.
    hosting
        What it is to run on.
    bake_seconds
        How long an update is watched, with one instance and then with all.
    """

    account: Account
    stage: str
    candidate: registry.Candidate
    package: str
    hosting: Hosting
    bake_seconds: int

    def deploy(self) -> str:
        """Have an endpoint that serves the model package; return its name.

        Raises
        ------
        EndpointError
            It could not be done. What this call made is deleted again, or named.
        """
        there = endpoint.find(self.account, self.stage)
        if there is None:
            with endpoint.undone_on_failure() as undo:
                return self._create(undo)
        check_replaceable(self.account, self.stage, there, self.hosting)
        with endpoint.undone_on_failure() as undo:
            self._update(there, undo)
        _clear_away(self.account, self.stage, keep=there.config)
        return there.name

    def _create(self, undo: Undo) -> str:
        account, name = self.account, endpoint.unique_name(self.stage)
        self._make_model_and_config(name, self.hosting.instances, undo)
        undo.add(f"endpoint {name}", partial(endpoint.delete, account, name))
        endpoint.create(account, name, name, self.stage, purpose="serving")
        self._smoke_test(name)
        undo.add(f"alarms of {name}", partial(alarms_module.delete_alarms, account, name))
        alarms_module.put_alarms(account, name, self.stage)
        undo.add(f"autoscaling of {name}", partial(autoscaling.stop_scaling, account, name))
        autoscaling.scale_automatically(account, name, self.hosting, self.stage)
        return name

    def _update(self, there: Endpoint, undo: Undo) -> None:
        account, name = self.account, endpoint.unique_name(self.stage)
        # Scaling waits during an update, so the new fleet begins as large as the old one; a canary needs two.
        instances = max(2, self.hosting.instances, there.instances)
        self._make_model_and_config(name, instances, undo, previous=there.config)
        self._try_out(name)
        alarms = alarms_module.put_alarms(account, there.name, self.stage)
        if self.hosting.serverless:
            endpoint.update(account, there.name, name, None)
            return
        autoscaling.stop_scaling(account, there.name)
        try:
            how = endpoint.blue_green(instances, alarms, self.bake_seconds)
            endpoint.update(account, there.name, name, how)
        finally:
            autoscaling.scale_automatically(account, there.name, self.hosting, self.stage)

    def _make_model_and_config(self, name: str, instances: int, undo: Undo, **more_tags: str) -> None:
        account, stage = self.account, self.stage
        endpoint.create_model(account, name, stage, self.package)
        undo.add(f"model {name}", partial(endpoint.delete_model, account, name))
        endpoint.create_config(
            account, name, stage, self.hosting, instances=instances, more_tags={"model": name, **more_tags}
        )
        undo.add(f"endpoint configuration {name}", partial(endpoint.delete_config, account, name))

    def _try_out(self, model: str) -> None:
        """Let the new model answer on an endpoint of its own, before anyone depends on it."""
        account, name = self.account, endpoint.unique_name(self.stage, "smoke")
        config = partial(endpoint.create_config, account, name, self.stage, self.hosting)
        try:
            config(instances=1, captures=False, more_tags={"model": model})
            endpoint.create(account, name, name, self.stage, purpose="smoke-test")
            self._smoke_test(name)
        finally:
            endpoint.delete(account, name)
            endpoint.delete_config(account, name)

    def _smoke_test(self, name: str) -> None:
        smoke_test.smoke_test(self.account, name, len(self.candidate.labels), _right_answer(self.candidate))


def check_replaceable(account: Account, stage: str, there: Endpoint, hosting: Hosting) -> None:
    """Make sure that an endpoint can be updated to run on something.

    Raises
    ------
    EndpointError
        It is not in service, or would have to become serverless, or cease to be.
    """
    if there.status != "InService":
        reason = f" ({there.failure})" if there.failure else ""
        raise EndpointError(
            f"{there.name} is {there.status}{reason}: wait, or scones destroy --stage {stage}"
        )
    serving = account.sagemaker.describe_endpoint_config(EndpointConfigName=there.config)
    if is_serverless(serving) != hosting.serverless:
        raise EndpointError(
            f"{there.name} {'is' if is_serverless(serving) else 'is not'} serverless, which is not to be "
            f"changed: use another --stage, or scones destroy --stage {stage} first"
        )


def is_serverless(config: "DescribeEndpointConfigOutputTypeDef") -> bool:
    """Tell whether an endpoint configuration has no instances."""
    return "ServerlessConfig" in config["ProductionVariants"][0]


def _right_answer(candidate: registry.Candidate) -> Callable[[bytes], list[float]] | None:
    if candidate.folder is None:
        return None
    from model.network.classifier import Classifier  # noqa: PLC0415  ONNX Runtime takes a while to import

    return Classifier(candidate.folder).classify


def _clear_away(account: Account, stage: str, keep: str) -> None:
    """Delete the stage's configurations and models but those in use and those to roll back to."""
    there = endpoint.find(account, stage)
    kept = {keep, there.config if there else ""}
    for name in configs(account, stage):
        if name not in kept:
            endpoint.delete_config(account, name)
            endpoint.delete_model(account, name)


def configs(account: Account, stage: str) -> list[str]:
    """Name a stage's endpoint configurations."""
    pages = account.sagemaker.get_paginator("list_endpoint_configs").paginate(
        NameContains=f"{PROJECT}-{stage}-"
    )
    wanted = tag_values(tags(stage))
    return [
        found["EndpointConfigName"]
        for page in pages
        for found in page["EndpointConfigs"]
        if wanted.items() <= endpoint.tags_of(account, found["EndpointConfigArn"]).items()
    ]
