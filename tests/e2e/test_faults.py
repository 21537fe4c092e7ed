"""Whatever fails in AWS, no photo is lost or counted twice, and a replay empties the failed queue."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from click.testing import CliRunner

from local import processes
from local.stack import Stack
from pipeline import sample_images
from scones import cli
from tests.photo_ledger import Balance, PhotoLedger, open_ledger, record_balance
from tests.waiting import eventually

VEHICLE = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1))
SCONE = sample_images.encoded(sample_images.picture(sample_images.scone, seed=1))
BAD = b"no photo"

PAUSE_SCALE = 0.02
"""The length of the pauses between the state machine's attempts, relative to its definition."""


class Faults:
    """The faults of the emulator."""

    def __init__(self, stack: Stack) -> None:
        self.url = f"{stack.endpoint_url}/faults"
        self.config = f"{stack.endpoint_url}/_ministack/config"

    def set(self, *faults: dict[str, Any]) -> None:
        httpx.put(self.url, json=faults).raise_for_status()

    def release(self) -> None:
        httpx.delete(self.url).raise_for_status()

    def struck(self, place: str) -> int:
        return int(httpx.get(self.url).json().get(place, 0))

    def scale_pauses(self, scale: float) -> None:
        httpx.post(self.config, json={"stepfunctions._SFN_WAIT_SCALE": scale}).raise_for_status()


@pytest.fixture
def faults(stack) -> Iterator[Faults]:
    faults = Faults(stack)
    faults.scale_pauses(PAUSE_SCALE)
    yield faults
    faults.release()
    faults.set()
    faults.scale_pauses(1)


@pytest.fixture
def ledger(stack, request) -> Iterator[PhotoLedger]:
    with open_ledger(stack, f"uploads/faults/{time.time_ns()}/") as opened:
        yield opened


def send(ledger: PhotoLedger, count: int = 6) -> None:
    """Send photos of all three outcomes."""
    for number in range(count):
        body = (VEHICLE, SCONE, BAD)[number % 3]
        ledger.send(f"{ledger.prefix}{number:03}.jpg", body)


