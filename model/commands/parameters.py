"""``scones parameters``: print the stack parameters for a deployed model."""

import json

import click

from model.sagemaker.deployment_file import FILE, parameters
from model.terminal.options import json_option, stage_option


@click.command("parameters")
@stage_option
@click.option(
    "--endpoint", help=f"An endpoint other than the one in {FILE}; the template's defaults apply to it."
)
@json_option
def command(*, stage: str, endpoint: str | None, as_json: bool) -> None:
    """Print the stack parameters for the latest deployment, in the form of sam deploy.

    \b
    Examples:
      sam deploy --parameter-overrides $(scones parameters)

    \b
    Exit codes:
      0  printed
      1  there is no deployment for this stage
      2  usage error
    """  # noqa: D301  click reads \b as a character
    found = parameters(stage, endpoint)
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f'{name}="{value}"' if " " in value else f"{name}={value}")
