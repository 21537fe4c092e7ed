"""Options that several local commands share."""

from collections.abc import Callable
from pathlib import Path

import click

from local import HOME, Ports

TRAINED = HOME / "model"
"""Where `make train` writes its model."""

model_option = click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=TRAINED if TRAINED.exists() else None,
    show_default=False,
    help="The model to serve: a folder that `scones train` wrote.  "
    "[default: the one from `make train`, or else the ready-made one]",
)


def stack_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a local stack: its model and the ports of its two servers."""
    servers = {"endpoint": "the model's endpoint", "emulator": "the AWS emulator"}
    for name, server in servers.items():
        option = click.option(
            f"--{name}-port",
            type=click.IntRange(1, 65535),
            default=getattr(Ports, name),
            envvar=f"{name.upper()}_PORT",
            show_envvar=True,
            help=f"Port of {server} on 127.0.0.1.",
        )
        command = option(command)
    return model_option(command)
