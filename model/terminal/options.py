"""Command-line options that several commands share."""

import re

import click

STAGE = re.compile(r"[a-z][a-z0-9]{0,15}")
"""A stage's name, which is part of resource names of at most 63 characters."""


def check_stage(_ctx: click.Context, _option: click.Parameter, stage: str | None) -> str | None:
    """Validate the option ``--stage``; ``None`` means that it was not given."""
    if stage is not None and not STAGE.fullmatch(stage):
        raise click.BadParameter("use up to 16 lower-case letters and digits, starting with a letter")
    return stage


stage_option = click.option(
    "--stage", default="dev", show_default=True, callback=check_stage, help="The stage, e.g. dev or prod."
)
