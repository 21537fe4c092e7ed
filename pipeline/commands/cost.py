"""``scones cost``: estimate the AWS bill and compare it with the baseline design."""

from dataclasses import asdict
from pathlib import Path

import click

from model.terminal.options import json_option
from model.terminal.output import echo, echo_json
from pipeline.costs import bill
from pipeline.costs.table import BEGIN, BEGIN_DECISIONS, PLOT, SCALES, bills, decisions, table, to_json
from pipeline.markdown import update_section


@click.command("cost")
@click.option(
    "--photos",
    "scales",
    multiple=True,
    type=click.IntRange(1),
    default=SCALES,
    show_default=False,
    help="Number of photos a month; repeatable.  [default: 1,000, 100,000 and 10,000,000]",
)
@click.option(
    "--photo",
    type=click.Choice(["small", "phone"]),
    default="small",
    help="Size of the photos: 190 KB, the most that the baseline design can process, or 12 megapixels.",
)
@click.option(
    "--burst",
    type=click.IntRange(1),
    help="Price a burst of this many photos at once instead: how long it takes, and what the waiting costs.",
)
@click.option("--instances", type=click.IntRange(1), default=1, help="Instances that answer the burst.")
@json_option
@click.option(
    "--update",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Update the tables in this page, and {PLOT} beside it.",
)
def command(
    scales: tuple[int, ...],
    photo: str,
    burst: int | None,
    instances: int,
    *,
    as_json: bool,
    update: Path | None,
) -> None:
    """Estimate the AWS bill by list price, and compare it with the baseline design.

    The baseline design is that of the student project. Prices are AWS's list prices, without free tiers
    (pipeline/costs/prices.json, each with its date). What a photo uses is counted in the template and the
    state machine, or measured (pipeline/costs/measured.json, written by `make bench BENCH=usage`).

    \b
    Examples:
      scones cost
      scones cost --photos 250000 --photo phone
      scones cost --json | jq '.[] | {photos, design, month}'
      scones cost --burst 10000 --instances 4
      scones cost --update docs/costs.md

    \b
    Exit codes:
      0  done
      1  the command failed; one line on stderr says why
      2  usage error
    """  # noqa: D301  click reads \b as a character
    if burst:
        priced = bill.burst(burst, instances)
        if as_json:
            echo_json(asdict(priced))
        else:
            echo(*str(priced).splitlines())
        return
    found = bills(scales, photo)
    if update:
        from pipeline.costs import plot  # noqa: PLC0415  Matplotlib takes a second to import

        update_section(update, BEGIN, table(found, photo))
        update_section(update, BEGIN_DECISIONS, decisions(scales, photo))
        update.with_name(PLOT).write_bytes(plot.draw(photo, scales))
    if as_json:
        echo_json([to_json(one, photo) for one in found], indent=2)
    else:
        echo(*table(found, photo).splitlines())
