"""Consoles and tables of `rich` in which foreign text cannot control the terminal."""

from typing import Any

import rich.console
import rich.table
from rich.text import Text

from model.foreign_text import printable


def styled(text: str, style: str) -> Text:
    """Return printable text in a style of `rich`, for a console or a table."""
    return Text(printable(text), style)


class Console(rich.console.Console):
    """A console of `rich` that prints each string as `echo` does, without interpreting markup."""

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401  rich's
        """Return printable text."""
        return super().render_str(printable(text), **(options | {"markup": False, "emoji": False}))


class Table(rich.table.Table):
    """A table of `rich` that shows each string as `echo` does, without interpreting markup."""

    def add_row(self, *cells: Any, **options: Any) -> None:  # noqa: ANN401  rich's
        """Add a row of strings and styled texts."""
        super().add_row(*(styled(cell, "") if isinstance(cell, str) else cell for cell in cells), **options)
