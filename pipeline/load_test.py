"""Send photos through a stack and report the outcome of every one of them."""

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from typing import Any

from rich.progress import Progress

from model.storage import delete_objects, list_prefix_versions
from pipeline.stack import Stack, lists_executions
from pipeline.subscription import PROBE, Subscription, subscribed

PREFIX = "uploads/traffic/"
"""The key prefix of all load tests; each has a folder of its own below it."""
SENDERS = 8
"""Concurrent uploads."""
VARIANTS = 24
"""Pictures drawn of each kind; they are sent repeatedly."""
SETTLING = 3.0
"""Seconds to keep listening for second outcomes after every photo has one."""
QUIET = 5.0
"""Seconds without an event after which to look for failed executions."""
FAILED = ("FAILED", "TIMED_OUT", "ABORTED")
"""Step Functions' statuses of executions that ended without success."""
BATCH = 100
"""Items that DynamoDB returns at most per call (API Reference, BatchGetItem)."""
CLOCK_TOLERANCE = timedelta(minutes=5)
"""By how much this machine's clock may be wrong."""


class LoadTestError(Exception):
    """The load test cannot be planned; the message says why."""


@dataclass(frozen=True)
class LoadTestReport:
    """The number of photos by what happened to them.

    Each photo sent is accepted, in review, rejected, failed or missing. The first three count only if the
    outcome is in the results table and was published on the results bus.
    """

    sent: int
    accepted: int
    needs_review: int
    rejected: int
    failed: int  # without an outcome, because their execution failed
    missing: int  # with neither an outcome nor a failed execution
    double: int  # with more than one published outcome
    seconds: float  # from the first upload to the last outcome

    @property
    def passed(self) -> bool:
        """Whether every photo has exactly one outcome."""
        return not (self.failed or self.missing or self.double)


