"""Checks of state machines that no linter makes: transitions, timeouts, retries and permissions."""

import copy
import importlib
import json
import re
from collections.abc import Iterator
from typing import Any

import boto3
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


def levels(machine: str) -> Iterator[dict]:
    """The machine, and the one inside each Map; each has StartAt and States."""
    ahead = [definition(machine)]
    while ahead:
        level = ahead.pop()
        yield level
        ahead += [state["ItemProcessor"] for state in level["States"].values() if "ItemProcessor" in state]


LEVELS = [level for machine in MACHINES for level in levels(machine)]


def successors(state: dict) -> Iterator[str]:
    """The names of all states that can follow a state."""
    branches = [state, *state.get("Choices", []), *state.get("Catch", [])]
    yield from (branch["Next"] for branch in branches if "Next" in branch)
    if "Default" in state:
        yield state["Default"]


def states_of(kind: str, resource: str = "") -> list:
    return [
        pytest.param(state, id=f"{machine}: {name}")
        for machine in MACHINES
        for level in levels(machine)
        for name, state in level["States"].items()
        if state["Type"] == kind and state.get("Resource", "").endswith(resource)
    ]


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level["StartAt"])
def test_every_transition_leads_to_an_existing_state(level):
    targets = {
        level["StartAt"],
        *(after for state in level["States"].values() for after in successors(state)),
    }

    assert targets <= level["States"].keys()


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level["StartAt"])
def test_every_state_can_be_reached(level):
    reached, ahead = set(), [level["StartAt"]]
    while ahead:
        name = ahead.pop()
        reached.add(name)
        ahead.extend(set(successors(level["States"][name])) - reached)

    assert reached == level["States"].keys()


@pytest.mark.parametrize("machine", MACHINES)
def test_the_template_substitutes_exactly_the_placeholders_of_the_definition(machine):
    text = (ROOT / MACHINES[machine]["DefinitionUri"]).read_text()

    assert set(re.findall(r"\$\{(\w+)\}", text)) == MACHINES[machine]["DefinitionSubstitutions"].keys()


@pytest.mark.parametrize("state", states_of("Task"))
def test_every_task_has_a_timeout_and_retries_with_jitter(state):
    assert state["TimeoutSeconds"] > 0
    assert state["Retry"]
    assert all(retry["JitterStrategy"] == "FULL" for retry in state["Retry"])


def test_every_task_of_the_pipeline_catches_all_errors_and_queues_the_input():
    states = definition("ClassifyStateMachine")["States"]

    for state in states.values():
        if state["Type"] == "Task":
            assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"]
            assert state["Catch"][-1]["Next"] in {"Notify", "Keep input", "Failed"}
    assert states["Notify"]["Catch"][-1]["Next"] == states["Notify"]["Next"] == "Keep input"


def test_an_execution_has_time_for_the_last_attempt_after_the_longest_wait():
    machine = definition("ClassifyStateMachine")
    _, express, standard = MACHINES["ClassifyStateMachine"]["DefinitionSubstitutions"]["PatienceSeconds"][
        "Fn::If"
    ]
    attempt = machine["States"]["Classify"]["TimeoutSeconds"]

    assert standard + attempt < machine["TimeoutSeconds"]
    # Developer Guide, "Quotas for Express workflows": five minutes
    assert express + attempt < 300


def test_a_backfill_waits_longer_than_the_timeout_of_a_photos_execution():
    (waits,) = [state.values[0] for state in states_of("Task", ":states:startExecution.sync:2")]

    assert waits["TimeoutSeconds"] > definition("ClassifyStateMachine")["TimeoutSeconds"]


@pytest.mark.parametrize("state", states_of("Task", ":lambda:invoke"))
def test_every_function_call_is_retried_on_lambdas_transient_errors(state):
    retried = {error for retry in state["Retry"] for error in retry["ErrorEquals"]}

    # Developer Guide, "Best practices for Step Functions": handle transient Lambda service exceptions
    assert retried >= {
        "Lambda.ClientExecutionTimeoutException",
        "Lambda.ServiceException",
        "Lambda.AWSLambdaException",
        "Lambda.SdkClientException",
        "Lambda.TooManyRequestsException",
    }
    # how Lambda reports an environment that ended; the next attempt gets a new one, with its memory free
    assert retried >= {
        "Lambda.Unknown",
        "Runtime.ExitError",
        "Runtime.OutOfMemory",
        "Sandbox.Timedout",
        "States.Timeout",
    }


