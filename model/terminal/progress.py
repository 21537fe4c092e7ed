"""How far a command is, for whoever watches."""

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """How many a second, of late."""

    def render(self, task: Task) -> Text:
        """Show the rate as soon as there is one."""
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.1f}/s" if rate else "", style="progress.data.speed")


def counting(console: Console | None = None) -> Progress:
    """Return a progress display of things that are counted; nothing shows where nobody watches.

    Parameters
    ----------
    console
        Where to show it; stderr unless said otherwise.
    """
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
    )
    # stdout is left alone: it may be a pipe while stderr is the terminal
    return Progress(
        *columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal
    )


def counted[T](things: Iterable[T], total: int, doing: str, console: Console | None = None) -> Iterator[T]:
    """Pass things on, and show how many there have been."""
    with counting(console) as progress:
        yield from progress.track(things, total, description=doing)