def replay(stack: Stack) -> None:
    result = CliRunner().invoke(cli, ["replay", "--stack", str(stack.description)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def assert_recovers(
    stack: Stack, ledger: PhotoLedger, faults: Faults, *, failed: int | None = None
) -> Balance:
    """The balance adds up now, and is complete after the faults end and a replay."""
    before = ledger.settle()
    failed_at_first = bool(before.failed)
    before.assert_adds_up()
    if failed is not None:
        assert len(before.failed) == failed
    faults.set()
    if before.failed:
        replay(stack)
    after = ledger.settle()
    record_balance(after, faults_injected=1, replays=int(failed_at_first))
    after.assert_complete()
    return after


def endpoint(status: int, body: str = "{}", error: str = "", **more: Any) -> dict[str, Any]:
    """The endpoint answers with this instead."""
    return {
        "place": "endpoint",
        "status": status,
        "body": body,
        "headers": {"x-amzn-errortype": error},
    } | more


def service(place: str, error: str, **more: Any) -> dict[str, Any]:
    """A call of the state machine fails."""
    return {"place": place, "error": error} | more


REFUSAL = {"error": "busy", "retry_after": 2}
BUSY = json.dumps({"Message": "busy", "OriginalStatusCode": 429, "OriginalMessage": json.dumps(REFUSAL)})
SLOW_DOWN = "<Error><Code>SlowDown</Code></Error>"

# Faults that end within the state machine's attempts: nothing fails.
TRANSIENT = {
    "the endpoint is throttled": [endpoint(400, error="ThrottlingException", times=20)],
    "the endpoint is busy": [endpoint(424, BUSY, error="ModelError", times=20)],
    "a third of the endpoint's answers is a 503": [endpoint(503, error="ServiceUnavailable", every=3)],
    "the table is throttled": [service("dynamodb:putItem", "DynamoDB.ThrottlingException", times=8)],
    "the table's answer is lost": [service("dynamodb:putItem", "States.Timeout", times=2, answer_lost=True)],
    "the bus is throttled": [service("events:putEvents", "EventBridge.ThrottlingException", times=8)],
    "functions are throttled": [service("lambda:invoke", "Lambda.TooManyRequestsException", every=2)],
    "S3 is throttled": [{"place": "s3", "status": 503, "body": SLOW_DOWN, "every": 3}],
}
# Faults that persist: photos fail and are replayed.
UNUSABLE_ANSWERS = {
    "the endpoint's answer is empty": [endpoint(200, "")],
    "the endpoint's answer is not JSON": [endpoint(200, "<html>")],
    "the endpoint answers too few numbers": [endpoint(200, "[0.5, 0.5]")],
    "the endpoint answers NaN": [endpoint(200, "[NaN, 0.5, 0.5]")],
    "the endpoint's numbers do not add up to 1": [endpoint(200, "[0.9, 0.9, 0.9]")],
    "the endpoint is gone": [endpoint(400, error="ValidationError")],
}
REFUSED = {
    "the table refuses": [service("dynamodb:putItem", "DynamoDB.AccessDeniedException")],
    "the bus refuses": [service("events:putEvents", "EventBridge.AccessDeniedException")],
    "the table is throttled for good": [service("dynamodb:putItem", "DynamoDB.ThrottlingException")],
    "S3 is down": [{"place": "s3", "status": 500, "body": "<Error><Code>InternalError</Code></Error>"}],
}


def quick(names: dict[str, Any], *in_make_test: str) -> list[Any]:
    """Parameters, of which `make test` uses only some."""
    return [pytest.param(name, marks=() if name in in_make_test else pytest.mark.verify) for name in names]


@pytest.mark.parametrize(
    "name", quick(TRANSIENT, "a third of the endpoint's answers is a 503", "the table's answer is lost")
)
def test_a_transient_fault_fails_no_photo(name, stack, faults, ledger):
    faults.set(*TRANSIENT[name])
    send(ledger)

    assert_recovers(stack, ledger, Expected(faults, stack, TRANSIENT[name][0]["place"]), failed=0)


@pytest.mark.parametrize("name", quick(UNUSABLE_ANSWERS, "the endpoint answers NaN"))
def test_an_unusable_answer_fails_the_photo_until_a_replay(name, stack, faults, ledger):
    faults.set(*UNUSABLE_ANSWERS[name])
    send(ledger)

    assert_recovers(stack, ledger, Expected(faults, stack, "endpoint"), failed=4)


@pytest.mark.parametrize("name", quick(REFUSED, "the bus refuses"))
def test_a_service_that_refuses_every_photo_fails_each_until_a_replay(name, stack, faults, ledger):
    faults.set(*REFUSED[name])
    send(ledger)

    assert_recovers(stack, ledger, Expected(faults, stack, REFUSED[name][0]["place"]), failed=6)


class Expected:
    """Faults that must have struck before they end; otherwise a test would prove nothing."""

    def __init__(self, faults: Faults, stack: Stack, place: str) -> None:
        self.faults, self.place = faults, place

    def set(self) -> None:
        assert self.faults.struck(self.place) > 0
        self.faults.set()


def test_a_result_that_the_review_queue_refuses_is_replayed_from_the_failed_queue(stack, faults, ledger):
    faults.set({"place": "target:ReviewQueue"})
    send(ledger)

    assert_recovers(stack, ledger, Expected(faults, stack, "target:ReviewQueue"), failed=2)


@pytest.mark.verify
def test_an_upload_that_cannot_start_the_workflow_waits_in_the_failed_queue(stack, faults, ledger):
    faults.set({"place": "target:ClassifyStateMachine"})
    send(ledger)

    assert_recovers(stack, ledger, Expected(faults, stack, "target:ClassifyStateMachine"), failed=6)


@pytest.mark.verify
def test_an_event_whose_answer_is_lost_is_published_again(stack, faults, ledger):
    faults.set(service("events:putEvents", "States.Timeout", times=1, answer_lost=True))
    ledger.send(f"{ledger.prefix}once.jpg", VEHICLE)

    balance = ledger.settle()

    record_balance(balance, faults_injected=1, repeated_events=len(balance.double))
    assert balance.published.total() == 2
    assert balance.outcomes == {f"{ledger.prefix}once.jpg": "accepted"}
    assert not balance.failed


@pytest.mark.parametrize("function", ["classify", pytest.param("serialize", marks=pytest.mark.verify)])
def test_a_function_that_is_killed_is_run_again(function, stack, faults, ledger):
    place = {"classify": "endpoint", "serialize": "s3"}[function]
    faults.set({"place": place, "held": True, "times": 1})
    send(ledger, 1)
    eventually(lambda: faults.struck(place))

    for worker in workers(stack, function):
        worker.kill()
    faults.release()

    assert_recovers(stack, ledger, Expected(faults, stack, place), failed=0)


def workers(stack: Stack, function: str) -> list[psutil.Process]:
    """The processes that run a function."""
    name = stack.outputs[f"{function.capitalize()}FunctionName"]
    emulator = server(stack, "the emulator")
    alive = [child for child in emulator.children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if child.environ().get("AWS_LAMBDA_FUNCTION_NAME") == name]


def server(stack: Stack, name: str) -> psutil.Process:
    (entry,) = [one for one in processes.registered(stack.home / "processes.json") if one["name"] == name]
    return psutil.Process(entry["pid"])


@pytest.mark.verify
def test_slow_answers_are_waited_for_and_requested_again(stack, faults, ledger):
    # One more than classify's own attempts: the state machine's second begins the last.
    faults.set({"place": "endpoint", "seconds": 17, "times": 4})
    ledger.send(f"{ledger.prefix}slow.jpg", VEHICLE)

    assert_recovers(stack, ledger, Expected(faults, stack, "endpoint"), failed=0)


def test_a_photo_deleted_before_it_is_read_is_missing(stack, faults, ledger):
    key = f"{ledger.prefix}deleted.jpg"
    faults.set({"place": "s3", "held": True, "times": 1})
    ledger.send(key, VEHICLE)
    eventually(lambda: faults.struck("s3"))
    s3, bucket = stack.client("s3"), stack.outputs["UploadBucketName"]
    (version,) = s3.list_object_versions(Bucket=bucket, Prefix=key)["Versions"]

    s3.delete_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])
    faults.release()

    assert assert_recovers(stack, ledger, Expected(faults, stack, "s3")).outcomes == {key: "rejected"}


