"""``scones demo``."""

from dataclasses import asdict
from pathlib import Path

import click

from local import Ports, host
from local.options import stack_options
from local.steps import Steps, interruptible, result_console
from model.terminal.options import json_option
from model.terminal.output import echo, echo_json
from model.terminal.progress import track


@click.command("demo")
@click.option(
    "--photos",
    type=click.Path(path_type=Path),
    help="A folder of your own photos.  [default: drawn pictures]",
)
@json_option
@stack_options
def command(
    *, photos: Path | None, model: Path | None, emulator_port: int, endpoint_port: int, as_json: bool
) -> None:
    """Send photos through the whole stack on this machine and show their outcomes.

    Starts a stack for the purpose, and always takes it down again.

    \b
    Examples:
      scones demo
      scones demo --photos ~/Pictures/couriers --model trained/
      scones demo --json | jq '.[] | select(.outcome == "needs_review")'
    """  # noqa: D301  click reads \b as a character
    console = result_console(as_json=as_json)
    with interruptible():
        host.require_supported()
        # imported here, so that Ctrl-C during this second of imports is handled too
        from local import capture_report, demo  # noqa: PLC0415
        from local.stack import Stack  # noqa: PLC0415

        content = demo.photos(photos)
        stack = Stack(ports=Ports(emulator_port, endpoint_port), model=model)
        with Steps(console) as steps, stack.running(steps):
            steps(f"Classifying {len(content)} photos")
            steps.status.stop()
            outcomes = list(track(demo.classify(stack, content), len(content), "Classifying", console))
        order = list(content)
        outcomes.sort(key=lambda outcome: order.index(outcome.photo))
        if as_json:
            echo_json([asdict(outcome) for outcome in outcomes])
        console.print("", demo.table(outcomes))
        echo(demo.summary(outcomes), err=as_json)
        demo.require_results(outcomes)
        page = capture_report.write_page(stack)
        echo("", f"The model's confidence, over time and photo by photo: {page}", err=as_json)
