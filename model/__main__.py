"""``python -m model COMMAND``: the model's commands, as SageMaker's container calls them."""

import click

from model.commands import COMMANDS
from model.terminal.commands import LazyGroup, Section

SECTIONS = {"Model": Section("model.commands", COMMANDS)}


@click.group(
    "model",
    cls=LazyGroup,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.option("--debug", is_flag=True, help="Show the traceback of a failure (before COMMAND).")
def cli(*, debug: bool) -> None:
    """Train, evaluate, serve and deploy a model.

    \b
    Exit codes:
      0    done
      1    something failed; one line on stderr says what
      2    usage error
      130  stopped by Ctrl-C
    """  # noqa: D301  click reads \b as a character


if __name__ == "__main__":
    cli(prog_name="python -m model")
