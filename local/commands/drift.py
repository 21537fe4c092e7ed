"""``scones drift``."""

import json
from pathlib import Path

import click
from rich.console import Console

from local import HOME, LocalError
from local.options import TRAINED, WIDE, json_option
from local.steps import Steps, interruptible


@click.command("drift")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=TRAINED if TRAINED.exists() else None,
    help="The model that the stack asks, as for `up`.",
)
@json_option
def command(*, model: Path | None, as_json: bool) -> None:
    """Rehearse: send the running stack a day in a minute that goes wrong half-way, and see it found.

    Yesterday, a good day, becomes the stack's baseline. `make up` first; what it left stays up.

    \b
    Examples:
      scones up && scones drift
    """  # noqa: D301  click reads \b as a character
    from local import watch  # noqa: PLC0415  plots take a second to import
    from local.stack import Stack  # noqa: PLC0415  as above
    from model.network.classifier import Classifier  # noqa: PLC0415

    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    with interruptible():
        stack = Stack.find(model=model)
        with Steps(console) as tell:
            rehearsed = watch.rehearse(stack, Classifier.load(model).description, tell)
        if as_json:
            drifted = {name: at.isoformat() for name, at in rehearsed.found.since.items()}
            click.echo(json.dumps({"drifted_since": drifted, "page": str(rehearsed.page)}))
        console.print("\nWhat CloudWatch was told:", watch.table(rehearsed.told))
        for name, since in sorted(rehearsed.found.since.items(), key=lambda pair: pair[1]):
            console.print(f"{name} drifted from {since:%H:%M:%S} on", highlight=False)
        console.print(f"\nThe report: {rehearsed.page}", highlight=False, soft_wrap=True)
        if not rehearsed.found.drifted:
            raise LocalError(f"the drift went unnoticed (more: {HOME / 'logs'})")
