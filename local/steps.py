"""Show the steps of a long command, and end it in order when it is interrupted."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

import click
from rich.console import Console

from model.terminal.errors import INTERRUPTED


class Steps:
    """Say what is being done, and how long it took when the next thing begins."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status = console.status("")
        self.step: str | None = None
        self.began = time.monotonic()

    def __call__(self, step: str) -> None:
        """Begin a step, which ends the one before."""
        self._end()
        self.step, self.began = step, time.monotonic()
        self.status.update(f"{step} …")
        self.status.start()

    def __enter__(self) -> "Steps":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is None:
            self._end()
        self.status.stop()

    def _end(self) -> None:
        self.status.stop()
        if self.step:
            self.console.print(
                f"{self.step:<40} [dim]{time.monotonic() - self.began:5.1f} s[/]", highlight=False
            )
        self.step = None


@contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C, so that everything is taken down; exit with 130."""
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted; nothing is left running.", err=True)
        raise SystemExit(INTERRUPTED) from None


def interrupt(number: int, frame: FrameType | None) -> None:
    """Treat a request to end as Ctrl-C, so that everything is taken down."""
    raise KeyboardInterrupt