CALLS = {
    "dynamodb:putItem": ("dynamodb", "PutItem", "DynamoDB"),
    "dynamodb:getItem": ("dynamodb", "GetItem", "DynamoDB"),
    "dynamodb:updateItem": ("dynamodb", "UpdateItem", "DynamoDB"),
    "events:putEvents": ("events", "PutEvents", "EventBridge"),
    "lambda:invoke": ("lambda", "Invoke", "Lambda"),
    "sns:publish": ("sns", "Publish", "SNS"),
    "sqs:sendMessage": ("sqs", "SendMessage", "SQS"),
    "states:startExecution.sync:2": ("stepfunctions", "StartExecution", "StepFunctions"),
    "aws-sdk:sfn:startSyncExecution": ("stepfunctions", "StartSyncExecution", "Sfn"),
    "aws-sdk:s3:headObject": ("s3", "HeadObject", "S3"),
}
"""For each integration its service, its operation, and what Step Functions puts before an error's name."""
TRANSIENT = re.compile(
    r"^(?!EC2|K[Mm][Ss]).*(Throttl|Internal|TooManyRequests|LimitExceeded$|ThroughputExceeded|^ServiceException)"
)
"""Faults of a service and its throttling. No key is used in these calls, and no function is in a VPC."""


def missing_retries(state: dict) -> set[str]:
    """The transient errors of a task's call, as botocore lists them, that the task does not retry."""
    service, operation, prefix = CALLS[state["Resource"].removeprefix("arn:aws:states:::")]
    model = boto3.client(service).meta.service_model.operation_model(operation)
    transient = {error.name for error in model.error_shapes if TRANSIENT.search(error.name)}
    retried = {error for retry in state["Retry"] for error in retry["ErrorEquals"]}
    if retried & {"States.ALL", f"{prefix}.{prefix}Exception"}:  # all errors of the service
        return set()
    names = {
        name: {f"{prefix}.{name}", f"{prefix}.{name}Exception"} for name in {*transient, "SdkClientException"}
    }
    return {name for name, spellings in names.items() if not spellings & retried}


@pytest.mark.parametrize("state", states_of("Task"))
def test_every_call_is_retried_on_the_transient_errors_of_its_service(state):
    assert missing_retries(state) == set()


def test_a_transient_error_that_is_not_retried_is_noticed():
    state = definition("ClassifyStateMachine")["States"]["Record"]
    for error in ("ThrottlingException", "InternalServerError"):
        poorer = copy.deepcopy(state)
        for retry in poorer["Retry"]:
            retry["ErrorEquals"] = [
                name for name in retry["ErrorEquals"] if not name.startswith(f"DynamoDB.{error}")
            ]
        assert missing_retries(poorer) == {error}


@pytest.mark.parametrize("state", states_of("Choice"))
def test_every_choice_has_a_default(state):
    assert state["Default"]


@pytest.mark.parametrize("machine", MACHINES)
def test_a_step_has_a_longer_timeout_than_the_function_it_calls(machine):
    for state in definition(machine)["States"].values():
        called = re.search(r"\$\{(\w+Function)Arn\}", json.dumps(state.get("Arguments")))
        if called:
            assert state["TimeoutSeconds"] > TEMPLATE["Resources"][called[1]]["Properties"]["Timeout"]


@pytest.mark.parametrize("state", states_of("Task", ":lambda:invoke"))
def test_every_error_class_that_is_handled_exists_in_the_function(state):
    (function,) = substitutions(state)
    folder = TEMPLATE["Resources"][function]["Properties"]["CodeUri"].strip("/")
    modules = [
        importlib.import_module(f"{folder.replace('/', '.')}.{path.stem}")
        for path in (ROOT / folder).glob("*.py")
    ]

    for error in re.findall(r'"(\w+Error)"', json.dumps([state["Retry"], state.get("Catch")])):
        (defined,) = {getattr(module, error) for module in modules if hasattr(module, error)}
        assert issubclass(defined, Exception)


# From the Service Authorization Reference. The emulator does not enforce the state machine's role.
ACTIONS = {
    "arn:aws:states:::lambda:invoke": "lambda:InvokeFunction",
    "arn:aws:states:::dynamodb:putItem": "dynamodb:PutItem",
    "arn:aws:states:::dynamodb:updateItem": "dynamodb:UpdateItem",
    "arn:aws:states:::dynamodb:getItem": "dynamodb:GetItem",
    "arn:aws:states:::events:putEvents": "events:PutEvents",
    "arn:aws:states:::sqs:sendMessage": "sqs:SendMessage",
    "arn:aws:states:::sns:publish": "sns:Publish",
    "arn:aws:states:::states:startExecution.sync:2": "states:StartExecution",
    "arn:aws:states:::aws-sdk:sfn:startSyncExecution": "states:StartSyncExecution",
    "arn:aws:states:::s3:listObjectsV2": "s3:ListBucket",
}
EXECUTIONS = "arn:states:execution:{}:*"
NESTED_RULE = "arn:events:rule/StepFunctionsGetEventsForStepFunctionsExecutionRule"


