"""What a photo and an idle month use of each service: counted in the deployed definitions, or measured."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
MEASURED = Path(__file__).with_name("measured.json")
"""Written by ``python -m tests.bench usage``."""
TEMPLATE = ROOT / "template.yaml"
DEFINITION = ROOT / "statemachine" / "classify.asl.json"


class TemplateLoader(yaml.SafeLoader):  # type: ignore[misc]
    """A YAML loader that drops CloudFormation's tags: ``!Ref Name`` becomes ``Name``."""


def _untagged(loader: TemplateLoader, _tag: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


TemplateLoader.add_multi_constructor("!", _untagged)


@cache
def measured() -> Mapping[str, Any]:
    """Return the measurements; the file also names their date, commit, machine and command."""
    return dict(json.loads(MEASURED.read_bytes())["found"])


def photos_per_second() -> float:
    """Return the measured throughput of an instance with two cores."""
    return float(measured()["endpoint"]["requests_per_second"])


@cache
def template() -> Mapping[str, Any]:
    """Return the stack's template, without CloudFormation's tags."""
    return dict(yaml.load(TEMPLATE.read_text(), TemplateLoader))  # noqa: S506  a SafeLoader


def transitions(definition: Mapping[str, Any], outcome: str) -> int:
    """Count the states on the longest path through the state `outcome`; each is a billed transition.

    `definition` is in the Amazon States Language. Raises `ValueError` if no path leads through the state.
    """
    through = [path for path in _paths(definition["States"], definition["StartAt"]) if outcome in path]
    if not through:
        raise ValueError(f"No path through the state machine contains {outcome}")
    return max(map(len, through))


def _paths(states: Mapping[str, Any], name: str, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield each path from a state to an end, without error handlers and loops."""
    state, path = states[name], (*before, name)
    successors = [branch["Next"] for branch in (state, *state.get("Choices", [])) if "Next" in branch]
    successors += [state["Default"]] if "Default" in state else []
    if not successors:
        yield path
    for successor in successors:
        if successor not in path:
            yield from _paths(states, successor, path)


@cache
def photo_transitions(outcome: str) -> int:
    """Count the billed transitions of a photo in the deployed definition."""
    return transitions(json.loads(DEFINITION.read_bytes()), outcome)


def memory(function: str) -> int:
    """Return a function's memory in MB."""
    return int(template()["Resources"][f"{function.capitalize()}Function"]["Properties"]["MemorySize"])


def resources(kind: str) -> list[Mapping[str, Any]]:
    """Return the template's resources of a type, such as ``AWS::KMS::Key``."""
    return [one for one in template()["Resources"].values() if one["Type"] == kind]


def alarm_metrics() -> int:
    """Count the metrics that the template's alarms read; AWS bills an alarm for each of its metrics."""
    metrics = [alarm["Properties"].get("Metrics", []) for alarm in resources("AWS::CloudWatch::Alarm")]
    return sum(sum("MetricStat" in one for one in of_alarm) or 1 for of_alarm in metrics)
