"""Report how a command fails: in one line, with an exit code."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from model.foreign_text import printable
from model.terminal.output import echo

INTERRUPTED = 130
"""Exit code after Ctrl-C, by the convention of shells: 128 plus the signal's number."""

OWN_PACKAGES = ("model", "pipeline", "local", "functions")
"""Packages whose error messages are written for users of the commands."""


@contextmanager
def report_errors_in_one_line(ctx: click.Context) -> Iterator[None]:
    """Turn an error into one line and exit code 1, and Ctrl-C into exit code 130.

    With the option ``--debug`` of `ctx`, every error propagates with its traceback.
    """
    try:
        yield
    except (click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except click.ClickException as error:
        error.message = printable(error.message)
        raise
    except KeyboardInterrupt:
        if ctx.params["debug"]:
            raise
        echo("Interrupted.", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except Exception as error:
        if ctx.params["debug"]:
            sys.excepthook = _print_traceback
            raise
        debug_command = f"{ctx.command_path} --debug {ctx.invoked_subcommand}"
        raise click.ClickException(_format_error(error, debug_command)) from error


def _print_traceback(_kind: type[BaseException], error: BaseException, _: object) -> None:
    echo(*"".join(traceback.format_exception(error)).split("\n"), err=True, limit=None)


def _format_error(error: Exception, debug_command: str) -> str:
    """Format an error as one line; an unexpected one with its type and the command that shows a traceback."""
    kind = type(error)
    message = printable(" ".join(str(error).split()))
    if kind.__module__.partition(".")[0] in OWN_PACKAGES or isinstance(error, OSError):
        return message or kind.__name__
    return f"{kind.__name__}: {message}".rstrip(": ") + f" (traceback: {debug_command} …)"
