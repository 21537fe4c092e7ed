"""Random histories of photos, each of which ends with `scones forget`: it deletes or reports every trace.

A batch of photos lives through random steps at the same time. Afterwards every store of the local stack is
searched for each photo, whatever the inventory in pipeline/photo_copies.py says.
"""

import base64
import hashlib
import io
import json
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import pytest
from click.testing import CliRunner
from rich.progress import Progress

from functions.classify.capture import capture_path, format_record
from functions.serialize.photo import RejectedError, serialize
from local import capture_report
from local.stack import CAPTURE_BUCKET, ENDPOINT_NAME, Stack
from model.storage import list_prefix_versions
from pipeline import backfill, queue, sample_images
from pipeline.replay import replay
from pipeline.review_queue import ReviewQueue
from pipeline.stack import find_stack
from scones import cli
from tests.photo_ledger import record_figures
from tests.waiting import eventually

BATCH = 10
"""Photos that live at the same time."""
QUIET = Progress(disable=True)
DRAWN = (sample_images.bicycle, sample_images.motorcycle, sample_images.scone)


@dataclass
class Life:
    """A photo that was uploaded under a key, perhaps several times, and what its copies can be known by."""

    key: str
    address: str
    files: list[bytes] = field(default_factory=list)
    inference_ids: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)  # the ids with which the endpoint was asked
    steps: list[str] = field(default_factory=list)

    @property
    def pictures(self) -> dict[str, bytes]:
        """The bytes of every version and model input, their base64 and their hashes, by name."""
        traces = {}
        for number, file in enumerate(self.files):
            images = {"file": file}
            with suppress(RejectedError):
                images["input"] = base64.b64decode(serialize(io.BytesIO(file), 224)["image_data"])
            for name, image in images.items():
                traces[f"{name} {number}"] = image
                traces[f"base64 of {name} {number}"] = base64.b64encode(image)
        return traces

    @property
    def traces(self) -> dict[str, bytes]:
        names = self.pictures
        hashes = {
            f"sha256 of {name}": hashlib.sha256(image).hexdigest().encode()
            for name, image in names.items()
            if not name.startswith("base64")
        }
        ids = {f"inference id {one}": one.encode() for one in self.inference_ids}
        # as JSON and Python write it: a letter that is not ASCII is an escape in some stores
        keys = {
            "key": self.key.encode(),
            "key in JSON": json.dumps(self.key)[1:-1].encode(),
        }
        return names | hashes | ids | keys


