"""``scones replay``: retry what failed, once its cause is fixed."""

from dataclasses import asdict

import click

from model.sagemaker.account import translate_aws_errors
from model.terminal.options import dry_run_option, json_option
from model.terminal.output import echo, echo_json
from model.terminal.progress import progress_bar
from pipeline.options import stack_option
from pipeline.replay import replay
from pipeline.stack import find_stack


@click.command("replay")
@stack_option
@dry_run_option
@json_option
def command(*, stack: str | None, dry_run: bool, as_json: bool) -> None:
    """Retry each message in the failed queue once.

    Inputs of executions that failed, timed out or were stopped, and events that could not be delivered, start
    one execution each; results that were not delivered to the review queue are sent there. Only then is the
    message deleted. The new execution is named after the failed one, so running this command again starts
    nothing twice. What fails again arrives as a new message, for the next replay.

    \b
    Examples:
      scones replay --dry-run
      scones replay --stack scones-unlimited-dev --json

    \b
    Exit codes:
      0  everything was retried, or the queue was empty
      1  a message is not an input of this pipeline and stays in the queue, or something failed
      2  usage error
    """  # noqa: D301  click reads \b as a character
    with translate_aws_errors(), progress_bar() as progress:
        target = find_stack(stack)
        report = replay(target, progress, dry_run=dry_run)
    if as_json:
        echo_json(asdict(report))
    elif not report.messages:
        echo("The failed queue is empty; there is nothing to replay.")
    else:
        echo(f"{'Dry run: ' if dry_run else ''}{report}.")
    if report.left:
        raise click.ClickException(
            f"{report.left} of {report.messages} messages are not inputs of this pipeline. Look at them in "
            f"{target.output('FailedQueueUrl')}"
        )
