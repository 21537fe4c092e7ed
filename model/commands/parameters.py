"""``scones parameters``: print the stack parameters for a deployed model."""

import json

import click

from model import storage
from model.sagemaker.deployment_file import FILE, parameters
from model.terminal.options import json_option, stage_option
from model.terminal.output import echo, echo_json

VALUES_WITH_SPACES = FILE.with_suffix(".yaml")


@click.command("parameters")
@stage_option
@click.option(
    "--endpoint", help=f"An endpoint other than the one in {FILE}; the template's defaults apply to it."
)
@json_option
def command(*, stage: str, endpoint: str | None, as_json: bool) -> None:
    """Print the stack parameters for the latest deployment, in the form of sam deploy.

    Values that contain spaces, such as labels, are written to deployment.yaml, because a shell would split
    them; a reference to that file is printed in their place.

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
        echo_json(found)
        return
    with_spaces = {name: value for name, value in found.items() if " " in value}
    for name, value in found.items():
        if name not in with_spaces:
            echo(f"{name}={value}", limit=None)  # `make deploy` passes it on
    if with_spaces:
        # sam reads YAML, of which JSON is a subset, but not files that are named *.json
        storage.write_file(VALUES_WITH_SPACES, json.dumps(with_spaces).encode())
        echo(f"file://{VALUES_WITH_SPACES}")
