"""``scones down``."""

import click

from local import host
from model.terminal.output import echo


@click.command("down")
def command() -> None:
    """Stop the stack that `up` left running, if there is one.

    \b
    Examples:
      scones down
    """  # noqa: D301  click reads \b as a character
    host.require_supported()
    from local.stack import Stack  # noqa: PLC0415  keeps --help fast

    stopped = Stack().down()
    echo(f"Stopped {' and '.join(stopped)}." if stopped else "Nothing was running.")
