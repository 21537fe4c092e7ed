"""How a command fails: in one line, with an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it: 128 and the signal's number."""
OURS = ("model", "pipeline", "local", "functions")
"""The packages whose errors are written for whoever calls the command."""


@contextmanager
def in_one_line(ctx: click.Context) -> Iterator[None]:
    """End what goes wrong in a command in one line and exit code 1, Ctrl-C in 130.

    An error that nobody foresaw says its kind, and how to see where it happened. With ``--debug``, an option
    of `ctx`, every error goes on as it is.
    """
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        if ctx.params["debug"]:
            raise
        click.echo("Interrupted.", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except Exception as error:
        if ctx.params["debug"]:
            raise
        raise click.ClickException(
            told(error, f"{ctx.command_path} --debug {ctx.invoked_subcommand}")
        ) from error


def told(error: Exception, debugging: str) -> str:
    """Tell an error in one line; one that is neither ours nor the system's also by its kind and what to do.

    Parameters
    ----------
    error
        What was raised.
    debugging
        How to call the command so that it shows where.
    """
    kind = type(error)
    reason = " ".join(str(error).split())
    if kind.__module__.partition(".")[0] in OURS or isinstance(error, OSError):
        return reason or kind.__name__
    return f"{kind.__name__}: {reason}".rstrip(": ") + f" (where: {debugging} …)"
