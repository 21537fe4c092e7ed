"""``scones rollback``: roll an endpoint back to its previous model."""

import click

from model.sagemaker.account import connect, translate_aws_errors
from model.sagemaker.rollback import find_rollback_target, roll_back, update_deployment_file
from model.terminal.options import dry_run_option, json_option, stage_option
from model.terminal.output import echo, echo_json


@click.command("rollback")
@stage_option
@click.option(
    "--bake-seconds",
    default=60,
    type=click.IntRange(0, 3600),
    help="How long the instances with the present model stay available.",
)
@dry_run_option
@json_option
def command(*, stage: str, bake_seconds: int, dry_run: bool, as_json: bool) -> None:
    """Roll an endpoint back to the model that it served before the last update.

    All traffic moves at once, because that model has served before, to as many instances as there are now.
    Autoscaling keeps its target and bounds, and no alarm stops a rollback. deployment.json then has that
    model's labels and threshold: `make deploy` brings them to the stack.

    \b
    Examples:
      scones rollback --dry-run
      scones rollback --stage prod && make deploy STAGE=prod

    \b
    Exit codes:
      0  the endpoint serves the previous model
      1  failure; one line on stderr gives the reason
      2  usage error
    """  # noqa: D301  click reads \b as a character
    account = connect()
    with translate_aws_errors():
        target = find_rollback_target(account, stage)
        if not dry_run:
            roll_back(account, stage, target, bake_seconds)
            update_deployment_file(stage, target)
    name, model = target.endpoint.name, target.model
    if as_json:
        result = {"endpoint_name": name, "model": model.name, "model_package": model.package}
        echo_json(result | {"dry_run": dry_run})
        return
    verb = "would serve" if dry_run else "serves"
    echo(f"{name} {verb} {model.name} ({model.package.rpartition('/')[2]}) again.")
