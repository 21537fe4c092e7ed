"""``python -m model COMMAND``: the model's commands, as SageMaker's container calls them."""

from model.commands import COMMANDS
from model.terminal.commands import Section, lazy_group

SECTIONS = {"Model": Section("model.commands", COMMANDS)}


@lazy_group("model", SECTIONS)
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
