"""Generate the parts of the pages that come from the code: `make docs`.

These are the diagram of the state machine, the help of every command, the inventory of stored data, and the
list of measured claims.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from docs import evidence
from pipeline.markdown import table, update_section
from pipeline.photo_copies import PLACES
from scones import cli

ROOT = Path(__file__).parents[1]
MACHINE = "statemachine/classify.asl.json"
ACTIVATION = (
    "the marker of `scones activate`, which is empty",
    "`activation/` in the upload bucket",
    "90 days after the last deployment, and 7 days as an old version",
    "`PhotoRetentionDays`",
    "leaves it",
)
WIDTH = 100
"""Columns of the help."""

COMPACT = '%%{init: {"flowchart": {"rankSpacing": 22, "nodeSpacing": 18, "padding": 7}}}%%'
"""Distances in pixels that let the diagram fit a page without shrinking."""
SERVICES = {"lambda": "Lambda", "dynamodb": "DynamoDB", "events": "EventBridge", "sns": "SNS", "sqs": "SQS"}
"""Display names of the services that states call."""
SHAPES = {
    "Task": '["{}"]',
    "Pass": '("{}")',
    "Wait": '{{{{"{}"}}}}',
    "Succeed": '(["{}"])',
    "Fail": '(["{}"])',
}
"""Mermaid's shape for each type of state: https://mermaid.js.org/syntax/flowchart.html#node-shapes."""


def contents() -> dict[Path, tuple[str, str]]:
    """Return the generated part of each page: the name in its marker, and the text."""
    return {
        ROOT / "README.md": ("state machine", flowchart(json.loads((ROOT / MACHINE).read_text()))),
        ROOT / "docs" / "commands.md": ("help", "\n".join(help_of_all_commands()).rstrip()),
        ROOT / "docs" / "security.md": ("inventory", inventory()),
        ROOT / "docs" / "evidence.md": ("evidence", evidence.as_table()),
    }


def inventory() -> str:
    """Return a table of every place that holds a photo or data derived from it, and of other data."""
    titles = [("data", "place", "retention", "parameter", "`scones forget`"), ("---",) * 5]
    places = [(one.holds, one.where, one.retention, one.parameter, one.forget) for one in PLACES]
    return table([*titles, *places, ACTIVATION])


def flowchart(definition: Mapping[str, Any]) -> str:
    """Draw a state machine as a Mermaid flowchart, which GitHub shows in the reader's colour scheme.

    A Choice is drawn as labelled arrows from the state before it. All caught faults share one arrow, because
    an arrow from every task would hide everything else.
    """
    states: Mapping[str, Any] = definition["States"]
    drawn = {name: state for name, state in states.items() if state["Type"] != "Choice"}
    lines = [COMPACT, "flowchart LR"]
    for name, state in drawn.items():
        service = state.get("Resource", "").removeprefix("arn:aws:states:::").partition(":")[0]
        label = f"{name}<br><small>{SERVICES[service]}</small>" if service else name
        lines.append(f"    {node_id(name)}{SHAPES[state['Type']].format(label)}")
    for name, state in drawn.items():
        lines += [f"    {node_id(name)} {arrow} {node_id(to)}" for arrow, to in _transitions(state, states)]
    faults: dict[str, list[str]] = {}
    for name, state in states.items():
        for catch in state.get("Catch", []):
            if catch["ErrorEquals"] == ["States.ALL"] and catch["Next"] != state.get("Next"):
                faults.setdefault(catch["Next"], []).append(name)
    for to, sources in faults.items():
        lines.append(f'    fault_{node_id(to)}>"a fault in {", ".join(sources[:-1])} or {sources[-1]}"]')
        lines.append(f"    fault_{node_id(to)} -.-> {node_id(to)}")
    return "\n".join(["```mermaid", *lines, "```"])


def _transitions(state: Mapping[str, Any], states: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each transition from a state except those for faults: Mermaid's arrow, and the next state."""
    following = states.get(state.get("Next", ""), {})
    if following.get("Type") == "Choice":
        for choice in following["Choices"]:
            yield f'-- "{_condition(choice["Condition"])}" -->', choice["Next"]
        yield "-->", following["Default"]
    elif "Next" in state:
        yield "-->", state["Next"]
    for catch in state.get("Catch", []):
        if catch["ErrorEquals"] != ["States.ALL"]:
            # The default of a Choice after a fault is what follows all faults.
            choices = states[catch["Next"]].get("Choices", [catch])
            yield from (("-->", choice["Next"]) for choice in choices)


def _condition(jsonata: str) -> str:
    """Abbreviate a choice's condition to the value or the field that it tests for."""
    found = re.search(r"= '(\w+)'|\$exists\(\$states\.input\.(\w+)\)", jsonata)
    return (found[1] or found[2]) if found else jsonata.strip("{% }")


def node_id(name: str) -> str:
    """Convert a state's name to an identifier that is not one of Mermaid's keywords, such as `end`."""
    return "S_" + re.sub(r"\W", "_", name)


def help_of_all_commands() -> Iterator[str]:
    """Yield the lines of a page with the help of every command."""
    for command in ("scones", *(f"scones {name}" for name in cli.list_commands(click.Context(cli)))):
        arguments = [*command.split()[1:], "--help"]
        shown = CliRunner().invoke(
            cli, arguments, prog_name="scones", terminal_width=WIDTH, catch_exceptions=False
        )
        lines = [line.rstrip() for line in shown.output.rstrip().splitlines()]
        yield from (f"{'###' if ' ' in command else '##'} {command}", "", "```text", *lines, "```", "")


if __name__ == "__main__":
    for page, (name, text) in contents().items():
        update_section(page, f"<!-- {name}: make docs -->", text)
