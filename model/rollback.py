"""``python -m model rollback``: back to the model before."""

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from model.deploy import is_serverless
from model.sagemaker import endpoint
from model.sagemaker.account import Account, connect, refusals_explained, stage_option
from model.sagemaker.deployment import Deployment, DeploymentError
from model.sagemaker.endpoint import Endpoint, EndpointError, Served

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import DescribeEndpointConfigOutputTypeDef


@click.command("rollback")
@stage_option
@click.option(
    "--bake-seconds",
    default=60,
    show_default=True,
    type=click.IntRange(0, 3600),
    help="How long the instances with the present model stay at hand.",
)
@click.option("--dry-run", is_flag=True, help="Say which model it would be, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print it as one JSON object.")
def command(*, stage: str, bake_seconds: int, dry_run: bool, as_json: bool) -> None:
    """Bring an endpoint back to the model that it served before the last update.

    All at once, since that model has served before; the alarms are watched all the same. deployment.json
    then has that model's labels and threshold: `make deploy` brings them to the stack.

    \b
    Examples:
      python -m model rollback --dry-run
      python -m model rollback --stage prod && make deploy STAGE=prod

    \b
    Exit codes:
      0  the endpoint serves the model before
      1  it does not; one line on stderr says why
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    account = connect()
    with refusals_explained():
        back = way_back(account, stage)
        if not dry_run:
            rollback(account, stage, back, bake_seconds)
    if not dry_run:
        _remember(stage, back.there.name, back.served)
    if as_json:
        told = {"endpoint_name": back.there.name, "model": back.served.name}
        click.echo(json.dumps(told | {"model_package": back.served.package, "dry_run": dry_run}))
        return
    does = "would serve" if dry_run else "serves"
    click.echo(
        f"{back.there.name} {does} {back.served.name} ({back.served.package.rpartition('/')[2]}) again."
    )


@dataclass(frozen=True)
class WayBack:
    """An endpoint, and the configuration to which it can return.

    Attributes
    ----------
    there
        The endpoint as it is.
    config
        The configuration before.
    served
        The model that this one serves.
    """

    there: Endpoint
    config: "DescribeEndpointConfigOutputTypeDef"
    served: Served


def way_back(account: Account, stage: str) -> WayBack:
    """Find what a stage's endpoint served before.

    Raises
    ------
    EndpointError
        There is no endpoint in service, or nothing before.
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
    served = endpoint.served_by(account, before["ProductionVariants"][0]["ModelName"])
    return WayBack(there, before, served)


def rollback(account: Account, stage: str, back: WayBack, bake_seconds: int) -> None:
    """Bring a stage's endpoint back to the configuration before.

    Raises
    ------
    EndpointError
        SageMaker could not do it.
    """
    there, variant = back.there, back.config["ProductionVariants"][0]
    alarms = endpoint.put_alarms(account, there.name, stage)
    # the instances have to be of one type while they scale, and scaling waits during an update anyway
    scaling = scaling_of(account, there.name)
    if scaling:
        endpoint.stop_scaling(account, there.name)
    try:
        how = endpoint.blue_green(variant.get("InitialInstanceCount", 1), alarms, bake_seconds, canary=False)
        previous = back.config["EndpointConfigName"]
        endpoint.update(account, there.name, previous, None if is_serverless(back.config) else how)
    finally:
        if scaling:
            endpoint.scale_automatically(account, there.name, scaling, stage)


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
