"""``scones backfill``: the photos that are there already, through the pipeline."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from model.sagemaker.account import translate_aws_errors
from model.terminal.errors import INTERRUPTED
from model.terminal.progress import progress_bar
from pipeline.backfill import account, follow, photos_under, running, start
from pipeline.stack import find, stack_option


@click.command("backfill")
@click.argument("prefix")
@stack_option
@click.option(
    "--concurrency",
    metavar="N",
    type=click.IntRange(1),
    help="How many photos at once.  [default and at most: the stack's BackfillConcurrency]",
)
@click.option(
    "--tolerate",
    metavar="PERCENT",
    type=click.FloatRange(0, 100),
    help="Give up when more than this have failed.  [default: the stack's BackfillToleratedFailures]",
)
@click.option("--dry-run", is_flag=True, help="Say how many photos there are, and put none through.")
@click.option("--json", "as_json", is_flag=True, help="Print the account as one JSON object.")
def command(
    *,
    prefix: str,
    stack: str | None,
    concurrency: int | None,
    tolerate: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put the photos under a prefix of the upload bucket through the pipeline.

    PREFIX begins with uploads/, for photos whose event got lost, or with archive/, for those that were there
    before: put there, they start nothing by themselves. A photo that has a result for this very version is
    not classified again: called again, a backfill that was stopped goes on where it was. Ctrl-C stops it;
    photos on their way get their result all the same. One that runs already is followed.

    \b
    Examples:
      scones backfill archive/2025/ --dry-run
      scones backfill uploads/ --stack scones-unlimited-dev --concurrency 4 --json

    \b
    Exit codes:
      0    every photo has a result
      1    some failed, too many for it to go on, or a failure; one line on stderr says what
      2    the command was called wrongly
      130  stopped by Ctrl-C; call again to go on
    """  # noqa: D301  click reads \b as a character
    with translate_aws_errors():
        target = find(stack)
        if dry_run:
            found = {"photos": photos_under(target, prefix), "already_running": running(target, prefix)}
            click.echo(json.dumps(found) if as_json else foreseen(found))
            return
        execution = running(target, prefix) or start(target, prefix, concurrency, tolerate)
        with progress_bar() as progress:
            try:
                follow(target, execution, progress)
                stopped = False
            except KeyboardInterrupt:
                target.client("stepfunctions").stop_execution(executionArn=execution)
                follow(target, execution, progress)
                stopped = True
        report, failure = account(target, execution)
    if as_json:
        click.echo(json.dumps(asdict(report)))
    elif report.photos:
        click.echo(report)
    if stopped:
        click.echo("Stopped; call again to go on.", err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    if failure or report.failed:
        where = f": {report.manifest}" if report.manifest else ""
        raise click.ClickException(failure or f"{report.failed} photos failed{where}")


def foreseen(found: Mapping[str, Any]) -> str:
    """Tell what a backfill would do."""
    if found["already_running"]:
        return f"Would follow the backfill that runs: {found['already_running']}"
    return f"Would put {found['photos']} photos through, but for those that have a result."
