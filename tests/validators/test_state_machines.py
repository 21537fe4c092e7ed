"""The state machines under asl-validator and under the reference implementation of JSONata.

Every path is walked, each state with what the state before it gave, and every expression has to have a value:
Step Functions fails an execution in which one is undefined.
"""

import copy
import functools
import itertools
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import boto3
import jsonschema
import pytest
from botocore.model import StructureShape
from botocore.validate import validate_parameters
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.classify.answer import parse_probabilities
from functions.filter.decision import decide
from tests.aws_shapes import violations
from tests.conftest import ROOT
from tests.state_machines import (
    FILES,
    Node,
    QueryEvaluationError,
    TaskFailedError,
    Walk,
    definition,
    expressions,
)

ENDPOINT = {"EndpointName": "scones-unlimited-prod"}
CLASSIFY = definition("ClassifyStateMachine", **ENDPOINT)
BACKFILL = {
    kind: definition("BackfillStateMachine", WorkflowType=kind, **ENDPOINT)
    for kind in ("STANDARD", "EXPRESS")
}
PHOTO = BACKFILL["STANDARD"]["States"]["Each photo"]["ItemProcessor"]

LABELS = ("bicycle", "motorcycle", "other")
THRESHOLD = 0.8
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
SERIALIZED = {
    "image_data": "/9j/4AAQ",
    "content_type": "image/jpeg",
    "width": 224,
    "height": 168,
    "sha256": SHA256,
}
REJECTED = {"rejected": {"reason": "damaged", "detail": "image file is truncated"}}

UPLOAD = json.loads((ROOT / "events" / "photo-uploaded.json").read_text())
OPTIONAL = [("detail", "object", name) for name in ("version-id", "etag", "size", "sequencer")] + [
    ("id",),
    ("claim",),
    ("priority",),
    ("time",),
]
"""What an upload's event, a backfill's or a replay's may lack."""
CAUSE = (
    'An error occurred (500) when calling: {"errorMessage": "it\'s \\"down\\"", "trace": []}' + "\n" * 1000
)


def without(event: dict[str, Any], *fields: tuple[str, ...]) -> dict[str, Any]:
    poorer = copy.deepcopy(event)
    for *parents, name in fields:
        holder = poorer
        for parent in parents:
            holder = holder[parent]
        del holder[name]
    return poorer


REPLAYED = UPLOAD | {
    "claim": "arn:aws:states:eu-west-1:123456789012:execution:classify:before",
    "priority": "low",
}
NULLS = copy.deepcopy(REPLAYED)
NULLS["detail"]["object"] |= {"version-id": None, "etag": None, "size": None}
INPUTS = [
    *(
        without(REPLAYED, *some)
        for n in range(len(OPTIONAL) + 1)
        for some in itertools.combinations(OPTIONAL, n)
    ),
    NULLS,
]
OUTCOMES = {
    "accepted": (SERIALIZED, [0.93, 0.05, 0.02]),
    "low confidence": (SERIALIZED, [0.5, 0.3, 0.2]),
    "not a vehicle": (SERIALIZED, [1e-200, 1 / 3, 2 / 3]),
    "rejected": (REJECTED, []),
}
TASKS = [name for name, state in CLASSIFY["States"].items() if state["Type"] == "Task"]
FAULTS = [
    (name, fault)
    for name in TASKS
    for fault in (
        TaskFailedError("States.Timeout"),
        TaskFailedError("Lambda.Unknown", CAUSE),
        TaskFailedError("SomeError", ""),
    )
] + [
    ("Record", TaskFailedError("DynamoDB.ConditionalCheckFailedException", "The conditional request failed"))
]
CALLS = {
    "Record": ("dynamodb", "PutItem"),
    "Raise sequencer": ("dynamodb", "UpdateItem"),
    "Publish": ("events", "PutEvents"),
    "Notify": ("sns", "Publish"),
    "Keep input": ("sqs", "SendMessage"),
    "Which version": ("s3", "HeadObject"),
    "Its result": ("dynamodb", "GetItem"),
    "Classify": ("stepfunctions", "StartExecution"),
    "Classify, Express": ("stepfunctions", "StartSyncExecution"),
}
"""The requests that tasks make, apart from those to functions."""