@dataclass(frozen=True)
class Photo:
    """A photo to send: its key in the bucket, its content, and whether to deliver its event twice."""

    key: str
    content: bytes | Path
    duplicate: bool

    def read(self) -> bytes:
        """Return the file."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content


@dataclass
class PhotoStatus:
    """What is known about a photo that was sent: its published outcomes by event id, or that it failed."""

    published: dict[str, str] = field(default_factory=dict)
    failed: bool = False

    @property
    def finished(self) -> bool:
        """Whether the photo has an outcome or has failed."""
        return bool(self.published) or self.failed


def plan_photos(
    prefix: str, burst: int, folder: Path | None, *, bad: float, other: float, duplicates: float
) -> list[Photo]:
    """Plan `burst` photos, in random order, from a folder or, if it is ``None``, drawn.

    `bad`, `other` and `duplicates` are the share, from 0 to 1, of unreadable files, of photos without a
    vehicle (both are drawn), and of photos whose event is delivered twice.
    """
    bad_count, other_count, duplicate_count = (round(burst * share) for share in (bad, other, duplicates))
    vehicles = find_photos(folder) if folder else draw("bicycle", "motorcycle")
    contents = [
        *itertools.islice(itertools.cycle(make_bad_files()), bad_count),
        *itertools.islice(itertools.cycle(draw("scone")), other_count),
        *itertools.islice(itertools.cycle(vehicles), burst - bad_count - other_count),
    ]
    rng = random.Random(prefix)  # noqa: S311  an order, not a secret
    rng.shuffle(contents)
    duplicated = set(rng.sample(range(burst), duplicate_count))
    folders = [duplicates_prefix(prefix) if number in duplicated else prefix for number in range(burst)]
    return [
        Photo(f"{folders[number]}{number:06}-{name}", content, number in duplicated)
        for number, (name, content) in enumerate(contents)
    ]


def duplicates_prefix(prefix: str) -> str:
    """Return the key prefix of the photos whose event is delivered twice."""
    return f"{prefix}twice/"


def find_photos(folder: Path) -> list[tuple[str, bytes | Path]]:
    """Return the name and path of each photo in a folder and its subfolders."""
    from model.photo import SUFFIXES  # noqa: PLC0415  imports Pillow, which `scones --help` does without

    found = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not found:
        raise LoadTestError(f"{folder} has no photos in it (files ending in {', '.join(sorted(SUFFIXES))}).")
    return [(file.name, file) for file in found]


def draw(*subjects: str) -> Iterator[tuple[str, bytes]]:
    """Draw pictures of subjects of `sample_images`, in turn."""
    for seed, subject in itertools.product(range(VARIANTS), subjects):
        yield f"{subject}.jpg", _draw(subject, seed)


def make_bad_files() -> list[tuple[str, bytes]]:
    """Return files that are not photos: an incomplete upload, a text, an empty file."""
    photo = _draw("bicycle", 0)
    return [("broke-off.jpg", photo[: len(photo) // 2]), ("text.jpg", b"Not a photo.\n"), ("empty.jpg", b"")]


def _draw(subject: str, seed: int) -> bytes:
    from pipeline import sample_images  # noqa: PLC0415  imports Pillow, which `scones --help` does without

    return sample_images.encoded(sample_images.picture(getattr(sample_images, subject), seed))


class LoadTest:
    """Sends photos through a stack and follows them until each has an outcome.

    `prefix` is the start of these photos' keys, and of no others. `rate` is in photos per second; ``None`` is
    as fast as possible. After `patience` seconds without an event, unfinished photos count as missing.
    """

    def __init__(
        self,
        stack: Stack,
        prefix: str,
        photos: Sequence[Photo],
        progress: Progress,
        *,
        rate: float | None = None,
        patience: float = 120,
    ) -> None:
        self.stack, self.prefix, self.photos = stack, prefix, photos
        self.progress, self.rate, self.patience = progress, rate, patience
        self.statuses = {photo.key: PhotoStatus() for photo in photos}
        self.pending_duplicates = {photo.key for photo in photos if photo.duplicate}
        self.running_duplicates: set[str] = set()
        self.inspected: set[str] = set()
        self.lists_executions = lists_executions(
            stack.client("stepfunctions"), stack.output("StateMachineArn")
        )
        self.ended = threading.Event()
        self.began_at = datetime.now(UTC)
        self.last_outcome_at = 0.0

    def run(self) -> LoadTestReport:
        """Send the photos, follow them and report what happened to them."""
        name = f"scones-traffic-{self.prefix.rstrip('/').rpartition('/')[2]}"
        with subscribed(self.stack, name, self._patterns()) as subscription:
            subscription.wait_until_active(self._probes())
            started_at = time.monotonic()
            self.last_outcome_at = started_at
            with ThreadPoolExecutor(SENDERS) as senders:
                try:
                    interval = 1 / self.rate if self.rate else 0
                    uploads = [
                        senders.submit(self._send, photo, started_at + number * interval)
                        for number, photo in enumerate(self.photos)
                    ]
                    self._follow(subscription, uploads)
                finally:
                    self.ended.set()
        return self._report(self.last_outcome_at - started_at)

    def _patterns(self) -> dict[str, dict[str, Any]]:
        """Match the outcomes of all photos, and the upload events that are delivered twice."""
        outcomes = {
            "source": ["scones.vehicle-classifier", PROBE],
            "detail": {"key": [{"prefix": self.prefix}]},
        }
        uploads = {
            "source": ["aws.s3", PROBE],
            "detail": {"object": {"key": [{"prefix": duplicates_prefix(self.prefix)}]}},
        }
        patterns = {self.stack.output("ResultsBusName"): outcomes}
        return patterns | ({"default": uploads} if self.pending_duplicates else {})

    def _probes(self) -> dict[str, dict[str, Any]]:
        probes: dict[str, dict[str, Any]] = {self.stack.output("ResultsBusName"): {"key": self.prefix}}
        upload = {"object": {"key": duplicates_prefix(self.prefix)}}
        return probes | ({"default": upload} if self.pending_duplicates else {})

    def _send(self, photo: Photo, due: float) -> None:
        """Upload a photo when it is due, unless the test has ended by then."""
        if not self.ended.wait(max(0.0, due - time.monotonic())):
            self.stack.client("s3").put_object(
                Bucket=self.stack.output("UploadBucketName"), Key=photo.key, Body=photo.read()
            )

    def _follow(self, subscription: Subscription, uploads: Sequence[Future[None]]) -> None:
        """Receive events until every photo is finished, or none has arrived for too long."""
        sent_bar = self.progress.add_task("Sent", total=len(self.photos))
        finished_bar = self.progress.add_task("Finished", total=len(self.photos))
        last_event_at = time.monotonic()
        settled_at = None
        while settled_at is None or time.monotonic() - settled_at < SETTLING:
            for event in subscription.received():
                self._handle(event)
                last_event_at = time.monotonic()
            done = [upload for upload in uploads if upload.done()]
            for upload in done:
                upload.result()
            if len(done) < len(uploads):
                last_event_at = time.monotonic()
            quiet = time.monotonic() - last_event_at
            if quiet > QUIET and self.lists_executions:
                self._find_failures()
            self.progress.update(sent_bar, completed=len(done))
            self.progress.update(
                finished_bar, completed=sum(status.finished for status in self.statuses.values())
            )
            if settled_at is None and (self._settled() or quiet > self.patience):
                settled_at = time.monotonic()

    def _handle(self, event: Mapping[str, Any]) -> None:
        """Record an outcome, or deliver the event of an upload a second time."""
        if event["source"] != "aws.s3":
            self.statuses[event["detail"]["key"]].published[event["id"]] = event["detail"]["outcome"]
            self.last_outcome_at = time.monotonic()
        elif (key := event["detail"]["object"]["key"]) in self.pending_duplicates:
            execution = self.stack.client("stepfunctions").start_execution(
                stateMachineArn=self.stack.output("StateMachineArn"), input=json.dumps(event)
            )
            self.pending_duplicates.discard(key)
            self.running_duplicates.add(execution["executionArn"])

    def _settled(self) -> bool:
        """Tell whether every photo is finished, and so are the executions for duplicate events."""
        if self.pending_duplicates or not all(status.finished for status in self.statuses.values()):
            return False
        if not self.lists_executions:
            return True
        step_functions = self.stack.client("stepfunctions")
        self.running_duplicates -= {
            execution
            for execution in self.running_duplicates
            if step_functions.describe_execution(executionArn=execution)["status"] != "RUNNING"
        }
        return not self.running_duplicates

    def _find_failures(self) -> None:
        """Mark the photos whose executions have failed since the test began."""
        step_functions = self.stack.client("stepfunctions")
        for status in FAILED:
            pages = step_functions.get_paginator("list_executions").paginate(
                stateMachineArn=self.stack.output("StateMachineArn"), statusFilter=status
            )
            executions = (execution for page in pages for execution in page["executions"])
            # Step Functions lists the latest first.
            for execution in itertools.takewhile(self._is_recent, executions):
                if (arn := execution["executionArn"]) not in self.inspected:
                    self.inspected.add(arn)
                    execution_input = step_functions.describe_execution(executionArn=arn)["input"]
                    if photo := self.statuses.get(key_of(execution_input)):
                        photo.failed = True

    def _is_recent(self, execution: Mapping[str, Any]) -> bool:
        return bool(execution["stopDate"] > self.began_at - CLOCK_TOLERANCE)

    def _report(self, seconds: float) -> LoadTestReport:
        recorded = read_outcomes(self.stack, self.statuses)
        counts = Counter(
            recorded[key]
            if recorded.get(key) in status.published.values()
            else "failed"
            if status.failed
            else "missing"
            for key, status in self.statuses.items()
        )
        states = ("accepted", "needs_review", "rejected", "failed", "missing")
        return LoadTestReport(
            sent=len(self.photos),
            **{state: counts[state] for state in states},
            double=sum(len(status.published) > 1 for status in self.statuses.values()),
            seconds=round(seconds, 1),
        )


def key_of(execution_input: str) -> str:
    """Return the key of the photo in an execution's input; an empty string if there is none."""
    match json.loads(execution_input):
        case {"detail": {"object": {"key": str(key)}}}:
            return key
    return ""


