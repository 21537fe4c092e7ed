"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path

import click

from local import HOME, Ports

TRAINED = HOME / "model"
"""Where `make train` leaves its model."""
WIDE = 110
"""Columns where no terminal says how many it has."""

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print it as JSON; all else goes to stderr."
)


def with_stack(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a stack: its model, and where its servers listen, on 127.0.0.1 alone."""
    named = {"endpoint": "the model's endpoint", "emulator": "the AWS emulator"}
    for name, what in named.items():
        option = click.option(
            f"--{name}-port",
            type=click.IntRange(1, 65535),
            default=getattr(Ports, name),
            envvar=f"{name.upper()}_PORT",
            show_default=True,
            show_envvar=True,
            help=f"The port of {what}.",
        )
        command = option(command)
    return click.option(
        "--model",
        type=click.Path(path_type=Path),
        default=TRAINED if TRAINED.exists() else None,
        help="The model to ask: a folder that `scones train` wrote. By default what `make train` "
        "made, or the ready-made model.",
    )(command)