class Services:
    """The services that the classification calls, of which some fail."""

    def __init__(
        self, serialized: dict[str, Any], answer: list[float], faults: dict[str, TaskFailedError]
    ) -> None:
        self.serialized = serialized
        self.answer = answer
        self.faults = faults

    def __call__(self, name: str, arguments: Any) -> Any:
        if name in self.faults:
            raise self.faults[name]
        match name:
            case "Serialize":
                return {"Payload": self.serialized, "StatusCode": 200}
            case "Classify":
                inferences = parse_probabilities(json.dumps(self.answer).encode())
                return {"Payload": {"inferences": inferences}, "StatusCode": 200}
            case "Filter":
                payload = decide(arguments["Payload"]["inferences"], LABELS, THRESHOLD)
                return {"Payload": dict(payload), "StatusCode": 200}
            case "Publish":
                return {"Entries": [{"EventId": "11710aed"}], "FailedEntryCount": 0}
        return {"MessageId": "3d5c8b1e"}


@pytest.fixture(scope="session")
def evaluated() -> set[str]:
    """Every expression that a walk of this run came to."""
    return set()


def requests(walk: Walk) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each request that the tasks of a walk make: service, operation and parameters."""
    for name, arguments in walk.arguments.items():
        if name in CALLS and "FunctionName" not in arguments:
            yield *CALLS[name], as_request(name, arguments)


def as_request(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Write arguments as the service's API has them.

    An optimized integration takes an object where the API takes JSON. Step Functions spells all names in
    PascalCase, also those that are in camelCase in its own API.
    """
    if name == "Publish":
        return {
            "Entries": [entry | {"Detail": json.dumps(entry["Detail"])} for entry in arguments["Entries"]]
        }
    if CALLS[name][0] == "stepfunctions":
        request = {key[0].lower() + key[1:]: value for key, value in arguments.items()}
        return request | ({"input": json.dumps(request["input"])} if name == "Classify" else {})
    return arguments


@functools.cache
def input_shape(service: str, operation: str) -> StructureShape:
    shape = boto3.client(service).meta.service_model.operation_model(operation).input_shape
    assert shape
    return shape


def assert_requests_fit(walk: Walk) -> None:
    for service, operation, parameters in requests(walk):
        shape = input_shape(service, operation)
        validate_parameters(parameters, shape)
        assert violations(parameters, shape, operation) == []


# ── asl-validator ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("machine", FILES)
def test_asl_validator_accepts_a_definition_as_it_is_written(node: Node, machine: str):
    assert node.errors(json.loads((ROOT / FILES[machine]).read_text())) == []


@pytest.mark.parametrize("kind", ["STANDARD", "EXPRESS"])
@pytest.mark.parametrize("machine", FILES)
def test_asl_validator_accepts_a_definition_as_it_is_deployed(node: Node, machine: str, kind: str):
    assert node.errors(definition(machine, WorkflowType=kind, **ENDPOINT)) == []


def test_every_definition_in_the_folder_is_validated():
    assert sorted(FILES.values()) == sorted(
        f"statemachine/{path.name}" for path in ROOT.glob("statemachine/*.json")
    )


def broken(change: dict[str, Any]) -> dict[str, Any]:
    other = copy.deepcopy(CLASSIFY)
    other["States"]["Filter"] |= change
    return other


@pytest.mark.parametrize(
    "change",
    [
        {"Next": "No such state"},
        {"Arguments": {"FunctionName": "{% $states. %}"}},
        {"ResultPath": "$.decision"},
        {"Retry": [{"MaxAttempts": 3}]},
        {"TimeoutSeconds": "20"},
    ],
    ids=["dead end", "JSONata", "JSONPath's field", "Retry", "type"],
)
def test_asl_validator_notices_a_defect(node: Node, change: dict[str, Any]):
    assert node.errors(broken(change))


# ── JSONata: the classification ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_photo_gets_its_outcome_whatever_its_event_lacks(node: Node, evaluated: set[str], outcome: str):
    serialized, answer = OUTCOMES[outcome]

    for event in INPUTS:
        walk = Walk(CLASSIFY, event, Services(serialized, answer, {}), node, evaluated).run()

        assert walk.entered[-1] == "Done"
        assert_requests_fit(walk)
        assert_table_and_event_agree(walk)
        assert_event_has_its_schema(walk)


