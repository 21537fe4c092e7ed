"""The command line: ``python -m model COMMAND``."""

import importlib
from typing import cast

import click

from model.terminal.failures import in_one_line

# What --help says, so that it need not import a command (and with it half a scientific library) to say it.
COMMANDS = {
    "data": "Make a data set of labelled photos: from CIFAR-100, or from a folder of your own.",
    "train": "Train a model on labelled photos, and say from which confidence to accept it.",
    "evaluate": "Measure how right a model is on photos whose labels are known.",
    "predict": "Say which vehicle is in each photo, one JSON line a file.",
    "serve": "Answer photos over HTTP, as a SageMaker endpoint does.",
    "monitor": "Report on an endpoint's captured data: how sure, how right, and how far from the baseline.",
    "review": "Look at the photos that wait for a person: one key says what is in each.",
    "image": "Build the container that SageMaker trains and serves in, and push it to ECR when asked.",
    "deploy": "Deploy a model behind a SageMaker endpoint, or update the one that is there.",
    "rollback": "Bring an endpoint back to the model that it served before the last update.",
    "status": "Say what is deployed: which model, since when, how busy, how well, and at what cost.",
    "traffic": "Send photos through a stack, and account for every one of them.",
    "replay": "Put what stands in the failed queue through again, once each.",
    "backfill": "Put the photos under a prefix of the upload bucket through the pipeline.",
    "cost": "Say what a photo and an idle month cost on AWS, beside the original's design.",
    "parameters": "Print the stack's parameters for what was deployed last, as sam deploy takes them.",
    "forget": "Delete a photo, and all that was derived from it.",
    "destroy": "Delete what this project made, in AWS and on this machine, the photos included.",
}


class Commands(click.Group):
    """Commands that are modules of the same name, imported when called; their failures, told in one line."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Name the commands, in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module."""
        if name not in COMMANDS:
            return None
        return cast("click.Command", importlib.import_module(f"model.{name}").command)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands in the help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; what goes wrong ends in one line, exit code 1."""
        with in_one_line(ctx):
            return super().invoke(ctx)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of a failure (before COMMAND).")
def cli(*, debug: bool) -> None:
    """Which vehicle is at the door: bicycle, motorcycle, or other.

    \b
    Examples:
      python -m model predict photo.jpg
      python -m model predict --threshold .9 photos/ | jq -r 'select(.decision == "accepted") | .file'
      python -m model serve --port 8080
      python -m model COMMAND --help

    \b
    Exit codes:
      0    done
      1    something failed; one line on stderr says what
      2    the command was called wrongly
      130  stopped by Ctrl-C
    """  # noqa: D301  click reads \b as a character


if __name__ == "__main__":
    cli(prog_name="python -m model")
