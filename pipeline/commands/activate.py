"""``scones activate``: make sure that the photos of a new stack's first minutes are classified."""

from dataclasses import asdict

import click

from model.sagemaker.account import translate_aws_errors
from model.terminal.errors import INTERRUPTED
from model.terminal.options import dry_run_option, json_option
from model.terminal.output import echo, echo_json
from model.terminal.progress import progress_bar
from pipeline import activation, backfill
from pipeline.options import stack_option
from pipeline.stack import find_stack


@click.command("activate")
@stack_option
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=900,
    help="Give up if no event has arrived after so long.",
)
@dry_run_option
@json_option
def command(*, stack: str | None, timeout: float, dry_run: bool, as_json: bool) -> None:
    """Wait until uploads start executions, then classify the photos uploaded before.

    S3 takes about five minutes before it sends a new bucket's events. `make deploy` runs this command, which
    uploads a probe every 15 seconds until its event arrives through a temporary rule and queue, deletes all
    three, and classifies the photos under uploads/ that have no result. The object activation/done then marks
    the stack as active, so that the next deployment does not wait.

    \b
    Examples:
      scones activate --stack scones-unlimited-dev
      scones activate --stack scones-unlimited-dev --timeout 1800 --json

    \b
    Exit codes:
      0    uploads start executions, and every earlier photo has a result
      1    no event arrived, some photos failed, or another error; one line on stderr says what
      2    usage error
      130  stopped by Ctrl-C; run it again to continue
    """  # noqa: D301  click reads \b as a character
    probes, report, stopped, failure = 0, None, False, None
    with translate_aws_errors(), progress_bar() as progress:
        target = find_stack(stack)
        active = activation.is_active(target)
        if not active and not dry_run:
            probes = activation.wait_for_events(target, timeout, progress)
        photos = 0 if active else backfill.count_photos(target, activation.PHOTOS)
        if photos and not dry_run:
            execution = backfill.start(target, activation.PHOTOS, None, None)
            stopped = backfill.follow(target, execution, progress)
            report, failure = backfill.summarize(target, execution)
        failed = stopped or failure or (report and report.failed)
        if not failed and not dry_run:
            activation.mark_active(target)
    if as_json:
        plan = {"already_active": active, "photos": photos}
        result = {"probes": probes, "backfill": report and asdict(report)}
        echo_json(plan if dry_run else plan | result)
    elif active:
        echo("The stack is active already; there is nothing to do.")
    elif dry_run:
        echo(f"Would wait for an event, then classify {photos} photos, except those that have a result.")
    else:
        echo(f"Uploads start executions. {report or 'No photo was uploaded before.'}")
    if stopped:
        echo("Stopped. Run it again to continue.", err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    if failed:
        raise click.ClickException(f"{failure or 'Some photos failed'}. Fix the cause, then run it again.")
