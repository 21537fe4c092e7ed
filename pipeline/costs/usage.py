"""What a photo and an idle month use: counted in the definitions that are deployed, or measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
MEASURED = Path(__file__).with_name("measured.json")
"""What ``python -m tests.bench usage`` wrote."""
TEMPLATE = ROOT / "template.yaml"
DEFINITION = ROOT / "statemachine" / "classify.asl.json"


@dataclass(frozen=True)
class Watch:
    """What is watched, and paid for whether there are photos or not.

    Attributes
    ----------
    alarms
        Alarms, each counted once for every metric that it reads.
    dashboards
        Dashboards.
    keys
        KMS keys, for what alarms say.
    """

    alarms: int
    dashboards: int
    keys: int


@cache
def measured() -> Mapping[str, Any]:
    """Return what was measured of a photo; the file says when, on what and by which command."""
    found: Mapping[str, Any] = json.loads(MEASURED.read_bytes())
    return found


def photos_per_second() -> float:
    """Return how many photos an instance of two cores was measured to answer a second."""
    return float(measured()["endpoint"]["requests_per_second"])


@cache
def template() -> Mapping[str, Any]:
    """Return the stack's template."""
    from samcli.yamlhelper import yaml_parse  # noqa: PLC0415  as long as all else together

    found: Mapping[str, Any] = yaml_parse(TEMPLATE.read_text())
    return found


def transitions(definition: Mapping[str, Any], outcome: str) -> int:
    """Count the states that a photo of an outcome enters, each of which Step Functions charges for.

    Parameters
    ----------
    definition
        The state machine, in the Amazon States Language.
    outcome
        A state of the definition that photos of this outcome alone come through, such as ``Accepted``.

    Raises
    ------
    ValueError
        No way to an end leads through that state.
    """
    through = [way for way in ways(definition["States"], definition["StartAt"]) if outcome in way]
    if not through:
        raise ValueError(f"no way through the state machine leads by {outcome}")
    return max(map(len, through))


def ways(states: Mapping[str, Any], name: str, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield each way from a state to an end, faults and repetitions left out."""
    state, way = states[name], (*before, name)
    after = [branch["Next"] for branch in (state, *state.get("Choices", [])) if "Next" in branch]
    after += [state["Default"]] if "Default" in state else []
    if not after:
        yield way
    for following in after:
        if following not in way:
            yield from ways(states, following, way)


@cache
def photo_transitions(outcome: str) -> int:
    """Count the transitions of a photo in the deployed definition."""
    return transitions(json.loads(DEFINITION.read_bytes()), outcome)


def memory(function: str) -> int:
    """Return a function's memory in MB, as the template sets it."""
    properties: Mapping[str, Any] = template()["Resources"][f"{function.capitalize()}Function"]["Properties"]
    return int(properties["MemorySize"])


def retention_days() -> int:
    """Return for how long photos are kept, by the template's default."""
    return int(template()["Parameters"]["PhotoRetentionDays"]["Default"])


def watch() -> Watch:
    """Count what the template watches the pipeline with."""
    resources = template()["Resources"].values()
    alarms = [one for one in resources if one["Type"] == "AWS::CloudWatch::Alarm"]
    return Watch(
        alarms=sum(map(_metrics, alarms)),
        dashboards=sum(one["Type"] == "AWS::CloudWatch::Dashboard" for one in resources),
        keys=sum(one["Type"] == "AWS::KMS::Key" for one in resources),
    )


def _metrics(alarm: Mapping[str, Any]) -> int:
    several = alarm["Properties"].get("Metrics", [])
    return sum("MetricStat" in metric for metric in several) or 1
