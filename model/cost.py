"""``python -m model cost``: what a photo and an idle month cost on AWS, beside the original's design."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.costs.bill import Bill

SCALES = (1_000, 100_000, 10_000_000)
BEGIN, END = "<!-- python -m model cost -->", "<!-- to here -->"
PLOT = "costs.svg"


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

    Computed from AWS's list prices (model/costs/prices.json, each with its date) and from what a photo uses:
    counted in the template and the state machine, or measured (model/costs/measured.json, which
    `make bench BENCH=usage` writes). Free tiers are left out.

    \b
    Examples:
      python -m model cost
      python -m model cost --photos 250000 --photo phone
      python -m model cost --json | jq '.[] | {photos, design, month}'
      python -m model cost --update docs/costs.md

    \b
    Exit codes:
      0  computed
      1  something failed; one line on stderr says what
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    found = bills(scales, photo)
    if update:
        from model.costs import plot  # noqa: PLC0415  Matplotlib takes a second to import

        put_between(update, BEGIN, table(found, photo))
        update.with_name(PLOT).write_bytes(plot.draw(photo, scales))
    if as_json:
        click.echo(json.dumps([plain(bill, photo) for bill in found], indent=2))
    else:
        click.echo(table(found, photo))


def bills(scales: Sequence[int], photo: str) -> list[Bill]:
    """Compute the original's bill and that of each setting, for each number of photos a month."""
    from model.costs import bill  # noqa: PLC0415  --help should not wait for it

    return [
        one
        for photos in scales
        for one in (
            bill.original(photos, photo),
            *(bill.project(setting, photos, photo) for setting in bill.SETTINGS),
        )
    ]


def table(found: Sequence[Bill], photo: str) -> str:
    """Lay bills out as a table in Markdown, which a terminal shows well enough; the recommended are bold."""
    from model.costs import bill  # noqa: PLC0415  as above

    header = ("photos a month", "design", "dollars a month", "a million photos", "idle month", "most of it")
    rows = [header, ("--:", "---", "--:", "--:", "--:", "---")]
    for one in found:
        best = one.design == bill.recommended(one.photos, photo).design
        design = f"**{one.design}**" if best else one.design
        largest = sorted(one.lines, key=lambda name: -one.lines[name])[:2]
        rows.append(
            (
                f"{one.photos:,.0f}",
                design,
                f"{one.month:,.2f}",
                f"{one.per_million:,.0f}",
                f"{one.idle_month:,.2f}",
                ", ".join(f"{name} {one.lines[name]:,.0f}" for name in largest),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    )


def plain(one: Bill, photo: str) -> dict[str, Any]:
    """Put a bill in terms of JSON."""
    from model.costs import bill  # noqa: PLC0415  as above

    return {
        "photos": one.photos,
        "design": one.design,
        "recommended": one.design == bill.recommended(one.photos, photo).design,
        "month": round(one.month, 4),
        "photo": one.photo,
        "million_photos": round(one.per_million, 2),
        "idle_month": round(one.idle_month, 4),
        "services": {name: round(dollars, 4) for name, dollars in one.lines.items()},
    }


def put_between(page: Path, begin: str, text: str) -> None:
    """Put a text between a mark in a page and `END`.

    Raises
    ------
    click.ClickException
        They are not there.
    """
    before, found, rest = page.read_text().partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise click.ClickException(f"{page} has no lines {begin} and {END} to put the text between")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{END}{after}")
