"""``scones backfill``: classify photos that are already in the bucket."""

from dataclasses import asdict

import click

from model.sagemaker.account import translate_aws_errors
from model.terminal.errors import INTERRUPTED
from model.terminal.options import dry_run_option, json_option
from model.terminal.output import echo, echo_json
from model.terminal.progress import progress_bar
from pipeline import backfill
from pipeline.options import stack_option
from pipeline.stack import Stack, find_stack


@click.command("backfill")
@click.argument("prefix")
@stack_option
@click.option(
    "--concurrency",
    metavar="N",
    type=click.IntRange(1),
    help="Photos to process at once.  [default and maximum: the stack's BackfillConcurrency]",
)
@click.option(
    "--tolerate",
    metavar="PERCENT",
    type=click.FloatRange(0, 100),
    help="Give up once a larger share has failed.  [default: the stack's BackfillToleratedFailures]",
)
@dry_run_option
@json_option
def command(
    *,
    prefix: str,
    stack: str | None,
    concurrency: int | None,
    tolerate: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Classify the photos under a prefix of the upload bucket.

    PREFIX starts with uploads/, for photos whose event was lost, or with archive/, for photos that existed
    before the pipeline: uploading under archive/ starts nothing. A photo that has a result for its current
    version is not classified again, so a backfill that was stopped continues where it was. If a backfill of
    PREFIX is already running, this command follows it. Ctrl-C stops it; photos already started still get
    their result.

    \b
    Examples:
      scones backfill archive/2025/ --dry-run
      scones backfill uploads/ --stack scones-unlimited-dev --concurrency 4 --json

    \b
    Exit codes:
      0    every photo has a result
      1    some photos failed, or too many to continue, or another error; one line on stderr says what
      2    usage error
      130  stopped by Ctrl-C; run it again to continue
    """  # noqa: D301  click reads \b as a character
    with translate_aws_errors():
        target = find_stack(stack)
        if dry_run:
            _print_plan(target, prefix, as_json=as_json)
            return
        execution = backfill.find_running(target, prefix) or backfill.start(
            target, prefix, concurrency, tolerate
        )
        with progress_bar() as progress:
            stopped = backfill.follow(target, execution, progress)
        report, failure = backfill.summarize(target, execution)
    if as_json:
        echo_json(asdict(report))
    elif report.photos:
        echo(report)
    if stopped:
        echo("Stopped. Run it again to continue.", err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    if failure or report.failed:
        details = f". Details: {report.manifest}" if report.manifest else ""
        raise click.ClickException(failure or f"{report.failed} photos failed{details}")


def _print_plan(stack: Stack, prefix: str, *, as_json: bool) -> None:
    photos, running = backfill.count_photos(stack, prefix), backfill.find_running(stack, prefix)
    if as_json:
        echo_json({"photos": photos, "already_running": running})
    elif running:
        echo(f"Would follow the running backfill: {running}")
    else:
        echo(f"Would classify {photos} photos, except those that have a result.")
