"""``python -m model parameters``: what a stack has to know of a deployed model."""

import json
from pathlib import Path

import click

from model.sagemaker.deployment import FILE, Deployment, DeploymentError


@click.command("parameters")
@click.option("--stage", default="dev", show_default=True, help="Whose stack it is for.")
@click.option("--endpoint", help=f"Another endpoint than the one in {FILE}; it has the template's defaults.")
@click.option("--json", "as_json", is_flag=True, help="Print them as one JSON object.")
def command(*, stage: str, endpoint: str | None, as_json: bool) -> None:
    """Print the stack's parameters for what was deployed last, as sam deploy takes them.

    \b
    Examples:
      sam deploy --parameter-overrides $(python -m model parameters)

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


def parameters(stage: str, endpoint: str | None = None, path: Path = FILE) -> dict[str, str]:
    """Return the stack's parameters by name.

    Parameters
    ----------
    stage
        Whose stack they are for.
    endpoint
        The endpoint to ask; by default the one deployed last.
    path
        Where ``deployment.json`` is.

    Raises
    ------
    DeploymentError
        There is no deployment, or it is another stage's.
    """
    try:
        deployment = Deployment.read(path)
    except DeploymentError:
        if endpoint and not path.exists():
            return {"EndpointName": endpoint}
        raise
    if endpoint and endpoint != deployment.endpoint_name:
        return {"EndpointName": endpoint}
    if stage != deployment.stage:
        raise DeploymentError(
            f"{path} is of stage {deployment.stage}: python -m model deploy --stage {stage}, or name an "
            "endpoint"
        )
    return deployment.parameters()
