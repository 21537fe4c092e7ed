"""``scones status``: what is deployed, and how it does."""

import json
from dataclasses import asdict

import click
from rich import box
from rich.console import Console
from rich.table import Table

from model.sagemaker.account import connect, stage_option, translate_aws_errors
from model.sagemaker.endpoint_status import Status, status


@click.command("status")
@stage_option
@click.option("--json", "as_json", is_flag=True, help="Print it as one JSON object.")
def command(*, stage: str, as_json: bool) -> None:
    """Say what is deployed: which model, since when, how busy, how well, and at what cost.

    \b
    Examples:
      scones status
      scones status --stage prod --json | jq .model

    \b
    Exit codes:
      0  there is an endpoint
      1  there is none, or AWS does not say
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    account = connect()
    with translate_aws_errors():
        found = status(account, stage)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        Console().print(laid_out(found))


def laid_out(found: Status) -> Table:
    """Lay a status out for a terminal."""
    table = Table(show_header=False, box=box.SIMPLE, pad_edge=False)
    cost = found.dollars_an_hour
    latency = "" if found.latency_ms is None else f", p99 {found.latency_ms:.0f} ms in the model"
    for what, value in (
        ("endpoint", found.endpoint),
        ("state", found.state),
        ("model", f"{found.model} ({found.model_package.rpartition('/')[2]})"),
        ("made", found.since),
        ("changed", found.deployed_at),
        ("on", found.on),
        ("rollback to", found.previous or "nothing before this model"),
        ("captures", found.captures or "none"),
        ("last hour", f"{found.photos} photos, {found.failed} unanswered{latency}"),
        *(("alarm", f"{name}: {state}") for name, state in found.alarms.items()),
        (
            "costs",
            "see https://aws.amazon.com/sagemaker/pricing/"
            if cost is None
            else f"{cost:.3f} dollars an hour, {cost * 730:.0f} a month"
            if cost
            else "by photo",
        ),
    ):
        table.add_row(what, value)
    return table
