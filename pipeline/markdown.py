"""Generated sections of the Markdown pages in docs/."""

from collections.abc import Sequence
from pathlib import Path

END = "<!-- to here -->"
"""Ends a generated section; each section begins with its own comment."""


class PageError(Exception):
    """A page lacks a comment that marks a generated section."""


def update_section(page: Path, begin: str, text: str) -> None:
    """Replace the text between the comments `begin` and `END`; raise `PageError` if the page lacks one."""
    before, found, rest = page.read_text().partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise PageError(f"{page} has no section to update: it needs the lines {begin} and {END}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{END}{after}")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of cells into a table; the second row is the columns' alignment, such as ``--:``."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    )
