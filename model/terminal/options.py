"""Command-line options that several commands share."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from model.labels import split_labels

STAGE = re.compile(r"[a-z][a-z0-9]{0,15}")
"""A stage's name, which is part of resource names of at most 63 characters."""


def check_stage(_ctx: click.Context, _option: click.Parameter, stage: str | None) -> str | None:
    """Validate the option ``--stage``; ``None`` means that it was not given."""
    if stage is not None and not STAGE.fullmatch(stage):
        raise click.BadParameter("use up to 16 lower-case letters and digits, starting with a letter")
    return stage


def labels_option(default: str) -> Callable[..., Any]:
    """Declare ``--labels``, a tuple or ``None``; `default` tells the user what applies without it."""
    return click.option(
        "--labels",
        callback=lambda _ctx, _option, labels: split_labels(labels) if labels else None,
        help=f"Labels in order, separated by commas.  [default: {default}]",
    )


def threshold_option(default: str) -> Callable[..., Any]:
    """Declare ``--threshold``, from 0 to 1 or ``None``; `default` tells the user what applies without it."""
    return click.option(
        "--threshold",
        type=click.FloatRange(0, 1),
        help=f"Minimum confidence for an answer to be accepted.  [default: {default}]",
    )


stage_option = click.option(
    "--stage", default="dev", callback=check_stage, help="The stage, e.g. dev or prod."
)
model_option = click.option(
    "--model",
    type=click.Path(exists=True, path_type=Path),
    help="Model folder or model.tar.gz.  [default: the ready-made zero-shot model, built on first use]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
