"""What no linter looks for in a state machine: dead ends, dead states, and promises every step must keep."""

import importlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse

from tests.conftest import ROOT

TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
MACHINES = {
    name: resource["Properties"]
    for name, resource in TEMPLATE["Resources"].items()
    if resource["Type"] == "AWS::Serverless::StateMachine"
}

SUBSTITUTIONS = {
    name: value for machine in MACHINES.values() for name, value in machine["DefinitionSubstitutions"].items()
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
    assert state["Retry"]
    assert all(retry["JitterStrategy"] == "FULL" for retry in state["Retry"])
    assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"]


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


@pytest.mark.parametrize("state", states_of("Task", ":lambda:invoke"))
def test_every_error_of_ours_that_is_retried_is_one_that_the_function_raises(state):
    (function,) = substitutions(state)
    code = TEMPLATE["Resources"][function]["Properties"]["CodeUri"]
    app = importlib.import_module(f"{code.strip('/').replace('/', '.')}.app")

    for error in re.findall(r'"(\w+Error)"', json.dumps(state["Retry"])):
        assert issubclass(getattr(app, error), Exception)


# Service Authorization Reference; the emulator lets the state machine do anything.
ACTIONS = {
    "arn:aws:states:::lambda:invoke": "lambda:InvokeFunction",
    "arn:aws:states:::dynamodb:putItem": "dynamodb:PutItem",
    "arn:aws:states:::events:putEvents": "events:PutEvents",
    "arn:aws:states:::sqs:sendMessage": "sqs:SendMessage",
}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_may_do_just_what_its_steps_do(machine):
    tasks = [state for state in definition(machine)["States"].values() if state["Type"] == "Task"]

    needed = {(ACTIONS[task["Resource"]], resource) for task in tasks for resource in substitutions(task)}

    assert allowed(MACHINES[machine]["Role"]["Fn::GetAtt"][0]) == needed


def substitutions(state: dict) -> set[str]:
    """The resources of the template that a state names."""
    named = re.findall(r"\$\{(\w+)\}", json.dumps(state["Arguments"]))
    values = [SUBSTITUTIONS[name] for name in named]
    logical = {value.get("Ref") or value["Fn::GetAtt"][0] for value in values}
    return logical & TEMPLATE["Resources"].keys()


def allowed(role: str) -> set[tuple[str, str]]:
    """Each action and resource that a role allows, but for those where AWS has no resources."""
    statements = [
        statement
        for policy in TEMPLATE["Resources"][role]["Properties"]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Resource"] != "*"
    ]
    return {
        (action, resource["Fn::GetAtt"][0])
        for statement in statements
        for action in aslist(statement["Action"])
        for resource in aslist(statement["Resource"])
    }


def aslist(value: Any) -> list:
    return value if isinstance(value, list) else [value]