def assert_table_and_event_agree(walk: Walk) -> None:
    item, detail = walk.arguments["Record"]["Item"], walk.arguments["Publish"]["Entries"][0]["Detail"]
    assert walk.output == detail
    for name in item.keys() & detail.keys():
        assert plain(item[name]) == decimals(detail[name]), name


def plain(attribute: dict[str, Any]) -> Any:
    """Read an attribute as the table's clients do."""
    ((kind, value),) = attribute.items()
    match kind:
        case "S":
            return value
        case "N":
            return Decimal(value)
        case "L":
            return [plain(one) for one in value]
    assert attribute == {"NULL": True}
    return None


def decimals(value: Any) -> Any:
    """Read a value of an event exactly as written."""
    return json.loads(json.dumps(value), parse_float=Decimal, parse_int=Decimal)


def assert_event_has_its_schema(walk: Walk) -> None:
    (entry,) = walk.arguments["Publish"]["Entries"]
    schema = json.loads((ROOT / "events" / "schemas" / f"{entry['DetailType']}.v1.json").read_text())
    event = {"source": entry["Source"], "detail-type": entry["DetailType"], "detail": entry["Detail"]}
    jsonschema.validate(event | {"id": "1", "time": "2026-03-04T18:39:40Z"}, schema)


@pytest.mark.parametrize(
    ("name", "fault"), FAULTS, ids=lambda value: getattr(value, "output", {}).get("Error", value)
)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_fault_is_notified_and_its_input_kept(
    node: Node, evaluated: set[str], outcome: str, name: str, fault: TaskFailedError
):
    serialized, answer = OUTCOMES[outcome]
    # what only happens after a fault has to fail beside another one
    faults = {name: fault} | ({} if name in {"Serialize", "Record"} else {"Publish": fault})

    for event in (UPLOAD, REPLAYED, NULLS, without(REPLAYED, *OPTIONAL)):
        walk = Walk(CLASSIFY, event, Services(serialized, answer, faults), node, evaluated).run()

        assert_requests_fit(walk)
        if fault.output["Error"] == "DynamoDB.ConditionalCheckFailedException":
            assert (walk.entered[-1], walk.error) == ("Already recorded", None)
            continue
        assert walk.entered[-3:] == ["Notify", "Keep input", "Failed"]
        assert walk.error == {"Cause": "", **fault.output}
        kept = json.loads(walk.arguments["Keep input"]["MessageBody"])
        assert kept == {"claim": walk.context["Execution"]["Id"]} | event


HOSTILE = "\n\r\x1b[2J\x85\u2028\u202e\u200b\x7f\0 Your session has expired: https://example.com/"


@pytest.mark.parametrize("length", [1, 100])
def test_text_that_others_wrote_stays_on_its_line_of_the_notification(
    node: Node, evaluated: set[str], length: int
):
    event = copy.deepcopy(UPLOAD)
    event["detail"]["object"]["key"] = f"uploads/{HOSTILE * length}.jpg"
    fault = {"Serialize": TaskFailedError(f"Error{HOSTILE}", HOSTILE * length)}

    walk = Walk(CLASSIFY, event, Services(SERIALIZED, [], fault), node, evaluated).run()

    lines = walk.arguments["Notify"]["Message"].split("\n")
    assert [line.partition(": ")[0] for line in lines[:4]] == ["Photo", "Error", "Cause", "Execution"]
    assert len(lines) == 6
    assert all(line.isascii() and line.isprintable() and len(line) <= 1010 for line in lines)
    assert " " not in lines[0].removeprefix("Photo: ")
    assert lines[0].endswith("example.com/.jpg")


BUSY = "The endpoint is busy. Retry after 37 s."
WAITS = [
    (TaskFailedError("EndpointBusyError", json.dumps({"errorMessage": BUSY})), {37}),
    (
        TaskFailedError("EndpointBusyError", json.dumps({"errorMessage": "The endpoint is busy."})),
        {1, 2, 3, 4},
    ),
    (TaskFailedError("EndpointUnavailableError"), {1, 2, 3, 4}),
]


@pytest.mark.parametrize(("fault", "waits"), WAITS)
def test_a_photo_without_capacity_waits_and_then_gets_its_outcome(
    node: Node, evaluated: set[str], fault: TaskFailedError, waits: set[int]
):
    services = Services(*OUTCOMES["accepted"], {})
    attempts = iter([fault, fault, None])

    def task(name: str, arguments: Any) -> Any:
        if name == "Classify" and (failed := next(attempts)):
            raise failed
        return services(name, arguments)

    walk = Walk(CLASSIFY, UPLOAD, task, node, evaluated).run()

    assert walk.entered.count("Wait for capacity") == 2
    assert walk.entered[-1] == "Done"
    assert set(walk.waited) <= waits
    assert walk.arguments["Classify"]["Payload"]["image_data"] == SERIALIZED["image_data"]