def test_a_photo_overwritten_before_it_is_read_has_the_later_ones_result(stack, faults, ledger):
    key = f"{ledger.prefix}overwritten.jpg"
    faults.set({"place": "s3", "held": True, "times": 1})
    ledger.send(key, VEHICLE)
    eventually(lambda: faults.struck("s3"))

    ledger.send(key, BAD)
    faults.release()
    balance = ledger.settle()

    record_balance(balance, faults_injected=1)
    assert balance.outcomes == {key: "rejected"}
    assert not balance.failed


@pytest.mark.verify
def test_a_stream_goes_on_while_the_endpoint_is_down_for_thirty_seconds(stack, faults, ledger):
    faults.scale_pauses(1)
    stream = threading.Thread(target=trickle, args=(ledger, 60, 1.0))
    stream.start()
    time.sleep(5)

    server(stack, "the endpoint").terminate()
    time.sleep(30)
    processes.start([stack._endpoint()], stack.home / "processes.json")
    stream.join()

    assert_recovers(stack, ledger, faults, failed=0)


def trickle(ledger: PhotoLedger, count: int, pause: float) -> None:
    for number in range(count):
        ledger.send(f"{ledger.prefix}{number:03}.jpg", (VEHICLE, SCONE, BAD)[number % 3])
        time.sleep(pause)