def read_outcomes(stack: Stack, keys: Iterable[str]) -> dict[str, str]:
    """Return the outcome of each photo, by key, that is in the results table."""
    dynamodb, table = stack.client("dynamodb"), stack.output("ResultsTableName")
    bucket_uri = f"s3://{stack.output('UploadBucketName')}/"
    found: dict[str, str] = {}
    for batch in batched(keys, BATCH, strict=False):
        request: dict[str, Any] = {
            table: {
                "Keys": [{"photo": {"S": bucket_uri + key}} for key in batch],
                "ProjectionExpression": "photo, outcome",
                "ConsistentRead": True,
            }
        }
        while request:
            answer = dynamodb.batch_get_item(RequestItems=request)
            for item in answer["Responses"][table]:
                found[item["photo"]["S"].removeprefix(bucket_uri)] = item["outcome"]["S"]
            request = answer.get("UnprocessedKeys", {})
    return found


def delete_photos(stack: Stack, prefix: str, keys: Iterable[str]) -> None:
    """Delete all versions of the photos under a prefix, and the results of those with these keys."""
    s3, dynamodb = stack.client("s3"), stack.client("dynamodb")
    bucket, table = stack.output("UploadBucketName"), stack.output("ResultsTableName")
    delete_objects(s3, bucket, list_prefix_versions(s3, bucket, prefix))
    for key in keys:
        dynamodb.delete_item(TableName=table, Key={"photo": {"S": f"s3://{bucket}/{key}"}})
