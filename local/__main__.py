"""``python -m local COMMAND``: the local part of ``scones``."""

import click

from local import COMMANDS
from model.terminal.commands import LazyGroup, Section


@click.group(
    cls=LazyGroup,
    sections={"This machine": Section("local.commands", COMMANDS)},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, help="Show the traceback of a failure (before COMMAND).")
def cli(*, debug: bool) -> None:
    """Run the whole stack on this machine, without an AWS account and without Docker."""


if __name__ == "__main__":
    cli(prog_name="python -m local")
