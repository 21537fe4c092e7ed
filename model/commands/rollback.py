"""``scones rollback``: back to the model before."""

import json
from dataclasses import replace

import click

from model.sagemaker.account import connect, stage_option, translate_aws_errors
from model.sagemaker.deployment_file import Deployment, DeploymentError
from model.sagemaker.endpoint import Served
from model.sagemaker.rollback import find_rollback_target, rollback


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
      scones rollback --dry-run
      scones rollback --stage prod && make deploy STAGE=prod

    \b
    Exit codes:
      0  the endpoint serves the model before
      1  it does not; one line on stderr says why
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    account = connect()
    with translate_aws_errors():
        back = find_rollback_target(account, stage)
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