def test_a_photo_that_has_waited_too_long_is_notified_and_its_input_kept(node: Node, evaluated: set[str]):
    patience = 5
    machine = json.loads(json.dumps(CLASSIFY).replace("$number('21600')", f"$number('{patience}')"))
    fault = TaskFailedError("EndpointBusyError", json.dumps({"errorMessage": BUSY}))
    services = Services(*OUTCOMES["accepted"], {"Classify": fault})

    walk = Walk(machine, UPLOAD, services, node, evaluated).run()

    assert walk.waited == [patience]  # and not 37 s
    assert walk.entered[-3:] == ["Notify", "Keep input", "Failed"]
    assert walk.error["Error"] == "EndpointBusyError"


# ── JSONata: the backfill ────────────────────────────────────────────────────────────────────────────────

SETTINGS = [
    ({}, ["uploads/", 10, 5]),
    (
        {"prefix": "archive/2025/", "concurrency": 4, "tolerated_failure_percentage": 0},
        ["archive/2025/", 4, 0],
    ),
    ({"prefix": "uploads/", "concurrency": 0}, ["uploads/", 1, 5]),
    ({"concurrency": 1_000_000}, ["uploads/", 10, 5]),
]


@pytest.mark.parametrize(("start", "expected"), SETTINGS)
def test_a_backfill_settles_its_limits(
    node: Node, evaluated: set[str], start: dict[str, Any], expected: list[Any]
):
    walk = Walk(BACKFILL["STANDARD"], start, Services({}, [], {}), node, evaluated).run()

    limits = walk.arguments["Each photo"]
    names = ("Prefix.$", "MaxConcurrencyPath", "ToleratedFailurePercentagePath")
    assert [limits[name] for name in names] == expected


def test_a_backfill_refuses_any_other_prefix(node: Node, evaluated: set[str]):
    walk = Walk(
        BACKFILL["STANDARD"], {"prefix": "ground-truth/"}, Services({}, [], {}), node, evaluated
    ).run()

    assert walk.error
    assert walk.error["Error"] == "WrongPrefix"


