"""``scones cost``: what a photo and an idle month cost on AWS, beside the original's design."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline.costs.table import BEGIN, PLOT, SCALES, bills, plain, put_between, table


@click.command("cost")
@click.option(
    "--photos",
    "scales",
    multiple=True,
    type=click.IntRange(1),
    default=SCALES,
    help="How many photos a month; repeatable.  [default: 1,000, 100,000 and 10,000,000]",
)
@click.option(
    "--photo",
    type=click.Choice(["small", "phone"]),
    default="small",
    show_default=True,
    help="What they are like: 190 KB, the most that the original survives, or 12 megapixels.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the bills, service by service.")
@click.option(
    "--update",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Put the table into this page, and the plot beside it as {PLOT}.",
)
def command(scales: tuple[int, ...], photo: str, *, as_json: bool, update: Path | None) -> None:
    """Say what a photo and an idle month cost on AWS, beside the original's design.

    Computed from AWS's list prices (pipeline/costs/prices.json, each with its date) and from what a photo
    uses: counted in the template and the state machine, or measured (pipeline/costs/measured.json,
    which `make bench BENCH=usage` writes). Free tiers are left out.

    \b
    Examples:
      scones cost
      scones cost --photos 250000 --photo phone
      scones cost --json | jq '.[] | {photos, design, month}'
      scones cost --update docs/costs.md

    \b
    Exit codes:
      0  computed
      1  something failed; one line on stderr says what
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    found = bills(scales, photo)
    if update:
        from pipeline.costs import plot  # noqa: PLC0415  Matplotlib takes a second to import

        put_between(update, BEGIN, table(found, photo))
        update.with_name(PLOT).write_bytes(plot.draw(photo, scales))
    if as_json:
        click.echo(json.dumps([plain(bill, photo) for bill in found], indent=2))
    else:
        click.echo(table(found, photo))