class World:
    """A batch of photos, and neighbours that nobody forgets, whose keys begin with a photo's key."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self.stack, self.random = stack, random.Random(seed)
        self.here = find_stack(str(stack.description))
        self.s3, self.bucket = self.here.client("s3"), self.here.output("UploadBucketName")
        self.prefix = f"uploads/lives-{seed}-{uuid.uuid4().hex[:6]}/"
        keys = [f"{self.prefix}{n}{self.random.choice(['.png', ' ö".png', '.jpg'])}" for n in range(BATCH)]
        self.lives = [Life(key, f"s3://{self.bucket}/{key}") for key in keys]
        self.neighbours = [Life(f"{key}.png", f"s3://{self.bucket}/{key}.png") for key in keys[:2]]

    def faults(self, *faults: dict[str, object]) -> None:
        httpx.put(f"{self.stack.endpoint_url}/faults", json=list(faults)).raise_for_status()

    def live(self) -> None:
        """Give each photo an upload, then let random things happen to the photos in random order."""
        for life in (*self.neighbours, *self.lives):
            self.upload(life)
        steps: list[Callable[[Life], None]] = [self.upload, self.overwrite_in_an_outage, self.undelivered]
        steps += [self.delete, self.duplicate, self.review]
        for _ in range(2 * BATCH):
            step, life = self.random.choice(steps), self.random.choice(self.lives)
            life.steps.append(step.__name__)
            step(life)
        for step in self.random.sample([self.replay, self.backfill, self.review_all, self.report], k=4):
            step()
        self.settle()

    def upload(self, life: Life) -> None:
        picture = sample_images.picture(self.random.choice(DRAWN), self.random.randrange(10**6))
        file = sample_images.encoded(picture, "PNG") if self.random.random() < 0.9 else uuid.uuid4().bytes * 9
        self.s3.put_object(Bucket=self.bucket, Key=life.key, Body=file)
        life.files.append(file)

    def overwrite_in_an_outage(self, life: Life) -> None:
        """Upload a version whose execution fails: the endpoint refuses it."""
        self.settle()
        self.faults({"place": "endpoint", "status": 400, "body": "{}"})
        self.upload(life)
        self.settle()
        self.faults()

    def undelivered(self, life: Life) -> None:
        """Upload a version whose event goes to the rule's dead-letter queue."""
        self.settle()
        self.faults({"place": "target:ClassifyStateMachine"})
        self.upload(life)
        time.sleep(1)
        self.faults()

    def delete(self, life: Life) -> None:
        self.s3.delete_object(Bucket=self.bucket, Key=life.key)

    def duplicate(self, life: Life) -> None:
        """Deliver an event again."""
        detail = {"bucket": {"name": self.bucket}, "object": {"key": life.key}}
        self.here.start_execution("StateMachineArn", {"id": uuid.uuid4().hex, "detail": detail})

    def review(self, life: Life) -> None:
        self.review_all(share=0.3)

    def review_all(self, share: float = 0.5) -> None:
        """Answer some of the photos that wait for review; release the rest."""
        reviewer, held = ReviewQueue(self.here, "a person"), []
        while item := reviewer.receive():
            if item.detail["key"].startswith(self.prefix) and self.random.random() < share:
                reviewer.answer(item, "other")
            else:
                held.append(item)
        for item in held:
            reviewer.release(item)

    def replay(self) -> None:
        replay(self.here, QUIET)

    def backfill(self) -> None:
        backfill.follow(self.here, backfill.start(self.here, self.prefix, None, 100), QUIET)

    def report(self) -> None:
        if any(file.is_file() for file in self.stack.captures.rglob("*.jsonl")):
            capture_report.write_page(self.stack)

    def settle(self) -> None:
        """Wait until no execution runs."""
        running = {"stateMachineArn": self.here.output("StateMachineArn"), "statusFilter": "RUNNING"}
        step_functions = self.here.client("stepfunctions")
        eventually(lambda: not step_functions.list_executions(**running)["executions"])

    def learn_ids(self) -> None:
        """Note the inference ids of all photos, from the histories of their executions."""
        by_key = {life.key: life for life in self.lives}
        for described, history in self.histories():
            started = json.loads(described["input"])
            if life := by_key.get(started.get("detail", {}).get("object", {}).get("key")):
                text = json.dumps(history, default=str).replace("\\", "")
                ids = set(re.findall(r'"inference_id": ?"([^"]+)"', text))
                life.inference_ids |= ids
                life.asked |= ids if '"name": "Classify"' in text else set()

    def histories(self) -> Iterator[tuple[dict, list[dict]]]:
        """Yield what is known of each execution, of backfills' children too, and its history."""
        step_functions = self.here.client("stepfunctions")
        machines = [self.here.output(name) for name in ("StateMachineArn", "BackfillStateMachineArn")]
        arns = []
        for machine in machines:
            pages = step_functions.get_paginator("list_executions").paginate(stateMachineArn=machine)
            arns += [one["executionArn"] for one in pages.search("executions[]")]
        for arn in [one for one in arns if "Backfill" in one]:
            for run in step_functions.list_map_runs(executionArn=arn)["mapRuns"]:
                pages = step_functions.get_paginator("list_executions").paginate(mapRunArn=run["mapRunArn"])
                arns += [one["executionArn"] for one in pages.search("executions[]")]
        for arn in arns:
            pages = step_functions.get_paginator("get_execution_history").paginate(executionArn=arn)
            yield step_functions.describe_execution(executionArn=arn), [*pages.search("events[]")]

    def stores(self) -> Iterator[tuple[str, bytes]]:
        """Yield everything that the local stack stores: a name, which `forget` reports, and the content."""
        yield from self.objects()
        yield from self.items()
        yield from self.messages()
        for execution in self.histories():
            # states contain JSON in JSON in JSON
            text = json.dumps(execution, ensure_ascii=False, default=str).replace("\\", "")
            yield execution[0]["executionArn"], text.encode()
        logs = self.here.client("logs")
        for group in logs.describe_log_groups()["logGroups"]:
            lines = logs.get_paginator("filter_log_events").paginate(logGroupName=group["logGroupName"])
            for event in lines.search("events[]"):
                yield group["logGroupName"], event["message"].encode()
        for file in self.stack.home.rglob("*"):
            # the functions' code is no store
            if file.is_file() and "build" not in file.relative_to(self.stack.home).parts:
                yield str(file), file.read_bytes()

    def objects(self) -> Iterator[tuple[str, bytes]]:
        for bucket in self.s3.list_buckets()["Buckets"]:
            for one in list_prefix_versions(self.s3, bucket["Name"], ""):
                if not one["Key"].isprintable():  # of another test; the emulator's XML changes some of these
                    continue
                where = f"s3://{bucket['Name']}/{one['Key']}"
                version = {"Bucket": bucket["Name"], "Key": one["Key"], "VersionId": one["VersionId"]}
                body = self.s3.get_object(**version)["Body"].read() if "Size" in one else b""
                yield where, where.encode() + b"\n" + body

    def items(self) -> Iterator[tuple[str, bytes]]:
        dynamodb = self.here.client("dynamodb")
        for table in dynamodb.list_tables()["TableNames"]:
            for page in dynamodb.get_paginator("scan").paginate(TableName=table):
                for item in page["Items"]:
                    yield table, json.dumps(item, ensure_ascii=False, default=str).encode()

    def messages(self) -> Iterator[tuple[str, bytes]]:
        sqs = self.here.client("sqs")
        for url in sqs.list_queues()["QueueUrls"]:
            held = []
            while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
                held += messages
            for message in held:
                receipt = {"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]}
                sqs.change_message_visibility(**receipt, VisibilityTimeout=0)
                yield url, json.dumps(message, ensure_ascii=False).replace("\\", "").encode()
                yield url, message["Body"].encode()


def forget(world: World, life: Life) -> dict:
    arguments = ["forget", life.address, "--stack", str(world.stack.description), "--json", "--wait", "120"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.stdout, done.output
    report = json.loads(done.stdout.splitlines()[0])
    assert done.exit_code == (1 if report["left"] else 0)
    return report


def capture_late(world: World, life: Life) -> None:
    """Write a capture of each of the photo's answers, as an endpoint that was slow to write it."""
    now = datetime.now(UTC)
    ours = [format_record(b"late", "image/png", "[0, 1]", one, now) for one in sorted(life.asked)]
    others = format_record(b"another", "image/png", "[0, 1]", "another", now)
    key = f"captures/{capture_path(ENDPOINT_NAME, now)}"
    world.s3.put_object(Bucket=CAPTURE_BUCKET, Key=key, Body="".join([*ours, others]).encode())


def search(world: World, lives: list[Life]) -> dict[str, set[tuple[str, str]]]:
    """Find each photo's traces in every store: the name of the store and of the trace."""
    found: dict[str, set[tuple[str, str]]] = {life.key: set() for life in lives}
    traces = {life.key: life.traces for life in lives}
    for where, content in world.stores():
        for key, of_photo in traces.items():
            found[key] |= {(where, name) for name, trace in of_photo.items() if occurs(trace, content)}
    return found


def occurs(trace: bytes, content: bytes) -> bool:
    """Whether a trace occurs, but not as the beginning of a longer key, which is a neighbour's."""
    return trace in content.replace(trace + b".png", b"")


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.verify) for seed in range(1, 20))]
)
def test_forget_deletes_or_reports_every_trace(stack, seed, monkeypatch):
    monkeypatch.setattr(queue, "EMPTY_AFTER", 0)
    world = World(stack, seed)
    world.live()
    of_neighbours = search(world, world.neighbours)
    for life in world.random.sample(world.lives, k=3):
        world.upload(life)  # in flight when it is forgotten

    reports = {life.key: [forget(world, life)] for life in world.lives}
    world.settle()
    world.learn_ids()
    late = [life for life in world.random.sample(world.lives, k=3) if life.asked]
    for life in late:
        capture_late(world, life)
    for life in world.lives:
        if life in late or reports[life.key][0]["left"]:
            reports[life.key].append(forget(world, life))

    for life in late:
        assert "capture" in {one["kind"] for one in reports[life.key][-1]["deleted"]}, life.steps
    found = search(world, [*world.lives, *world.neighbours])
    for life in world.lives:
        assert reports[life.key][-1]["left"] == []
        reported = [one["where"] for report in reports[life.key] for one in report["goes_by_itself"]]
        unreported = {one for one in found[life.key] if not any(map(one[0].startswith, reported))}
        assert unreported == set(), (seed, life.key, life.steps)
    for life in world.neighbours:
        assert (f"s3://{world.bucket}/{life.key}", "file 0") in of_neighbours[life.key]
        assert of_neighbours[life.key] <= found[life.key]
    record_figures(histories=len(world.lives))