LISTED = {"Key": "archive/a 'b' \"c\".jpg", "ETag": '"b57f95"', "Size": 12447, "LastModified": 1772649578}
STORED = {"VersionId": "3sL4kqtJlcpXroDTDmJ", "ETag": '"b57f95"', "ContentLength": 12447, "Metadata": {}}
STORED["LastModified"] = "2026-03-04T05:06:18Z"
RESULTS = {
    "none": {},
    "of this version": {
        "Item": {
            "version_id": {"S": "3sL4kqtJlcpXroDTDmJ"},
            "outcome": {"S": "accepted"},
            "sequencer": {"S": "0055"},
        }
    },
    "of an earlier version": {
        "Item": {"version_id": {"S": "earlier"}, "outcome": {"S": "rejected"}, "sequencer": {"S": ""}}
    },
    "of no version": {"Item": {"version_id": {"NULL": True}, "outcome": {"S": "accepted"}}},
}
ENDS = {
    "classified": {"Status": "SUCCEEDED", "Output": {"outcome": "accepted", "photo": "s3://bucket/key"}},
    "recorded meanwhile": {
        "Status": "SUCCEEDED",
        "Output": {
            "Error": "DynamoDB.ConditionalCheckFailedException",
            "Cause": "The conditional request failed",
        },
    },
    "failed": {"Status": "FAILED", "Error": "EndpointUnavailableError", "Cause": "503"},
    "failed without a cause": {"Status": "FAILED", "Error": "States.Timeout"},
    "timed out": {"Status": "TIMED_OUT"},
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("kind", BACKFILL)
def test_a_backfill_classifies_what_has_no_result_of_this_version(
    node: Node, evaluated: set[str], kind: str, result: str, end: str
):
    ended = ENDS[end]

    def task(name: str, arguments: Any) -> Any:
        match name:
            case "Which version":
                return STORED
            case "Its result":
                return RESULTS[result]
            case "Classify, Express":
                return ended | ({"Output": json.dumps(ended["Output"])} if "Output" in ended else {})
        if ended["Status"] == "SUCCEEDED":
            return ended
        raise TaskFailedError("States.TaskFailed", json.dumps(ended))

    machine = BACKFILL[kind]["States"]["Each photo"]["ItemProcessor"]
    walk = Walk(machine, LISTED, task, node, evaluated).run()

    assert_requests_fit(walk)
    if result == "of this version":
        assert walk.output == {"photo": photo_of(LISTED["Key"]), "outcome": "accepted", "new": False}
    elif ended["Status"] != "SUCCEEDED":
        assert walk.error
    else:
        outcome = "accepted" if end == "classified" else "recorded_meanwhile"
        new = end == "classified"
        assert walk.output == {"photo": photo_of(LISTED["Key"]), "outcome": outcome, "new": new}
        started = json.loads(as_started(walk)["input"])
        assert started["priority"] == "low"
        classified = Walk(CLASSIFY, started, Services(*OUTCOMES["accepted"], {}), node, evaluated).run()
        assert classified.entered[-1] == "Done"


def as_started(walk: Walk) -> dict[str, Any]:
    (started,) = [parameters for _, operation, parameters in requests(walk) if operation.startswith("Start")]
    return started


def photo_of(key: str) -> str:
    bucket = PHOTO["States"]["Which version"]["Arguments"]["Bucket"]
    return f"s3://{bucket}/{key}"


# ── Numbers, and the harness itself ──────────────────────────────────────────────────────────────────────


@settings(max_examples=300)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20).filter(any))
def test_a_number_in_the_table_is_the_one_in_the_event(node: Node, weights: list[float]):
    answer = [weight / sum(weights) for weight in weights]
    inferences = parse_probabilities(json.dumps(answer).encode())
    decision = decide(inferences, [str(n) for n in range(len(answer))], THRESHOLD)
    given = {
        **decision,
        "inferences": inferences,
        "outcome": decision["decision"],
        "detail_type": "VehicleClassified",
    }
    record = CLASSIFY["States"]["Record"]
    states = {"input": given, "context": {"State": {"EnteredTime": "2026-03-04T18:39:40.123Z"}}}

    def value(template: str) -> Any:
        return node.evaluate(template.removeprefix("{%").removesuffix("%}"), {"states": states})

    for name in ("confidence", "inferences"):
        stored = plain(value(record["Arguments"]["Item"][name]))
        assert stored == decimals(value(record["Assign"]["detail"][name]))
        # DynamoDB refuses what is smaller (Developer Guide, "Supported data types")
        assert all(
            n == 0 or n >= Decimal("1E-130") for n in (stored if isinstance(stored, list) else [stored])
        )


def test_every_expression_of_every_machine_was_evaluated(evaluated: set[str]):
    """This has to come after the walks; pytest runs the tests of a file in their order."""
    machines = [CLASSIFY, *BACKFILL.values()]

    assert {expression for machine in machines for expression in expressions(machine)} <= evaluated


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("$states.input.detail.bucket.nam", "undefined"),
        ("$no_such_variable", "undefined"),
        ("$eval('1 + 1')", r"\$eval"),
        ("$toMillis('yesterday')", "yesterday"),
        ("1 +", "end of expression"),
    ],
)
def test_an_expression_without_a_value_is_a_failure(node: Node, expression: str, error: str):
    machine = copy.deepcopy(CLASSIFY)
    machine["States"]["Photo uploaded"]["Assign"]["photo"]["bucket"] = f"{{% {expression} %}}"

    with pytest.raises(QueryEvaluationError, match=error):
        Walk(machine, UPLOAD, Services(*OUTCOMES["accepted"], {}), node, set()).run()


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("$partition([1, 2, 3], 2)", [[1, 2], [3]]),
        ("$range(0, 10, 5)", [0, 5, 10]),
        ("$hash('scones', 'SHA-256')", "0bc5"),
        ("$parse('{\"a\": [1]}').a[0]", 1),
        ("$random(7) = $random(7)", True),
        ("$length($uuid())", 36),
    ],
)
def test_the_functions_of_step_functions_are_there(node: Node, expression: str, value: Any):
    found = node.evaluate(expression, {})

    assert found == value or (isinstance(value, str) and len(found) == 64)
