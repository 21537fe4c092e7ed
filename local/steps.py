"""Show the steps of a long command, and clean up when it is interrupted."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from model.terminal.errors import INTERRUPTED
from model.terminal.output import echo
from model.terminal.tables import Console, styled

MINIMUM_WIDTH = 110
"""Columns of a table when the output is not a terminal."""


class Steps:
    """A progress callback that shows the current step, and prints its duration when the next one starts."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status = console.status("")
        self.step: str | None = None
        self.started = time.monotonic()

    def __call__(self, step: str) -> None:
        """Finish the current step and start another."""
        self._finish()
        self.step, self.started = step, time.monotonic()
        self.status.update(f"{step} …")
        self.status.start()

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._finish()
        self.status.stop()

    def _finish(self) -> None:
        self.status.stop()
        if self.step:
            seconds = time.monotonic() - self.started
            self.console.print(f"{self.step:<40}", styled(f"{seconds:5.1f} s", "dim"), highlight=False)
        self.step = None


def result_console(*, as_json: bool) -> Console:
    """Return the console for a command's tables: stderr if stdout is for JSON."""
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = max(console.width, MINIMUM_WIDTH)
    return console


@contextmanager
def interruptible(message: str = "Interrupted; nothing is left running.") -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, so that cleanup runs; print the message and exit with 130."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # the program runs under nohup
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        echo(message, err=True)
        raise SystemExit(INTERRUPTED) from None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
