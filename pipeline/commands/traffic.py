"""``scones traffic``: photos as couriers send them, and an account of what became of each."""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from model.sagemaker.account import translate_aws_errors
from model.terminal.progress import progress_bar
from pipeline.load_test import PREFIX, Report, Traffic, delete, planned
from pipeline.stack import find, stack_option


@click.command("traffic")
@click.option(
    "--burst", metavar="N", type=click.IntRange(1), default=100, show_default=True, help="How many."
)
@click.option(
    "--rate",
    metavar="R",
    type=click.FloatRange(0, min_open=True),
    help="How many a second.  [default: as fast as they go]",
)
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of photos to send, over and over.  [default: drawn ones]",
)
@click.option(
    "--bad", metavar="SHARE", type=click.FloatRange(0, 1), default=0, help="Files that are no photo."
)
@click.option(
    "--other", metavar="SHARE", type=click.FloatRange(0, 1), default=0, help="Photos of something else."
)
@click.option(
    "--duplicates",
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    default=0,
    help="Photos whose event is delivered twice.",
)
@stack_option
@click.option(
    "--patience",
    metavar="SECONDS",
    type=click.FloatRange(1),
    default=120,
    show_default=True,
    help="After so long without any news, what is still out is missing.",
)
@click.option("--clean", is_flag=True, help="Delete the photos and their results afterwards.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent where, and send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the account as one JSON object.")
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
    """Send photos through a stack, and account for every one of them.

    A burst, or with --rate a stream, under uploads/traffic/. The account counts what really happened: a photo
    is accepted, in review or rejected if that is in the results table and was published on the results bus,
    and double if more than one outcome was. For that, a queue and rules are made, and deleted in the end.
    In AWS it costs what as many couriers' photos would; needs_review ones go to the review queue.

    \b
    Examples:
      scones traffic --burst 1000 --bad .1 --duplicates .05 --json
      scones traffic --burst 600 --rate 10 --photos ~/Pictures/couriers
      scones traffic --stack scones-unlimited-dev --burst 50 --clean --dry-run

    \b
    Exit codes:
      0  every photo has one outcome
      1  photos failed, are missing or have two outcomes, or a failure
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    if bad + other > 1:
        raise click.UsageError("--bad and --other are shares of the same photos: together at most 1")
    with translate_aws_errors(), progress_bar() as progress:
        target = find(stack)
        prefix = f"{PREFIX}{datetime.now(UTC):%Y%m%d-%H%M%S}-{random.randbytes(3).hex()}/"  # noqa: S311  a name
        sent = planned(prefix, burst, photos, bad=bad, other=other, duplicates=duplicates)
        if dry_run:
            plan = {
                "photos": len(sent),
                "twice": sum(photo.twice for photo in sent),
                "bytes": sum(len(photo.read()) for photo in sent),
                "to": f"s3://{target.output('UploadBucketName')}/{PREFIX}",
            }
            click.echo(json.dumps(plan) if as_json else foreseen(plan))
            return
        traffic = Traffic(target, prefix, sent, progress, rate=rate, patience=patience)
        report = traffic.run()
        if clean:
            delete(target, prefix, traffic.statuses)
    click.echo(json.dumps(asdict(report)) if as_json else told(report, prefix, clean=clean))
    if traffic.undelivered:
        raise click.ClickException(
            f"the event of {len(traffic.undelivered)} uploads did not come, to be delivered twice"
        )
    if not report.good:
        raise click.exceptions.Exit(1)


def foreseen(plan: Mapping[str, Any]) -> str:
    """Tell what would be sent."""
    return (
        f"Would send {plan['photos']} photos ({plan['bytes'] / 1e6:.1f} MB) to {plan['to']}, the events of "
        f"{plan['twice']} of them twice."
    )


def told(report: Report, prefix: str, *, clean: bool) -> str:
    """Tell the account in words."""
    counts = {name: value for name, value in asdict(report).items() if name not in {"sent", "seconds"}}
    account = ", ".join(f"{value} {name}" for name, value in counts.items())
    where = "" if clean else f" They are under {prefix}."
    return f"{report.sent} sent in {report.seconds:.1f} s: {account}.{where}"
