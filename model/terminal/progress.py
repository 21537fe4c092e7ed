"""Progress bars on stderr, shown only on a terminal."""

from collections.abc import Iterable, Iterator

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text  # noqa: TID251  a type

from model.terminal.tables import Console, styled


class RateColumn(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        """Show the rate once it is known."""
        rate = task.finished_speed or task.speed
        return styled(f"{rate:.1f}/s" if rate else "", "progress.data.speed")


def progress_bar(console: Console | None = None) -> Progress:
    """Return a progress bar that counts items, on stderr unless a console is given."""
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


def track[T](items: Iterable[T], total: int, description: str, console: Console | None = None) -> Iterator[T]:
    """Yield items while a progress bar counts them."""
    with progress_bar(console) as progress:
        yield from progress.track(items, total, description=description)
