"""However uploads, events, failures, replays and backfills interleave, the last version's result stands.

The state machines' own expressions run in an implementation of JSONata, their conditions in moto's DynamoDB.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from moto import mock_aws

from tests.executions import Expressions
from tests.state_machines import TaskFailedError, Walk, definition

KEY = "uploads/a.jpg"
ENDPOINT = {"EndpointName": "vehicles"}
CLASSIFY = definition("ClassifyStateMachine", **ENDPOINT)
TABLE = CLASSIFY["States"]["Record"]["Arguments"]["TableName"]
BACKFILL = definition("BackfillStateMachine", **ENDPOINT)["States"]["Each photo"]["ItemProcessor"]
BUCKET = BACKFILL["States"]["Which version"]["Arguments"]["Bucket"]
START = datetime(2026, 12, 1, 9, 0, 0, tzinfo=UTC)
DOWN = TaskFailedError("EndpointError", "down")
EXPRESSIONS = Expressions()


def in_seconds(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True)
class Version:
    """An upload; ``number`` is its place in S3's order."""

    number: int
    stored_at: datetime

    @property
    def id(self) -> str:
        return f"version-{self.number}"

    def event(self) -> dict[str, Any]:
        sequencer = f"{0xA0 + 7 * self.number:04X}"
        stored = {"key": KEY, "version-id": self.id, "etag": self.id, "size": 1, "sequencer": sequencer}
        detail = {"bucket": {"name": BUCKET}, "object": stored}
        return {"id": f"event-{self.number}", "time": in_seconds(self.stored_at), "detail": detail}


@dataclass(frozen=True)
class Started:
    """An execution that has read its photo, and not recorded its result yet."""

    id: str
    given: dict[str, Any]
    version: Version
    fails: bool


class Execution(Walk):
    """An execution with an id of its own, at the time of the world."""

    def __init__(self, machine: dict[str, Any], given: Any, task: Any, name: str, world: "World") -> None:
        super().__init__(machine, given, task, EXPRESSIONS, set())
        self.name, self.world = name, world

    @property
    def context(self) -> dict[str, Any]:
        context = super().context
        context["Execution"]["Id"] = self.name
        return context

    def _now(self) -> str:
        return self.world.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _wait(self, state: dict[str, Any], given: Any) -> tuple[str | None, Any]:
        after = super()._wait(state, given)
        self.world.now += timedelta(seconds=self.waited[-1])
        return after


class World(RuleBasedStateMachine):
    """One key in the bucket, the executions about it, the failed queue, and the results table."""

    @initialize()
    def begin(self) -> None:
        self._mock = mock_aws()
        self._mock.start()
        self.table = boto3.client("dynamodb", region_name="us-east-1")
        self.table.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "photo", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "photo", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.now, self.names = START, 0
        self.versions: list[Version] = []
        self.deleted = False
        self.down = False
        self.events: list[dict[str, Any]] = []
        self.started: list[Started] = []
        self.failed: list[dict[str, Any]] = []
        self.finished: set[int] = set()
        self.published: list[str] = []

    def teardown(self) -> None:
        if hasattr(self, "_mock"):
            self._mock.stop()

    # ── What happens ─────────────────────────────────────────────────────────────────────────────────

    @rule(seconds=st.sampled_from([0.3, 1, 6]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(lost=st.booleans())
    def upload(self, *, lost: bool) -> None:
        """S3 may deliver the event later, twice, or never."""
        self.now += timedelta(milliseconds=1)
        version = Version(len(self.versions), self.now.replace(microsecond=0))
        self.versions.append(version)
        self.deleted = False
        if not lost:
            self.events.append(version.event())

    @rule()
    def delete(self) -> None:
        """Add a delete marker, which starts nothing; its versions can still be read."""
        self.deleted = True

    @rule()
    def outage_begins_or_ends(self) -> None:
        self.down = not self.down

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def event_arrives(self, data: st.DataObject) -> None:
        """It stays, because it may arrive again."""
        self.start(data.draw(st.sampled_from(self.events)))

    @precondition(lambda self: self.failed)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.failed) - 1))
        self.start(self.failed.pop(number))

    @precondition(lambda self: self.versions and not self.deleted)
    @rule()
    def backfill(self) -> None:
        """It reads the current version and its result; what it starts may record much later."""

        def task(name: str, arguments: Any) -> Any:
            match name:
                case "Which version":
                    current = self.versions[-1]
                    stored = {"VersionId": current.id, "ETag": f'"{current.id}"', "ContentLength": 1}
                    return stored | {"LastModified": in_seconds(current.stored_at)}
                case "Its result":
                    return self.table.get_item(**arguments)
            self.start(arguments["Input"])
            return {"Output": {"outcome": "accepted"}}

        Execution(BACKFILL, {"Key": KEY}, task, self.name(), self).run()

    @precondition(lambda self: self.started)
    @rule(data=st.data())
    def execution_ends(self, data: st.DataObject) -> None:
        self.finish(data.draw(st.integers(0, len(self.started) - 1)))

    # ── How ──────────────────────────────────────────────────────────────────────────────────────────

    def name(self) -> str:
        self.names += 1
        return f"execution-{self.names}"

    def start(self, given: dict[str, Any]) -> None:
        number = int(given["detail"]["object"]["version-id"].removeprefix("version-"))
        self.started.append(Started(self.name(), given, self.versions[number], self.down))

    def finish(self, number: int) -> None:
        started = self.started.pop(number)

        stored = {"sha256": "0" * 64, "uploaded_at": in_seconds(started.version.stored_at)}
        answers = {
            "Serialize": {"image_data": "", "content_type": "image/jpeg", **stored},
            "Classify": {"inferences": [0.9, 0.1]},
            "Filter": {"decision": "accepted", "label": "bicycle", "confidence": 0.9, "reason": "sure"},
        }

        def task(name: str, arguments: Any) -> Any:
            match name:
                case "Classify" if started.fails:
                    raise DOWN
                case "Record" | "Raise sequencer":
                    return self.call("put_item" if name == "Record" else "update_item", arguments)
                case "Keep input":
                    self.failed.append(json.loads(arguments["MessageBody"]))
                case "Publish":
                    self.published.append(started.version.id)
            return {"Payload": answers.get(name, {})}

        walk = Execution(CLASSIFY, started.given, task, started.id, self).run()
        if walk.error is None:
            self.finished.add(started.version.number)

    def call(self, operation: str, arguments: Any) -> Any:
        try:
            return getattr(self.table, operation)(**arguments)
        except ClientError as error:
            raise TaskFailedError(f"DynamoDB.{error.response['Error']['Code']}") from error

    def recorded(self) -> dict[str, Any]:
        return self.table.get_item(
            TableName=TABLE, Key={"photo": {"S": f"s3://{BUCKET}/{KEY}"}}, ConsistentRead=True
        ).get("Item", {})

    # ── What holds ───────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def the_last_version_that_was_classified_stands(self) -> None:
        if hasattr(self, "finished") and self.finished:
            assert self.recorded()["version_id"]["S"] == f"version-{max(self.finished)}"

    @invariant()
    def each_version_is_published_once(self) -> None:
        if hasattr(self, "published"):
            assert len(self.published) == len(set(self.published))


