"""``scones demo``."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from local import HOME, LocalError, Ports
from local.options import WIDE, json_option, with_stack
from local.steps import Steps, interruptible
from model.terminal.progress import track


@click.command("demo")
@click.option(
    "--photos", type=click.Path(path_type=Path), help="A folder of your own photos, instead of drawn ones."
)
@json_option
@with_stack
def command(
    *, photos: Path | None, model: Path | None, emulator_port: int, endpoint_port: int, as_json: bool
) -> None:
    """Send photos through the whole stack, and show what became of them.

    Takes it all down again, come what may.

    \b
    Examples:
      scones demo
      scones demo --photos ~/Pictures/couriers --model trained/
      scones demo --json | jq '.[] | select(.outcome == "needs_review")'
    """  # noqa: D301  click reads \b as a character
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    with interruptible():
        from local import demo, watch  # noqa: PLC0415  as above
        from local.stack import Stack  # noqa: PLC0415  as above

        content = demo.photos(photos)
        stack = Stack(ports=Ports(emulator_port, endpoint_port), model=model)
        with Steps(console) as report, stack.running(report):
            report(f"Classifying {len(content)} photos")
            report.status.stop()
            outcomes = list(track(demo.classify(stack, content), len(content), "Classifying", console))
        outcomes.sort(key=lambda outcome: outcome.photo.uploaded_at)
        if as_json:
            click.echo(json.dumps([asdict(outcome) | {"photo": outcome.photo.name} for outcome in outcomes]))
        console.print("", demo.table(outcomes))
        counts = Counter(outcome.outcome for outcome in outcomes)
        console.print(
            ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()), highlight=False
        )
        if lost := counts["failed"] + counts["missing"]:
            raise LocalError(f"{lost} of {len(outcomes)} photos got no result (more: {HOME / 'logs'})")
        page = watch.report_of(stack)
        console.print(
            f"\nHow sure the model was, over time and photo by photo: {page}", highlight=False, soft_wrap=True
        )
