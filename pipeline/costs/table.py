"""Compare the designs' bills: as a table in Markdown, which is also what the terminal shows, and as JSON."""

from collections.abc import Sequence
from typing import Any

from pipeline import markdown
from pipeline.costs import bill
from pipeline.costs.bill import Bill

SCALES = (1_000, 100_000, 10_000_000)
BEGIN = "<!-- scones cost -->"
BEGIN_DECISIONS = "<!-- scones cost: decisions -->"
PLOT = "costs.svg"
HEADER = ("photos a month", "design", "dollars a month", "a million photos", "idle month", "largest items")


def bills(scales: Sequence[int], photo: str) -> list[Bill]:
    """Return the bills of the baseline design and of each setting, for each number of photos a month."""
    found = []
    for photos in scales:
        found.append(bill.baseline_design(photos, photo))
        found += [bill.project(setting, photos, photo) for setting in bill.SETTINGS]
    return found


def table(found: Sequence[Bill], photo: str) -> str:
    """Return a row for each bill, with the recommended design in bold."""
    rows = [HEADER, ("--:", "---", "--:", "--:", "--:", "---")]
    for one in found:
        largest = sorted(one.lines, key=lambda name: -one.lines[name])[:2]
        rows.append(
            (
                f"{one.photos:,.0f}",
                f"**{one.design}**" if _is_recommended(one, photo) else one.design,
                f"{one.month:,.2f}",
                f"{one.per_million:,.0f}",
                f"{one.idle_month:,.2f}",
                ", ".join(f"{name} {one.lines[name]:,.0f}" for name in largest),
            )
        )
    return markdown.table(rows)


def decisions(scales: Sequence[int], photo: str) -> str:
    """Return a row for each decision on the way from the student project, and a column for each scale."""
    after = [bill.decisions(photos, photo) for photos in scales]
    header = ("dollars a month after each decision", *(f"{photos:,.0f} photos" for photos in scales))
    rows = [(name, *(f"{months[name]:,.2f}" for months in after)) for name in after[0]]
    return markdown.table([header, ("---", *("--:" for _ in scales)), *rows])


def to_json(one: Bill, photo: str) -> dict[str, Any]:
    """Return a bill as a JSON object, in dollars."""
    return {
        "photos": one.photos,
        "design": one.design,
        "recommended": _is_recommended(one, photo),
        "month": round(one.month, 4),
        "photo": one.month / one.photos,
        "million_photos": round(one.per_million, 2),
        "idle_month": round(one.idle_month, 4),
        "services": {name: round(dollars, 4) for name, dollars in one.lines.items()},
    }


def _is_recommended(one: Bill, photo: str) -> bool:
    return one.design == bill.recommended(one.photos, photo).design
