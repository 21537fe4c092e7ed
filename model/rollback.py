"""``python -m model rollback``: back to the model before."""

from dataclasses import replace

import click

from model.deploy import is_serverless
from model.sagemaker import endpoint
from model.sagemaker.account import Account, connect, refusals_explained, stage_option
from model.sagemaker.deployment import Deployment, DeploymentError
from model.sagemaker.endpoint import EndpointError, Served


@click.command("rollback")
@stage_option
@click.option(
    "--bake-seconds",
    default=60,
    show_default=True,
    type=click.IntRange(0, 3600),
    help="How long the instances with the present model stay at hand.",
)
def command(*, stage: str, bake_seconds: int) -> None:
    """Bring an endpoint back to the model that it served before the last update.

    All at once, since that model has served before; the alarms are watched all the same. deployment.json
    then has that model's labels and threshold: `make deploy` brings them to the stack.

    \b
    Examples:
      python -m model rollback
      python -m model rollback --stage prod && make deploy STAGE=prod

    \b
    Exit codes:
      0  the endpoint serves the model before
      1  it does not; one line on stderr says why
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    account = connect()
    with refusals_explained():
        name, served = rollback(account, stage, bake_seconds)
    _remember(stage, name, served)
    click.echo(f"{name} serves {served.name} ({served.package.rpartition('/')[2]}) again.")


def rollback(account: Account, stage: str, bake_seconds: int) -> tuple[str, Served]:
    """Bring a stage's endpoint back to the configuration before; return its name and what it serves.

    Raises
    ------
    EndpointError
        There is no endpoint or nothing before, or SageMaker could not do it.
    """
    there = endpoint.find(account, stage)
    if there is None:
        raise EndpointError(f"stage {stage} has no endpoint in {account.region}: nothing to roll back")
    if there.status != "InService":
        raise EndpointError(f"{there.name} is {there.status}: wait until it is in service")
    serving = account.sagemaker.describe_endpoint_config(EndpointConfigName=there.config)
    previous = endpoint.tags_of(account, serving["EndpointConfigArn"]).get("previous")
    if not previous:
        raise EndpointError(f"{there.name} has served no model before this one: nothing to roll back to")
    before = account.sagemaker.describe_endpoint_config(EndpointConfigName=previous)
    variant = before["ProductionVariants"][0]
    alarms = endpoint.put_alarms(account, there.name, stage)
    # the instances have to be of one type while they scale, and scaling waits during an update anyway
    scaling = scaling_of(account, there.name)
    if scaling:
        endpoint.stop_scaling(account, there.name)
    try:
        how = endpoint.blue_green(variant.get("InitialInstanceCount", 1), alarms, bake_seconds, canary=False)
        endpoint.update(account, there.name, previous, None if is_serverless(before) else how)
    finally:
        if scaling:
            endpoint.scale_automatically(account, there.name, scaling, stage)
    return there.name, endpoint.served_by(account, variant["ModelName"])


def scaling_of(account: Account, name: str) -> endpoint.Hosting | None:
    """Return the bounds between which an endpoint scales, if it does."""
    targets = account.autoscaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[endpoint.resource_id(name)]
    )["ScalableTargets"]
    if not targets:
        return None
    return endpoint.Hosting(instances=targets[0]["MinCapacity"], most_instances=targets[0]["MaxCapacity"])


def _remember(stage: str, name: str, served: Served) -> None:
    """Bring ``deployment.json`` up to it, where it is about this endpoint."""
    try:
        deployment = Deployment.read()
    except DeploymentError:
        return
    if (deployment.stage, deployment.endpoint_name) != (stage, name):
        return
    replace(
        deployment,
        model=served.name,
        model_package=served.package,
        class_labels=served.labels,
        confidence_threshold=served.threshold,
        image_size=served.input_size,
    ).write()
