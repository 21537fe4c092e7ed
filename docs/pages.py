"""What the pages say of the code, taken from it: the state machine's picture, and every command's help.

`make docs` brings them up to it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from pipeline.markdown import update_section
from scones import cli

ROOT = Path(__file__).parents[1]
MACHINE = "statemachine/classify.asl.json"
PROGRAMS = {"scones": cli}
WIDTH = 100
"""Columns of the help, as on a wide terminal."""

COMPACT = '%%{init: {"flowchart": {"rankSpacing": 22, "nodeSpacing": 18, "padding": 7}}}%%'
"""Mermaid's distances in pixels, so that the picture fits a page without shrinking."""
SERVICES = {"lambda": "Lambda", "dynamodb": "DynamoDB", "events": "EventBridge", "sns": "SNS", "sqs": "SQS"}
"""What the services that a state can call are known as."""
SHAPES = {
    "Task": '["{}"]',
    "Pass": '("{}")',
    "Succeed": '(["{}"])',
    "Fail": '(["{}"])',
}
"""How Mermaid draws a kind of state: https://mermaid.js.org/syntax/flowchart.html#node-shapes."""


def contents() -> dict[Path, tuple[str, str]]:
    """Return what belongs into which page: the page, by what its place is called, and the text there."""
    return {
        ROOT / "README.md": ("state machine", machine(json.loads((ROOT / MACHINE).read_text()))),
        ROOT / "docs" / "commands.md": ("help", "\n".join(helps()).rstrip()),
    }


def machine(definition: Mapping[str, Any]) -> str:
    """Draw a state machine as a Mermaid flowchart, which GitHub shows in the reader's own colours.

    A choice is drawn as the ways that part there. Faults, which tasks have caught when trying again did not
    help, come in from the side, since an arrow from each task would hide everything else.
    """
    states: Mapping[str, Any] = definition["States"]
    lines = [COMPACT, "flowchart LR"]
    lines += [
        f"    {node_id(name)}{SHAPES[state['Type']].format(label(name, state))}"
        for name, state in states.items()
        if state["Type"] != "Choice"
    ]
    for name, state in states.items():
        if state["Type"] != "Choice":
            lines += [f"    {node_id(name)} {arrow} {node_id(to)}" for arrow, to in ways(state, states)]
    faults: dict[str, list[str]] = {}
    for name, state in states.items():
        for catch in state.get("Catch", []):
            if catch["ErrorEquals"] == ["States.ALL"] and catch["Next"] != state.get("Next"):
                faults.setdefault(catch["Next"], []).append(name)
    for to, of in faults.items():
        lines.append(f'    fault_{node_id(to)}>"a fault in {", ".join(of[:-1])} or {of[-1]}"]')
        lines.append(f"    fault_{node_id(to)} -.-> {node_id(to)}")
    return "\n".join(["```mermaid", *lines, "```"])


def ways(state: Mapping[str, Any], states: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each way on from a state but for faults: Mermaid's arrow, and the state it leads to."""
    following = states.get(state.get("Next", ""), {})
    if following.get("Type") == "Choice":
        for choice in following["Choices"]:
            yield f'-- "{condition(choice["Condition"])}" -->', choice["Next"]
        yield "-->", following["Default"]
    elif "Next" in state:
        yield "-->", state["Next"]
    for catch in state.get("Catch", []):
        if catch["ErrorEquals"] != ["States.ALL"]:
            yield "-->", catch["Next"]


def condition(jsonata: str) -> str:
    """Say in a word what a choice's condition looks for: a value, or a field that is there."""
    found = re.search(r"= '(\w+)'|\$exists\(\$states\.input\.(\w+)\)", jsonata)
    return (found[1] or found[2]) if found else jsonata.strip("{% }")


def label(name: str, state: Mapping[str, Any]) -> str:
    """Write a state's name, and under it the service that it calls."""
    service = state.get("Resource", "").removeprefix("arn:aws:states:::").partition(":")[0]
    return f"{name}<br><small>{SERVICES[service]}</small>" if service else name


def node_id(name: str) -> str:
    """Make an identifier of a state's name; Mermaid keeps `end` and the like for itself."""
    return "S_" + re.sub(r"\W", "_", name)


def helps() -> Iterator[str]:
    """Yield the lines of a page with the help of every command."""
    for program, group in PROGRAMS.items():
        yield from section(f"## {program}", program, group, [])
        context = click.Context(group)
        for name in group.list_commands(context):
            yield from section(f"### {program} {name}", program, group, [name])


def section(heading: str, program: str, group: click.Group, arguments: list[str]) -> Iterator[str]:
    """Yield a heading, and what ``--help`` prints."""
    asked = [*arguments, "--help"]
    shown = CliRunner().invoke(group, asked, prog_name=program, terminal_width=WIDTH, catch_exceptions=False)
    lines = [line.rstrip() for line in shown.output.rstrip().splitlines()]
    yield from (heading, "", "```text", *lines, "```", "")


if __name__ == "__main__":
    for page, (place, text) in contents().items():
        update_section(page, f"<!-- {place}: make docs -->", text)
