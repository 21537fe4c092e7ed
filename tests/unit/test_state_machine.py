"""What no linter looks for in a state machine: dead ends, dead states, and promises every step must keep."""

import json
import re
from collections.abc import Iterator

import pytest
from samcli.yamlhelper import yaml_parse

from tests.conftest import ROOT

TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
MACHINES = {
    name: resource["Properties"]
    for name, resource in TEMPLATE["Resources"].items()
    if resource["Type"] == "AWS::Serverless::StateMachine"
}


def definition(machine: str) -> dict:
    return json.loads((ROOT / MACHINES[machine]["DefinitionUri"]).read_text())


def successors(state: dict) -> Iterator[str]:
    """Every state that a state can go on to."""
    branches = [state, *state.get("Choices", []), *state.get("Catch", [])]
    yield from (branch["Next"] for branch in branches if "Next" in branch)
    if "Default" in state:
        yield state["Default"]


def states_of(kind: str, resource: str = "") -> list:
    return [
        pytest.param(state, id=f"{machine}: {name}")
        for machine in MACHINES
        for name, state in definition(machine)["States"].items()
        if state["Type"] == kind and state.get("Resource", "").endswith(resource)
    ]


@pytest.mark.parametrize("machine", MACHINES)
def test_every_way_leads_to_a_state_that_exists(machine):
    states = definition(machine)["States"]
    ways = {
        definition(machine)["StartAt"],
        *(after for state in states.values() for after in successors(state)),
    }

    assert ways <= states.keys()


@pytest.mark.parametrize("machine", MACHINES)
def test_every_state_can_be_reached(machine):
    states = definition(machine)["States"]
    reached, ahead = set(), [definition(machine)["StartAt"]]
    while ahead:
        name = ahead.pop()
        reached.add(name)
        ahead.extend(set(successors(states[name])) - reached)

    assert reached == states.keys()


@pytest.mark.parametrize("machine", MACHINES)
def test_the_template_substitutes_just_the_names_that_the_definition_has(machine):
    text = (ROOT / MACHINES[machine]["DefinitionUri"]).read_text()

    assert set(re.findall(r"\$\{(\w+)\}", text)) == MACHINES[machine]["DefinitionSubstitutions"].keys()


@pytest.mark.parametrize("state", states_of("Task"))
def test_every_task_has_a_timeout_retries_with_jitter_and_a_catch(state):
    assert state["TimeoutSeconds"] > 0
    assert all(retry["JitterStrategy"] == "FULL" for retry in state["Retry"])
    assert any("States.ALL" in catch["ErrorEquals"] for catch in state["Catch"])


@pytest.mark.parametrize("state", states_of("Task", ":lambda:invoke"))
def test_every_function_call_is_retried_on_lambdas_transient_errors(state):
    retried = {error for retry in state["Retry"] for error in retry["ErrorEquals"]}

    # Developer Guide, "Best practices for Step Functions": handle transient Lambda service exceptions
    assert retried >= {
        "Lambda.ServiceException",
        "Lambda.AWSLambdaException",
        "Lambda.SdkClientException",
        "Lambda.TooManyRequestsException",
    }


@pytest.mark.parametrize("state", states_of("Choice"))
def test_every_choice_has_a_default(state):
    assert state["Default"]


@pytest.mark.parametrize("machine", MACHINES)
def test_a_step_waits_longer_than_the_function_it_calls_may_run(machine):
    for state in definition(machine)["States"].values():
        called = re.search(r"\$\{(\w+Function)Arn\}", json.dumps(state.get("Arguments")))
        if called:
            assert state["TimeoutSeconds"] > TEMPLATE["Resources"][called[1]]["Properties"]["Timeout"]


def test_no_error_of_ours_that_is_retried_has_lost_its_class():
    from functions.classify import app  # noqa: PLC0415

    machine = json.dumps(definition("ClassifyStateMachine"))
    for error in re.findall(r'"(\w+Error)"', machine):
        assert issubclass(getattr(app, error), Exception)
