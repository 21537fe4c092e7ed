"""``scones forget``: a photo, and all that was derived from it, is deleted."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.sagemaker.account import translate_aws_errors
from pipeline.erasure import account, address, refusal
from pipeline.stack import find, stack_option

if TYPE_CHECKING:
    from pipeline.erasure import Trace


DATA = Path(".local/data")
"""Where `make train` has its data set."""


@click.command("forget")
@click.argument("photo")
@stack_option
@click.option(
    "--captures",
    multiple=True,
    metavar="PLACE",
    help="Look here for captures too: a folder or s3://bucket/prefix; may be repeated. The stack's own "
    "CaptureUri is looked through anyway.",
)
@click.option("--all-captures", is_flag=True, help="Look through the captures of all times: takes long.")
@click.option(
    "--data",
    multiple=True,
    metavar="PLACE",
    help="Look here for training copies too: a folder or s3://bucket/prefix; may be repeated. .local/data "
    "and the account's staged data sets are looked through anyway.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was deleted as one JSON object.")
def command(
    *,
    photo: str,
    stack: str | None,
    captures: tuple[str, ...],
    all_captures: bool,
    data: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete a photo, and all that was derived from it.

    PHOTO is its address, s3://bucket/uploads/…, or its key alone. It goes in all its versions, with its
    result, what the endpoint captured and people said of it, its message in the review and the failed queue,
    and its copies in data sets. Fine to call again: what broke off is finished, and where nothing is left
    nothing is done. What AWS lets nobody delete is named, with the day on which it goes by itself. A model
    that was trained with the photo stays.

    Captures are looked for by the result's inference id, and by the photo itself, at the times of its
    uploads. Who may call it: the stack's ForgetPolicyArn, and for data sets DeployerPolicyArn.

    \b
    Examples:
      scones forget s3://my-upload-bucket/uploads/courier-17.jpg --dry-run
      scones forget uploads/courier-17.jpg --stack scones-unlimited-dev
      scones forget uploads/courier-17.jpg --data ~/Pictures/reviewed --json

    \b
    Exit codes:
      0  all of it is gone, or there was nothing
      1  something is left; one line on stderr says what
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    from pipeline import erasure  # noqa: PLC0415  --help should not wait for it

    with translate_aws_errors():
        pipeline = find(stack)
        known = erasure.know(pipeline, *address(pipeline, photo))
        places = [*([str(DATA)] if DATA.is_dir() else []), *data]
        found = erasure.search(pipeline, known, captures, places, all_captures=all_captures)
        left = erasure.left(pipeline, known)
    gone: list[Trace] = []
    unseen = found.unseen
    for trace in found.traces:
        # The photo and its result, which come last, lead to the rest: they stay while any of it does.
        if reason := refusal(trace.spare if dry_run else trace.delete):
            unseen = [f"{trace.kind} {trace.where} ({reason})", *unseen]
            break
        gone.append(trace)
        if not as_json:
            click.echo(f"{'Would delete' if dry_run else 'Deleted'} {trace.kind}: {trace.where}")
    if as_json:
        click.echo(json.dumps(account(known.photo, gone, left, unseen, dry_run=dry_run)))
    else:
        for one in left:
            click.echo(f"Goes by itself on {one.until}: {one.kind} {one.where}")
        if not gone and not unseen:
            click.echo(f"Nothing is left of {known.photo}.")
    if unseen:
        raise click.ClickException(f"not all of {known.photo} is gone, call again: {'; '.join(unseen)}")
