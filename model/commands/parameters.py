"""``scones parameters``: what a stack has to know of a deployed model."""

import json

import click

from model.sagemaker.deployment_file import FILE, parameters


@click.command("parameters")
@click.option("--stage", default="dev", show_default=True, help="Whose stack it is for.")
@click.option("--endpoint", help=f"Another endpoint than the one in {FILE}; it has the template's defaults.")
@click.option("--json", "as_json", is_flag=True, help="Print them as one JSON object.")
def command(*, stage: str, endpoint: str | None, as_json: bool) -> None:
    """Print the stack's parameters for what was deployed last, as sam deploy takes them.

    \b
    Examples:
      sam deploy --parameter-overrides $(scones parameters)

    \b
    Exit codes:
      0  printed
      1  nothing was deployed for this stage
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    found = parameters(stage, endpoint)
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f'{name}="{value}"' if " " in value else f"{name}={value}")
