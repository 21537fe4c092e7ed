"""``scones forget``: delete a photo and everything derived from it."""

import click

from model.sagemaker.account import translate_aws_errors
from model.terminal.options import dry_run_option, json_option
from model.terminal.output import echo, echo_json
from pipeline import HOME, erasure, photo_copies
from pipeline.options import stack_option
from pipeline.photo_identity import PhotoTracer
from pipeline.stack import find_stack

DATA = HOME / "data"
"""The data set of `make train`."""


@click.command("forget")
@click.argument("photo")
@stack_option
@click.option(
    "--captures",
    multiple=True,
    metavar="PLACE",
    help="Also search this folder or s3://bucket/prefix for captures; may be repeated.  [always: the stack's "
    "CaptureUri]",
)
@click.option("--all-captures", is_flag=True, help="Search captures of any time, which takes long.")
@click.option(
    "--data",
    multiple=True,
    metavar="PLACE",
    help="Also search this folder or s3://bucket/prefix for training copies; may be repeated.  [always: "
    ".local/data and the account's staged data sets]",
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False),
    help="Also remove the photo from this report of `scones monitor`; may be repeated.  [always: the local "
    "stack's]",
)
@click.option(
    "--wait",
    "patience",
    type=click.FloatRange(0),
    default=900,
    metavar="SECONDS",
    help="How long to wait while the photo is in flight.",
)
@dry_run_option
@json_option
def command(
    *,
    photo: str,
    stack: str | None,
    captures: tuple[str, ...],
    all_captures: bool,
    data: tuple[str, ...],
    reports: tuple[str, ...],
    patience: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete a photo and everything derived from it.

    PHOTO is an address, s3://bucket/uploads/…, or only the key. The command deletes all versions of the
    photo, its result, its captures and ground truth, its messages in the review and failed queues, its
    entries in backfills' results and monitoring reports, and its copies in data sets. What it cannot delete
    is listed with the date on which it expires. A model that was trained with the photo is kept.

    While an execution or a backfill may still write a copy, or the endpoint's last answer may not be captured
    yet, the command waits. If that takes longer than --wait, it deletes what there is and exits with 1.

    It leaves a record with hashes and ids, but no address and no photo, with which another run finds what
    arrived later, or what an interrupted run left.

    The command needs the stack's ForgetPolicyArn and, for staged data sets, DeployerPolicyArn.

    \b
    Examples:
      scones forget s3://my-upload-bucket/uploads/courier-17.jpg --dry-run
      scones forget uploads/courier-17.jpg --stack scones-unlimited-dev
      scones forget uploads/courier-17.jpg --data ~/Pictures/reviewed --json

    \b
    Exit codes:
      0  everything was deleted, or there was nothing to delete
      1  something remains; one line on stderr says what
      2  usage error
    """  # noqa: D301  click reads \b as a character
    from model.terminal.tables import Console  # noqa: PLC0415  takes long to import

    with translate_aws_errors():
        target = find_stack(stack)
        try:
            bucket, key = erasure.split_address(target, photo)
        except erasure.AddressError as error:
            raise click.UsageError(str(error)) from error
        tracer = PhotoTracer(target, bucket, key)
        with Console(stderr=True).status("Looking for what is in flight …") as status:
            identity, pending = erasure.settle(tracer, patience, status.update)
        places = [*([str(DATA)] if DATA.is_dir() else []), *data]
        search = photo_copies.find_copies(
            photo_copies.Context(target, tracer, identity, captures, places, reports, all_captures)
        )
        search.remaining += pending
        if not dry_run:
            erasure.record(target, identity)
    deleted = []
    for copy in erasure.erase(search, dry_run=dry_run):
        deleted.append({"kind": copy.kind, "where": copy.where})
        if not as_json:
            echo(f"{'Would delete' if dry_run else 'Deleted'} {copy.kind}: {copy.where}")
    if as_json:
        report = {
            "photo": identity.uri,
            "dry_run": dry_run,
            "deleted": deleted,
            "goes_by_itself": [one._asdict() for one in search.retained],
            "left": search.remaining,
        }
        echo_json(report)
    else:
        if not deleted and not search.remaining:
            echo(f"No copies of {identity.uri} were found.")
        for one in search.retained:
            until = f"Expires on {one.until}" if one.until else "Not deleted, delete it yourself"
            echo(f"{until}: {one.kind} {one.where}")
    if search.remaining:
        remaining = "; ".join(search.remaining)
        raise click.ClickException(f"{identity.uri} is not completely deleted, run it again: {remaining}")
