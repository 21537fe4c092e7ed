"""``scones COMMAND``: the command line for the model, a deployed stack, and the local stack."""

import model.__main__
from local import COMMANDS as LOCAL_COMMANDS
from model.terminal.commands import Section, lazy_group
from pipeline.commands import COMMANDS as PIPELINE_COMMANDS

SECTIONS = {
    **model.__main__.SECTIONS,
    "Stack": Section("pipeline.commands", PIPELINE_COMMANDS),
    "This machine": Section("local.commands", LOCAL_COMMANDS),
}


@lazy_group("scones", SECTIONS)
def cli(*, debug: bool) -> None:
    """Tell which vehicle is at the door: bicycle, motorcycle, or other.

    \b
    Examples:
      scones predict photo.jpg
      scones predict --threshold .9 photos/ | jq -r 'select(.decision == "accepted") | .file'
      scones serve --port 8080
      scones COMMAND --help

    \b
    Exit codes:
      0    success
      1    failure; one line on stderr says what went wrong
      2    usage error
      130  interrupted by Ctrl-C
    """  # noqa: D301  click reads \b as a character


def main() -> None:
    """Run the command line."""
    cli(prog_name="scones")


if __name__ == "__main__":
    main()
