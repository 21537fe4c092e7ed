"""The state machine, state by state: given this input or this error, it goes on to that state."""

import json

import pytest


@pytest.fixture(scope="module")
def machine(stack):
    """The definition as it was deployed, and the API that tests a state of it."""
    step_functions = stack.client("stepfunctions")
    deployed = step_functions.describe_state_machine(stateMachineArn=stack.outputs["StateMachineArn"])

    def test(state: str, given: dict, **mock: dict) -> dict:
        return step_functions.test_state(
            definition=deployed["definition"],
            roleArn=deployed["roleArn"],
            stateName=state,
            input=json.dumps(given),
            **({"mock": mock} if mock else {}),
        )

    return test


def test_a_photo_that_cannot_be_read_is_rejected_without_asking_the_model(machine):
    given = {"rejected": {"reason": "empty", "detail": "The file is empty."}}

    assert machine("Readable?", given)["nextState"] == "Rejected"


def test_a_photo_that_can_be_read_goes_to_the_model(machine):
    given = {"image_data": "/9j/", "content_type": "image/jpeg", "width": 1, "height": 1, "sha256": ""}

    assert machine("Readable?", given)["nextState"] == "Classify"


@pytest.mark.parametrize(
    ("decision", "goes_on_to"),
    [("accepted", "Accepted"), ("needs_review", "Needs review"), ("something new", "Needs review")],
)
def test_only_what_is_accepted_is_accepted_and_a_person_looks_at_the_rest(machine, decision, goes_on_to):
    assert machine("Confident?", {"decision": decision})["nextState"] == goes_on_to


@pytest.mark.parametrize(
    ("state", "given", "outcome", "published_as"),
    [
        ("Accepted", {"decision": "accepted"}, "accepted", "VehicleClassified"),
        ("Needs review", {"decision": "needs_review"}, "needs_review", "VehicleNeedsReview"),
        ("Rejected", {"rejected": {"reason": "empty", "detail": ""}}, "rejected", "PhotoRejected"),
    ],
)
def test_each_outcome_is_recorded_under_its_name_and_its_event(machine, state, given, outcome, published_as):
    tested = machine(state, given)

    assert tested["nextState"] == "Record"
    told = json.loads(tested["output"])
    assert (told["outcome"], told["detail_type"]) == (outcome, published_as)


@pytest.mark.parametrize("state", ["Serialize", "Classify", "Filter", "Record", "Publish"])
def test_any_fault_that_stays_keeps_the_input_for_a_replay(machine, state):
    tested = machine(state, {}, errorOutput={"error": "AccessDeniedException", "cause": "not authorized"})

    assert tested["status"] == "CAUGHT_ERROR"
    assert tested["nextState"] == "Notify"


def test_a_result_that_stands_already_is_no_fault(machine):
    failed = {"error": "DynamoDB.ConditionalCheckFailedException", "cause": "The conditional request failed"}

    assert machine("Record", {}, errorOutput=failed)["nextState"] == "Already recorded"


def test_an_execution_fails_even_if_its_input_cannot_be_kept(machine):
    tested = machine("Keep input", {}, errorOutput={"error": "Sqs.SdkClientException", "cause": "no queue"})

    assert tested["nextState"] == "Failed"