def needed(machine: str) -> Iterator[tuple[str, str]]:
    """The actions and resources that a machine's steps need."""
    prefixes = re.findall(r"'(\w+/)'", json.dumps(definition(machine)["States"].get("Readable?")))
    for state in (state for level in levels(machine) for state in level["States"].values()):
        if state["Type"] == "Task" and state["Resource"] == "arn:aws:states:::aws-sdk:s3:headObject":
            (bucket,) = substitutions(state["Arguments"])
            yield from (("s3:GetObject", f"{bucket}/{prefix}*") for prefix in prefixes)
        elif state["Type"] == "Task":
            yield from ((ACTIONS[state["Resource"]], name) for name in called(state))
            yield from needed_by_keys(called(state))
        if state.get("Resource", "").endswith("startExecution.sync:2"):
            # Developer Guide, "IAM policies for Step Functions"; StopExecution is omitted on purpose.
            yield from (("states:DescribeExecution", EXECUTIONS.format(name)) for name in called(state))
            yield from ((f"events:{do}", NESTED_RULE) for do in ("PutTargets", "PutRule", "DescribeRule"))
        if state["Type"] == "Map":
            yield from needed_by_map_run(machine, state)


def needed_by_keys(resources: set[str]) -> Iterator[tuple[str, str]]:
    """The permissions to publish to an encrypted topic (SNS Developer Guide, "Key management")."""
    for key in (TEMPLATE["Resources"][name]["Properties"].get("KmsMasterKeyId") for name in resources):
        if key:
            yield from ((f"kms:{action}", key["Ref"]) for action in ("Decrypt", "GenerateDataKey"))


def needed_by_map_run(machine: str, state: dict) -> Iterator[tuple[str, str]]:
    """The permissions for a map run (Developer Guide, "IAM policies for using Distributed Map states")."""
    yield "states:StartExecution", machine
    yield "states:DescribeExecution", EXECUTIONS.format(machine)
    yield "states:StopExecution", EXECUTIONS.format(machine)
    (read,) = substitutions(state["ItemReader"]["Parameters"])
    yield ACTIONS[state["ItemReader"]["Resource"]], read
    (written,) = substitutions(state["ResultWriter"]["Parameters"])
    for action in ("PutObject", "GetObject", "ListMultipartUploadParts", "AbortMultipartUpload"):
        yield f"s3:{action}", f"{written}/{state['ResultWriter']['Parameters']['Prefix']}/*"


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_has_exactly_the_permissions_that_its_steps_need(machine):
    assert set(allowed(MACHINES[machine]["Role"]["Fn::GetAtt"][0])) == set(needed(machine))


def test_a_backfill_reads_the_same_prefixes_as_serialize():
    read = {resource for action, resource in needed("BackfillStateMachine") if action == "s3:GetObject"}

    photos = {name for name in read if "backfills" not in name}
    assert photos == {name for action, name in allowed("SerializeFunctionRole") if action == "s3:GetObject"}


def called(state: dict) -> set[str]:
    """The resources that a step's action is applied to."""
    named = substitutions(state["Arguments"])
    return named - {"UploadBucket"} if len(named) > 1 else named


def substitutions(arguments: dict) -> set[str]:
    """The resources of the template that arguments refer to."""
    named = re.findall(r"\$\{(\w+)\}", json.dumps(arguments))
    values = [SUBSTITUTIONS[name] for name in named]
    logical = {value.get("Ref") or value["Fn::GetAtt"][0] for value in values}
    return logical & TEMPLATE["Resources"].keys()


def allowed(role: str) -> Iterator[tuple[str, str]]:
    """The actions and resources that a role allows, except for actions without resource types."""
    resources = TEMPLATE["Resources"].values()
    separate = [
        resource["Properties"]
        for resource in resources
        if resource["Type"] == "AWS::IAM::Policy" and {"Ref": role} in resource["Properties"]["Roles"]
    ]
    for policy in [*TEMPLATE["Resources"][role]["Properties"]["Policies"], *separate]:
        for statement in both_branches(policy["PolicyDocument"]["Statement"]):
            for action in both_branches(aslist(statement["Action"])):
                for resource in aslist(statement["Resource"]):
                    if resource != "*":
                        yield action, arn(resource)


def arn(resource: dict) -> str:
    """A resource's name in the template, and the rest of its ARN."""
    if "Fn::Sub" in resource:
        text = re.sub(r":\$\{AWS::\w+\}", "", resource["Fn::Sub"])
        return re.sub(r"\$\{(\w+)\.\w+\}", r"\1", text)
    return resource.get("Ref") or resource["Fn::GetAtt"][0]


def both_branches(values: list) -> Iterator[Any]:
    """Each value; of an Fn::If, those of both branches."""
    for value in values:
        if isinstance(value, dict) and "Fn::If" in value:
            yield from both_branches(value["Fn::If"][1:])
        elif value != {"Ref": "AWS::NoValue"}:
            yield value


def aslist(value: Any) -> list:
    return value if isinstance(value, list) else [value]
