"""``scones deploy``: deploy a model behind an endpoint, or update the endpoint to it."""

from dataclasses import asdict

import click

from model.sagemaker import image
from model.sagemaker.account import connect, translate_aws_errors
from model.sagemaker.autoscaling import PHOTOS_AT_ONCE
from model.sagemaker.deployment_file import FILE
from model.sagemaker.endpoint import Hosting
from model.sagemaker.rollout import Rollout, format_plan, select_candidate, with_overrides
from model.terminal.options import dry_run_option, json_option, labels_option, stage_option, threshold_option
from model.terminal.output import echo, echo_json


@click.command("deploy")
@click.option(
    "--model",
    help="A folder from `scones train`, a model.tar.gz, or s3://… of one.  [default: the ready-made model]",
)
@click.option("--training-job", help="A completed training job, whose model to deploy.")
@stage_option
@click.option("--instance-type", default="ml.m5.large", help="ml.c7g.large is Graviton.")
@click.option("--instances", default=1, type=click.IntRange(1), help="Minimum number.")
@click.option("--most-instances", default=4, type=click.IntRange(1), help="Maximum number.")
@click.option(
    "--photos-at-once",
    default=PHOTOS_AT_ONCE,
    type=click.FloatRange(0.1),
    help="Target of autoscaling: photos that an instance holds, queue included; 2.1 keep two cores 70% busy.",
)
@click.option(
    "--serverless",
    is_flag=True,
    help="No instances: pay per photo. Slow to start after a pause, and only the pipeline captures data.",
)
@click.option(
    "--memory",
    default="2048",
    type=click.Choice(["1024", "2048", "3072", "4096", "5120", "6144"]),
    help="Memory of a serverless endpoint, in MB.",
)
@click.option(
    "--capture-percent",
    default=100,
    type=click.IntRange(0, 100),
    help="Share of requests and answers to capture.",
)
@click.option("--kms-key", help="A KMS key for volumes and captures.  [default: AWS's own keys]")
@click.option(
    "--bake-seconds",
    default=300,
    type=click.IntRange(60, 3600),
    help="How long to watch an update: once with one instance, then with all.",
)
@labels_option("the model's own, if it specifies them")
@threshold_option("the model's own, if it specifies one")
@click.option("--image", "image_uri", help="A container image in ECR.  [default: the image of this code]")
@click.option("--require-approval", is_flag=True, help="Only register the model until somebody approves it.")
@dry_run_option
@json_option
def command(
    *,
    model: str | None,
    training_job: str | None,
    stage: str,
    instance_type: str,
    instances: int,
    most_instances: int,
    photos_at_once: float,
    serverless: bool,
    memory: str,
    capture_percent: int,
    kms_key: str | None,
    bake_seconds: int,
    labels: tuple[str, ...] | None,
    threshold: float | None,
    image_uri: str | None,
    require_approval: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Deploy a model behind a SageMaker endpoint, or update the existing endpoint.

    The first deployment creates an endpoint with autoscaling, data capture and alarms. Later ones update
    it: the new model has to pass a smoke test on a temporary endpoint; then one instance takes its share of
    the traffic, then all do, and if an alarm goes off the update is rolled back. The previous model stays
    available for `scones rollback`.

    Writes deployment.json, from which `make deploy` takes the stack parameters.

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
      1  failure; one line on stderr gives the reason, and names what remains in AWS
      2  usage error
    """  # noqa: D301  click reads \b as a character
    if model and training_job:
        raise click.UsageError("give --model or --training-job, not both")
    hosting = Hosting(
        instance_type=None if serverless else instance_type,
        instances=instances,
        max_instances=most_instances,
        photos_at_once=photos_at_once,
        serverless_memory=int(memory),
        capture_percent=capture_percent,
        kms_key=kms_key,
    )
    account = connect()
    with (
        translate_aws_errors(),
        select_candidate(account, model, training_job, image_uri, hosting) as (selected, uri),
    ):
        candidate = with_overrides(selected, labels, threshold)
        image.require_pushed(account, uri)
        rollout = Rollout(account, stage, candidate, uri, hosting, bake_seconds)
        if dry_run:
            plan = rollout.plan()
            if as_json:
                echo_json(plan)
            else:
                echo(format_plan(plan))
            return
        deployment = rollout.deploy(approved=not require_approval)
    deployment.write()
    if as_json:
        echo_json(asdict(deployment))
        return
    version = deployment.model_package.rpartition("/")[2]
    echo(
        f"{deployment.endpoint_name} serves {deployment.model} ({version}); written to {FILE}.",
        f"Next: make deploy STAGE={stage}",
    )
