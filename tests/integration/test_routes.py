"""The state machine, state by state: given an input or error, which state is next."""

import json

import pytest


@pytest.fixture(scope="module")
def machine(stack):
    """Call it to test a state of the deployed definition."""
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


def test_an_unreadable_photo_is_rejected_without_invoking_the_model(machine):
    given = {"rejected": {"reason": "empty", "detail": "The file is empty."}}

    assert machine("Readable?", given)["nextState"] == "Rejected"


def test_a_readable_photo_is_sent_to_the_model(machine):
    given = {"image_data": "/9j/", "content_type": "image/jpeg", "width": 1, "height": 1, "sha256": ""}

    assert machine("Readable?", given)["nextState"] == "Classify"


@pytest.mark.parametrize(
    ("decision", "next_state"),
    [("accepted", "Accepted"), ("needs_review", "Needs review"), ("something new", "Needs review")],
)
def test_accepted_decisions_are_accepted_and_all_others_need_review(machine, decision, next_state):
    assert machine("Confident?", {"decision": decision})["nextState"] == next_state


@pytest.mark.parametrize(
    ("state", "given", "outcome", "published_as"),
    [
        ("Accepted", {"decision": "accepted"}, "accepted", "VehicleClassified"),
        ("Needs review", {"decision": "needs_review"}, "needs_review", "VehicleNeedsReview"),
        ("Rejected", {"rejected": {"reason": "empty", "detail": ""}}, "rejected", "PhotoRejected"),
    ],
)
def test_each_outcome_is_recorded_with_its_name_and_event_type(machine, state, given, outcome, published_as):
    tested = machine(state, given)

    assert tested["nextState"] == "Record"
    recorded = json.loads(tested["output"])
    assert (recorded["outcome"], recorded["detail_type"]) == (outcome, published_as)


@pytest.mark.parametrize("state", ["Serialize", "Classify", "Filter", "Record", "Publish"])
def test_a_permanent_fault_queues_the_input_for_a_replay(machine, state):
    tested = machine(state, {}, errorOutput={"error": "AccessDeniedException", "cause": "not authorized"})

    assert tested["status"] == "CAUGHT_ERROR"
    assert tested["nextState"] == "Notify"


def test_an_existing_result_is_not_a_fault(machine):
    failed = {"error": "DynamoDB.ConditionalCheckFailedException", "cause": "The conditional request failed"}

    assert machine("Record", {}, errorOutput=failed)["nextState"] == "Raise sequencer"
    assert machine("Raise sequencer", {}, errorOutput=failed)["nextState"] == "Already recorded"


def test_an_execution_fails_even_if_its_input_cannot_be_queued(machine):
    tested = machine("Keep input", {}, errorOutput={"error": "Sqs.SdkClientException", "cause": "no queue"})

    assert tested["nextState"] == "Failed"
