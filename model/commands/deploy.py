"""``scones deploy``: a model behind an endpoint, the first time or in place of the one before."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime

import click

from model.sagemaker import endpoint, image, registry
from model.sagemaker.account import (
    connect,
    stage_option,
    translate_aws_errors,
)
from model.sagemaker.deployment_file import FILE, Deployment
from model.sagemaker.endpoint import Hosting
from model.sagemaker.rollout import Release, chosen, completed, foreseen, require_approved


@click.command("deploy")
@click.option(
    "--model",
    help="What `scones train` wrote, a model.tar.gz, or s3://… of one.  [default: the ready-made model]",
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
    before stays, for `scones rollback`.

    Writes deployment.json, from which `make deploy` takes what the stack has to know.

    \b
    Examples:
      scones deploy --model .local/model --dry-run
      scones deploy --model .local/model
      scones deploy --training-job scones-unlimited-20261125101500 --stage prod --require-approval
      scones deploy --instance-type ml.c7g.large
      scones deploy --serverless

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
    with translate_aws_errors(), chosen(account, model, training_job, image_uri, hosting) as (found, uri):
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


def told(plan: dict[str, str | None]) -> str:
    """Tell in words what deploying would do."""
    what = f"Would update {plan['endpoint_name']}" if plan["endpoint_name"] else "Would create an endpoint"
    where = f"account {plan['account']}, {plan['region']}, stage {plan['stage']}"
    return f"{what} ({where}): {plan['model']} in {plan['image']} on {plan['on']}."
