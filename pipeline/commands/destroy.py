"""``scones destroy``: delete everything that this project created."""

import click

from model.sagemaker.account import connect, translate_aws_errors
from model.terminal.options import check_stage, dry_run_option
from model.terminal.output import echo, echo_json, require_confirmation
from pipeline import teardown


@click.command("destroy")
@click.option("--stage", callback=check_stage, help="Only resources of this stage.  [default: everything]")
@click.option("--stack", help="Only the stack with this name, e.g. scones-unlimited-dev.")
@dry_run_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run or --yes: print one JSON object.")
def command(*, stage: str | None, stack: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete what this project created in AWS and on this machine, including the photos.

    These are endpoints with their autoscaling and alarms, endpoint configurations, models, registered
    versions, training jobs, stacks with everything in their buckets, logs, the image repository,
    deployment.json and Docker images. Resources are found by the tag project=scones-unlimited, so what an
    interrupted deployment left behind is found too, and resources of others are not touched. It is safe to
    run this again. Asks for confirmation; the region and the account are those of your AWS environment.

    AWS keeps a backup of a deleted results table for 35 days, and an alarm topic's key for 7 days.

    \b
    Examples:
      scones destroy --dry-run
      scones destroy --stage dev
      scones destroy --stack scones-unlimited --yes

    \b
    Exit codes:
      0  everything is deleted, or there was nothing to delete
      1  something could not be deleted; the lines on stderr say what and why
      2  usage error
    """  # noqa: D301  click reads \b as a character
    if stage and stack:
        raise click.UsageError("give --stage or --stack, not both")
    if as_json and not (dry_run or yes):
        raise click.UsageError("--json cannot ask for confirmation: add --dry-run or --yes")
    account = connect()
    with translate_aws_errors():
        found = teardown.find_stack(account, stack) if stack else teardown.list_resources(account, stage)
    missing, scope = f"No such stack: {stack}. " if stack else "", f" for stage {stage}" if stage else ""
    if not as_json:
        echo(*found or (f"{missing}Nothing to delete{scope}.",))
    if found and not (dry_run or yes):
        place = f"account {account.id}, {account.region}"
        question = f"Delete {'it' if len(found) == 1 else 'all of it'} permanently ({place})?"
        require_confirmation(question)
    failed = []
    for resource, error in [] if dry_run else teardown.delete_resources(found):
        if error:
            failed.append(resource)
            echo(f"Not deleted: {resource}: {error}", err=True)
        elif not as_json:
            echo(f"Deleted {resource}.")
    if as_json:
        result = {"found": list(map(str, found)), "left": list(map(str, failed)), "dry_run": dry_run}
        echo_json(result)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(found)} could not be deleted. Run it again.")
