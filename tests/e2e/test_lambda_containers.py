"""The whole stack with functions in Lambda's own runtime: its error names, timeouts and memory limits."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from local import demo, processes
from local.stack import Stack
from pipeline import sample_images
from tests import containers, photos
from tests.waiting import PATIENCE, eventually

MISSING = containers.missing()
pytestmark = [
    pytest.mark.verify,
    pytest.mark.skipif(MISSING is not None, reason=f"functions in containers: {MISSING}"),
]


@pytest.fixture(scope="module")
def stack(stack_for_containers: Stack) -> Stack:
    return stack_for_containers


def name_of(stack: Stack, function: str) -> str:
    return stack.outputs[f"{function}FunctionName"]


def invoked(stack: Stack, function: str, event: dict[str, Any]) -> dict[str, Any]:
    answer = stack.client("lambda").invoke(FunctionName=name_of(stack, function), Payload=json.dumps(event))
    return json.loads(answer["Payload"].read()) | {"failed": "FunctionError" in answer}


def photo(stack: Stack, name: str, content: bytes) -> dict[str, str]:
    """Upload a photo and return its location."""
    bucket, key = stack.outputs["UploadBucketName"], f"uploads/{name}"
    stack.client("s3").put_object(Bucket=bucket, Key=key, Body=content)
    return {"bucket": bucket, "key": key}


def result(stack: Stack, key: str) -> dict[str, Any] | None:
    table, address = stack.outputs["ResultsTableName"], f"s3://{stack.outputs['UploadBucketName']}/{key}"
    return stack.client("dynamodb").get_item(TableName=table, Key={"photo": {"S": address}}).get("Item")


@contextmanager
def configured(stack: Stack, function: str, **configuration: int) -> Iterator[None]:
    """Change a function's timeout or memory for the block."""
    functions, name = stack.client("lambda"), name_of(stack, function)
    before = functions.get_function_configuration(FunctionName=name)
    functions.update_function_configuration(FunctionName=name, **configuration)
    try:
        yield
    finally:
        functions.update_function_configuration(
            FunctionName=name, **{setting: before[setting] for setting in configuration}
        )


def test_every_photo_gets_its_outcome(stack):
    outcomes = list(demo.classify(stack, dict(sample_images.demo_pictures()), silence=PATIENCE))

    assert Counter(one.outcome for one in outcomes) == {"accepted": 8, "needs_review": 2, "rejected": 1}


def test_an_endpoint_that_is_down_for_a_while_is_retried_by_the_name_of_the_error(stack):
    (entry,) = [one for one in processes.registered(stack._registry) if one["name"] == "the endpoint"]
    endpoint, step_functions = psutil.Process(entry["pid"]), stack.client("stepfunctions")
    endpoint.terminate()
    endpoint.wait(PATIENCE)

    def failed_steps() -> list[str]:
        machine = stack.outputs["StateMachineArn"]
        running = step_functions.list_executions(stateMachineArn=machine, statusFilter="RUNNING")
        arns = [one["executionArn"] for one in running["executions"]]
        histories = [step_functions.get_execution_history(executionArn=arn)["events"] for arn in arns]
        events = [event for history in histories for event in history if event["type"] == "TaskFailed"]
        return [event["taskFailedEventDetails"]["error"] for event in events]

    try:
        photo(
            stack, "patient.jpg", sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1))
        )
        errors = eventually(failed_steps)
    finally:
        processes.start([stack._endpoint()], stack._registry)

    assert set(errors) == {"EndpointUnavailableError"}
    assert eventually(lambda: result(stack, "uploads/patient.jpg"))["outcome"]["S"] == "accepted"


def test_a_fault_has_the_name_of_its_class(stack):
    said = invoked(stack, "Filter", {"inferences": [0.5, 0.5]})

    assert said["failed"]
    assert said["errorType"] == "InferencesError"


def test_a_function_that_exceeds_its_timeout_is_stopped(stack):
    large = photo(stack, "slow.jpg", photos.fifty_megapixel_jpeg(progressive=True))

    with configured(stack, "Serialize", Timeout=1):
        said = invoked(stack, "Serialize", large)

    assert said["failed"]
    assert said["errorType"] == "Sandbox.Timedout"


def test_the_largest_photo_fits_in_the_functions_memory_but_not_in_a_quarter_of_it(stack):
    large = photo(stack, "large.jpg", photos.fifty_megapixel_jpeg(progressive=True))

    said = invoked(stack, "Serialize", large)
    with configured(stack, "Serialize", MemorySize=128):
        ended = invoked(stack, "Serialize", large)

    assert said["width"] * said["height"] > 49e6
    assert ended["failed"]
    # The kernel kills either the function or its decoding subprocess.
    assert ended["errorType"] in {"Runtime.ExitError", "DecodingStoppedError"}
