"""``scones down``."""

import click

from local.steps import interruptible


@click.command("down")
def command() -> None:
    """End what `up` left running; fine to call when nothing is.

    \b
    Examples:
      scones down
    """  # noqa: D301  click reads \b as a character
    with interruptible():
        from local.stack import Stack  # noqa: PLC0415  as above

        stopped = Stack().down()
    click.echo(f"Ended {' and '.join(stopped)}." if stopped else "Nothing was running.")
