"""``scones traffic``: run a load test."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from model.sagemaker.account import translate_aws_errors
from model.terminal.options import dry_run_option, json_option
from model.terminal.output import echo, echo_json
from model.terminal.progress import progress_bar
from pipeline.load_test import PREFIX, LoadTest, Photo, delete_photos, plan_photos
from pipeline.options import stack_option
from pipeline.stack import find_stack

SHARE: Mapping[str, Any] = {"metavar": "SHARE", "type": click.FloatRange(0, 1), "default": 0}


@click.command("traffic")
@click.option("--burst", metavar="N", type=click.IntRange(1), default=100, help="Photos to send.")
@click.option(
    "--rate",
    metavar="R",
    type=click.FloatRange(0, min_open=True),
    help="Photos per second.  [default: as fast as possible]",
)
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of photos to send repeatedly.  [default: drawn pictures]",
)
@click.option("--bad", **SHARE, help="Share that is unreadable.")
@click.option("--other", **SHARE, help="Share without a vehicle.")
@click.option("--duplicates", **SHARE, help="Share of photos whose event is delivered twice.")
@stack_option
@click.option(
    "--patience",
    metavar="SECONDS",
    type=click.FloatRange(1),
    default=120,
    help="After so long without an event, unfinished photos count as missing.",
)
@click.option("--clean", is_flag=True, help="Delete the photos and their results afterwards.")
@dry_run_option
@json_option
def command(
    *,
    burst: int,
    rate: float | None,
    photos: Path | None,
    bad: float,
    other: float,
    duplicates: float,
    stack: str | None,
    patience: float,
    clean: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send photos through a stack and report the outcome of every one of them.

    Sends a burst, or with --rate a stream, under uploads/traffic/. A photo counts as accepted, in review or
    rejected if that outcome is in the results table and was published on the results bus, and as double if
    more than one outcome was published. The command listens through a temporary queue and temporary rules,
    which it deletes at the end. In AWS these photos cost as much as any others; those that need review go to
    the review queue.

    \b
    Examples:
      scones traffic --burst 1000 --bad .1 --duplicates .05 --json
      scones traffic --burst 600 --rate 10 --photos ~/Pictures/couriers
      scones traffic --stack scones-unlimited-dev --burst 50 --clean --dry-run

    \b
    Exit codes:
      0  every photo has exactly one outcome
      1  photos failed, are missing or have two outcomes, or another error
      2  usage error
    """  # noqa: D301  click reads \b as a character
    if bad + other > 1:
        raise click.UsageError("--bad and --other are shares of the same photos: together at most 1.")
    with translate_aws_errors(), progress_bar() as progress:
        target = find_stack(stack)
        prefix = f"{PREFIX}{datetime.now(UTC):%Y%m%d-%H%M%S}-{random.randbytes(3).hex()}/"  # noqa: S311  a name
        planned = plan_photos(prefix, burst, photos, bad=bad, other=other, duplicates=duplicates)
        if dry_run:
            _print_plan(planned, f"s3://{target.output('UploadBucketName')}/{PREFIX}", as_json=as_json)
            return
        load_test = LoadTest(target, prefix, planned, progress, rate=rate, patience=patience)
        report = load_test.run()
        if clean:
            delete_photos(target, prefix, load_test.statuses)
    kept = "" if clean else f" The photos are under {prefix}"
    if as_json:
        echo_json(asdict(report))
    else:
        echo(f"{report}{kept}")
    if missed := len(load_test.pending_duplicates):
        raise click.ClickException(f"{missed} uploads produced no event, so no duplicate could be sent.")
    if not report.passed:
        raise click.exceptions.Exit(1)


def _print_plan(photos: Sequence[Photo], to: str, *, as_json: bool) -> None:
    twice, size = sum(photo.duplicate for photo in photos), sum(len(photo.read()) for photo in photos)
    if as_json:
        echo_json({"photos": len(photos), "twice": twice, "bytes": size, "to": to})
    else:
        sent = f"{len(photos)} photos ({size / 1e6:.1f} MB) to {to}"
        echo(f"Would send {sent} and deliver the events of {twice} of them twice.")
