"""The cost table, as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.costs.bill import Bill


SCALES = (1_000, 100_000, 10_000_000)

BEGIN, END = "<!-- scones cost -->", "<!-- to here -->"

PLOT = "costs.svg"


def bills(scales: Sequence[int], photo: str) -> list[Bill]:
    """Compute the original's bill and that of each setting, for each number of photos a month."""
    from pipeline.costs import bill  # noqa: PLC0415  --help should not wait for it

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
    from pipeline.costs import bill  # noqa: PLC0415  as above

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
    from pipeline.costs import bill  # noqa: PLC0415  as above

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
