"""``scones drift``."""

from pathlib import Path

import click

from local import HOME, LocalError, host
from local.options import model_option
from local.steps import Steps, interruptible, result_console
from model.terminal.options import json_option
from model.terminal.output import echo, echo_json


@click.command("drift")
@model_option
@json_option
def command(*, model: Path | None, as_json: bool) -> None:
    """Rehearse drift detection on the running stack: a day that goes wrong at noon.

    A good day becomes the stack's baseline; on the next, the lens gets dirty and night falls. Run
    `scones up` first; the stack stays up afterwards.

    \b
    Examples:
      scones up && scones drift
    """  # noqa: D301  click reads \b as a character
    console = result_console(as_json=as_json)
    with interruptible("Interrupted; the stack is still up."):
        host.require_supported()
        from local import drift_rehearsal  # noqa: PLC0415  keeps --help fast
        from local.stack import Stack  # noqa: PLC0415
        from model.network.classifier import Classifier  # noqa: PLC0415

        stack = Stack.find(model=model)
        with Steps(console) as steps:
            rehearsal = drift_rehearsal.rehearse(stack, Classifier.load(model).description, steps)
        if as_json:
            since = {name: at.isoformat() for name, at in rehearsal.found.since.items()}
            echo_json({"drifted_since": since, "page": str(rehearsal.page)})
        echo("", "Metrics in CloudWatch:", err=as_json)
        console.print(drift_rehearsal.table(rehearsal.windows))
        for name, at in sorted(rehearsal.found.since.items(), key=lambda pair: pair[1]):
            echo(f"{name} has drifted since {at:%H:%M}", err=as_json)
        echo("", f"Report: {rehearsal.page}", err=as_json)
        if not rehearsal.found.drifted:
            raise LocalError(f"The drift was not detected. Logs: {HOME / 'logs'}")
