"""``scones destroy``: back to nothing, in AWS and on this machine."""

import json

import click

from model.sagemaker.account import (
    check_stage,
    connect,
    translate_aws_errors,
)
from pipeline import teardown
from pipeline.teardown import deleted, of_stack


def _check(ctx: click.Context, option: click.Parameter, stage: str | None) -> str | None:
    return stage and check_stage(ctx, option, stage)


@click.command("destroy")
@click.option("--stage", callback=_check, help="Only what is of this stage.  [default: everything]")
@click.option("--stack", help="Only the stack of this name, e.g. scones-unlimited-dev.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run or --yes: print it as one JSON object.")
def command(*, stage: str | None, stack: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete what this project made, in AWS and on this machine, the photos included.

    Endpoints with their autoscaling and alarms, endpoint configurations, models, registered versions,
    training jobs, stacks with all that is in their buckets, logs, the image repository, deployment.json and
    Docker images. It is found by the tag project=scones-unlimited, so what a deployment that broke off
    left is found too, and nothing of others is touched. Fine to call again. Asks first; the region and the
    account are those of your AWS environment.

    \b
    Examples:
      scones destroy --dry-run
      scones destroy --stage dev
      scones destroy --stack scones-unlimited --yes

    \b
    Exit codes:
      0  it is gone, or there was nothing
      1  something is left; the lines on stderr say what and why
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    if stage and stack:
        raise click.UsageError("--stage or --stack, not both")
    if as_json and not (dry_run or yes):
        raise click.UsageError("--json asks nobody: with --dry-run or --yes")
    account = connect()
    with translate_aws_errors():
        found = of_stack(account, stack) if stack else teardown.take(account, stage)
    if as_json:
        failed = [] if dry_run else [one for one in found if not deleted(one, quiet=True)]
        told = {
            "found": [str(one) for one in found],
            "left": [str(one) for one in failed],
            "dry_run": dry_run,
        }
        click.echo(json.dumps(told))
        if failed:
            raise click.exceptions.Exit(1)
        return
    if not found:
        whose = f"stack {stack}" if stack else f"of stage {stage}" if stage else "of this project"
        click.echo(
            f"There is no {whose}: nothing to delete." if stack else f"There is nothing {whose} to delete."
        )
        return
    for one in found:
        click.echo(one)
    if dry_run:
        return
    if not yes:
        where = f"account {account.id}, {account.region}"
        click.confirm(f"Delete {'it' if len(found) == 1 else 'all of it'} for good ({where})?", abort=True)
    if failed := [one for one in found if not deleted(one)]:
        raise click.ClickException(f"{len(failed)} of {len(found)} could not be deleted; call again.")
