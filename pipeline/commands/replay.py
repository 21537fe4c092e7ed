"""``scones replay``: what failed, put through again once its cause is gone."""

import json
from dataclasses import asdict

import click

from model.sagemaker.account import translate_aws_errors
from model.terminal.progress import progress_bar
from pipeline.replay import replay
from pipeline.stack import find, stack_option


@click.command("replay")
@stack_option
@click.option("--dry-run", is_flag=True, help="Say what would be put through again, and leave it all.")
@click.option("--json", "as_json", is_flag=True, help="Print the account as one JSON object.")
def command(*, stack: str | None, dry_run: bool, as_json: bool) -> None:
    """Put what stands in the failed queue through again, once each.

    Inputs of executions that failed, timed out or were stopped, and events that could not be delivered, start
    an execution each; results that did not come to the review queue go there. A message is deleted only after
    that, and the new execution is named after the failed one: nothing is started twice, however often this
    is called. What fails again is a new message, for the next replay.

    \b
    Examples:
      scones replay --dry-run
      scones replay --stack scones-unlimited-dev --json

    \b
    Exit codes:
      0  everything was put through again, or there was nothing
      1  a message is no input of this pipeline and stays in the queue, or a failure
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    with translate_aws_errors(), progress_bar() as progress:
        pipeline = find(stack)
        account = replay(pipeline, progress, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(asdict(account)))
    elif not account.messages:
        click.echo("The failed queue is empty: nothing to replay.")
    else:
        click.echo(f"{'Would be: ' if dry_run else ''}{account}.")
    if account.left:
        raise click.ClickException(
            f"{account.left} of {account.messages} messages are no input of this pipeline: look at them in "
            f"{pipeline.output('FailedQueueUrl')}"
        )
