"""``scones status``: print what a stage's endpoint serves, and how it performs."""

from dataclasses import asdict

import click
from rich import box

from model.sagemaker.account import connect, translate_aws_errors
from model.sagemaker.endpoint_status import Status, status
from model.terminal.options import json_option, stage_option
from model.terminal.output import echo_json
from model.terminal.tables import Console, Table

HOURS_A_MONTH = 730


@click.command("status")
@stage_option
@json_option
def command(*, stage: str, as_json: bool) -> None:
    """Print what is deployed: the model, since when, its load, its alarms and its cost.

    \b
    Examples:
      scones status
      scones status --stage prod --json | jq .model

    \b
    Exit codes:
      0  the stage has an endpoint
      1  it has none, or AWS refuses the request
      2  usage error
    """  # noqa: D301  click reads \b as a character
    account = connect()
    with translate_aws_errors():
        found = status(account, stage)
    if as_json:
        echo_json(asdict(found), indent=2)
    else:
        Console().print(_table(found))


def _table(status: Status) -> Table:
    table = Table(show_header=False, box=box.SIMPLE, pad_edge=False)
    latency = "" if status.latency_ms is None else f", p99 {status.latency_ms:.0f} ms in the model"
    for name, value in (
        ("endpoint", status.endpoint),
        ("state", status.state),
        ("model", f"{status.model} ({status.model_package.rpartition('/')[2]})"),
        ("created", status.since),
        ("updated", status.deployed_at),
        ("runs on", status.on),
        ("rollback to", status.previous or "no previous model"),
        ("captures", status.captures or "none"),
        ("last hour", f"{status.photos} photos, {status.failed} failed{latency}"),
        *(("alarm", f"{name}: {state}") for name, state in status.alarms.items()),
        ("cost", _cost(status.dollars_an_hour)),
    ):
        table.add_row(name, value)
    return table


def _cost(dollars_an_hour: float | None) -> str:
    if dollars_an_hour is None:
        return "see https://aws.amazon.com/sagemaker/pricing/"
    if not dollars_an_hour:
        return "per photo"
    return f"{dollars_an_hour:.3f} dollars an hour, {dollars_an_hour * HOURS_A_MONTH:.0f} a month"