def run(examples: int) -> None:
    run_state_machine_as_test(
        World,
        settings=settings(max_examples=examples, stateful_step_count=25, deadline=None, derandomize=True),
    )


def test_the_last_version_wins():
    run(40)


@pytest.mark.verify
def test_the_last_version_wins_in_many_histories():
    run(1000)


@pytest.fixture
def world():
    world = World()
    world.begin()
    yield world
    world.teardown()


def finish_all(world: World) -> None:
    while world.started:
        world.finish(0)


def recorded(world: World) -> str:
    return world.recorded()["version_id"]["S"]


def test_a_replay_after_a_backfill_does_not_bring_back_the_earlier_version(world):
    """Both versions failed in the same outage."""
    world.outage_begins_or_ends()
    for _ in range(2):
        world.time_passes(seconds=6)
        world.upload(lost=False)
    for event in world.events:
        world.start(event)
    finish_all(world)
    world.outage_begins_or_ends()
    world.time_passes(seconds=6)
    world.backfill()
    finish_all(world)

    for failed in reversed(world.failed):
        world.start(failed)
    finish_all(world)

    assert recorded(world) == "version-1"


def test_an_earlier_event_of_the_same_second_does_not_replace_a_backfills_result(world):
    world.upload(lost=False)
    world.upload(lost=True)
    world.time_passes(seconds=6)
    world.backfill()
    finish_all(world)

    world.start(world.events[0])
    finish_all(world)

    assert recorded(world) == "version-1"


def test_a_backfill_replaces_the_result_of_an_earlier_version_of_the_same_second(world):
    world.upload(lost=False)
    world.upload(lost=True)
    world.start(world.events[0])
    finish_all(world)
    world.time_passes(seconds=6)

    world.backfill()
    finish_all(world)

    assert recorded(world) == "version-1"


def test_a_backfill_waits_until_the_second_of_a_version_is_over(world):
    """Before that, an upload of the same second could follow, and its time would not be later."""
    world.upload(lost=True)
    before = world.now

    world.backfill()

    assert world.now >= before + timedelta(seconds=5)


def test_an_event_of_the_recorded_version_orders_it_exactly(world):
    """S3's time of a multipart upload may be that of its beginning, before an upload that it replaces."""
    world.upload(lost=False)
    world.versions.append(Version(1, world.now - timedelta(seconds=30)))
    world.time_passes(seconds=6)
    world.backfill()
    finish_all(world)
    world.start(world.versions[1].event())
    finish_all(world)

    world.start(world.events[0])
    finish_all(world)

    assert recorded(world) == "version-1"
    assert world.published == ["version-1"]
