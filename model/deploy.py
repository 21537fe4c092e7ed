"""``python -m model deploy``: a model behind an endpoint, the first time or in place of the one before."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model import image
from model.sagemaker import endpoint, registry, training_job
from model.sagemaker.account import (
    PROJECT,
    Account,
    connect,
    refusals_explained,
    stage_option,
    tag_values,
    tags,
)
from model.sagemaker.deployment import FILE, Deployment
from model.sagemaker.endpoint import Endpoint, EndpointError, Hosting, Undo

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import DescribeEndpointConfigOutputTypeDef


@click.command("deploy")
@click.option(
    "--model",
    help="What `model train` wrote, a model.tar.gz, or s3://… of one.  [default: the ready-made model]",
)
@click.option("--training-job", help="A finished training job, whose model to take.")
@stage_option
@click.option("--instance-type", default="ml.m5.large", show_default=True, help="ml.c7g.large is Graviton.")
@click.option("--instances", default=1, show_default=True, type=click.IntRange(1), help="How many at least.")
@click.option(
    "--most-instances", default=4, show_default=True, type=click.IntRange(1), help="How many at most."
)
@click.option(
    "--photos-a-minute",
    type=click.IntRange(1),
    help="How many autoscaling aims at for each instance.  [default: as measured on two cores, 70% busy]",
)
@click.option(
    "--serverless",
    is_flag=True,
    help="No instances: pay by photo; slow to wake up, and captured by the pipeline alone.",
)
@click.option(
    "--memory",
    default="2048",
    show_default=True,
    type=click.Choice(["1024", "2048", "3072", "4096", "5120", "6144"]),
    help="MB of a serverless endpoint.",
)
@click.option(
    "--capture-percent",
    default=100,
    show_default=True,
    type=click.IntRange(0, 100),
    help="How much of the traffic to capture.",
)
@click.option("--kms-key", help="A KMS key for volumes and captures.  [default: AWS's own keys]")
@click.option(
    "--bake-seconds",
    default=300,
    show_default=True,
    type=click.IntRange(60, 3600),
    help="How long an update is watched, with one instance and then with all.",
)
@click.option("--labels", help="Labels in their order, for a model that does not say.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="The least confidence to accept, ditto.")
@click.option("--image", "image_uri", help="A container in ECR.  [default: that of the code you have]")
@click.option("--require-approval", is_flag=True, help="Only register the model until somebody approves it.")
@click.option("--dry-run", is_flag=True, help="Check what can be, say what would be done, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what deployment.json holds.")
def command(
    *,
    model: str | None,
    training_job: str | None,
    stage: str,
    instance_type: str,
    instances: int,
    most_instances: int,
    photos_a_minute: int | None,
    serverless: bool,
    memory: str,
    capture_percent: int,
    kms_key: str | None,
    bake_seconds: int,
    labels: str | None,
    threshold: float | None,
    image_uri: str | None,
    require_approval: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Deploy a model behind a SageMaker endpoint, or update the one that is there.

    The first time this makes an endpoint with autoscaling, data capture and alarms. After that it updates
    it: the new model has to pass a smoke test on an endpoint of its own; then one instance takes its share
    of the traffic, then all do, and if an alarm goes off everything returns to what was before. What was
    before stays, for `python -m model rollback`.

    Writes deployment.json, from which `make deploy` takes what the stack has to know.

    \b
    Examples:
      python -m model deploy --model .local/model --dry-run
      python -m model deploy --model .local/model
      python -m model deploy --training-job scones-unlimited-20261125101500 --stage prod --require-approval
      python -m model deploy --instance-type ml.c7g.large
      python -m model deploy --serverless

    \b
    Exit codes:
      0  the endpoint serves the model
      1  it does not; one line on stderr says why, and what is left
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    if model and training_job:
        raise click.UsageError("--model or --training-job, not both")
    hosting = Hosting(
        instance_type=None if serverless else instance_type,
        instances=instances,
        most_instances=most_instances,
        serverless_memory=int(memory),
        capture_percent=capture_percent,
        kms_key=kms_key,
    )
    if photos_a_minute:
        hosting = replace(hosting, invocations_per_instance=photos_a_minute)
    account = connect()
    with refusals_explained(), chosen(account, model, training_job, image_uri, hosting) as (found, uri):
        candidate = completed(found, labels, threshold)
        image.require(account, uri)
        if dry_run:
            plan = foreseen(account, stage, candidate, uri, hosting)
            click.echo(json.dumps(plan) if as_json else told(plan))
            return
        package, status = registry.register(account, candidate, uri, approved=not require_approval)
        require_approved(package, status)
        serving = Release(account, stage, candidate, package, hosting, bake_seconds).deploy()
    deployed = Deployment(
        stage=stage,
        region=account.region,
        account=account.id,
        endpoint_name=serving,
        class_labels=candidate.labels,
        confidence_threshold=candidate.threshold,
        image_size=candidate.input_size,
        capture_uri=endpoint.capture_uri(account) if capture_percent else None,
        capture_percent=capture_percent if serverless else 0,
        model=candidate.name,
        model_package=package,
        deployed_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    deployed.write()
    if as_json:
        click.echo(json.dumps(asdict(deployed)))
        return
    click.echo(
        f"{serving} serves {candidate.name} ({package.rpartition('/')[2]}); written to {FILE}.\n"
        f"Next: make deploy STAGE={stage}"
    )


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


def told(plan: dict[str, str | None]) -> str:
    """Tell in words what deploying would do."""
    what = f"Would update {plan['endpoint_name']}" if plan["endpoint_name"] else "Would create an endpoint"
    where = f"account {plan['account']}, {plan['region']}, stage {plan['stage']}"
    return f"{what} ({where}): {plan['model']} in {plan['image']} on {plan['on']}."


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
        candidate = replace(candidate, labels=tuple(label.strip() for label in labels.split(",")))
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
        undo.add(f"alarms of {name}", partial(endpoint.delete_alarms, account, name))
        endpoint.put_alarms(account, name, self.stage)
        undo.add(f"autoscaling of {name}", partial(endpoint.stop_scaling, account, name))
        endpoint.scale_automatically(account, name, self.hosting, self.stage)
        return name

    def _update(self, there: Endpoint, undo: Undo) -> None:
        account, name = self.account, endpoint.unique_name(self.stage)
        # Scaling waits during an update, so the new fleet begins as large as the old one; a canary needs two.
        instances = max(2, self.hosting.instances, there.instances)
        self._make_model_and_config(name, instances, undo, previous=there.config)
        self._try_out(name)
        alarms = endpoint.put_alarms(account, there.name, self.stage)
        if self.hosting.serverless:
            endpoint.update(account, there.name, name, None)
            return
        endpoint.stop_scaling(account, there.name)
        try:
            how = endpoint.blue_green(instances, alarms, self.bake_seconds)
            endpoint.update(account, there.name, name, how)
        finally:
            endpoint.scale_automatically(account, there.name, self.hosting, self.stage)

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
        endpoint.smoke_test(self.account, name, len(self.candidate.labels), _right_answer(self.candidate))


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
            f"{there.name} is {there.status}{reason}: wait, or python -m model destroy --stage {stage}"
        )
    serving = account.sagemaker.describe_endpoint_config(EndpointConfigName=there.config)
    if is_serverless(serving) != hosting.serverless:
        raise EndpointError(
            f"{there.name} {'is' if is_serverless(serving) else 'is not'} serverless, which is not to be "
            f"changed: use another --stage, or python -m model destroy --stage {stage} first"
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
