"""Send photos through a stack and report the outcome of every one of them."""

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.progress import Progress

from model.sagemaker.account import paginate
from model.storage import delete_objects, list_prefix_versions
from pipeline import OUTCOMES
from pipeline.stack import Stack, lists_executions
from pipeline.subscription import PROBE, Subscription, subscribed

PREFIX = "uploads/traffic/"
"""The key prefix of all load tests; each has its own folder below it."""
TWICE = "twice/"
"""The folder of the photos whose event is delivered twice."""
SENDERS = 8
"""Concurrent uploads."""
VARIANTS = 24
"""Number of pictures drawn of each kind; they are sent repeatedly."""
SETTLING = 3.0
"""Seconds to wait for second outcomes after every photo has one."""
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
    """The number of photos by what happened to them; all but ``double`` add up to ``sent``."""

    sent: int
    accepted: int  # an outcome counts only if it is in the results table and was published
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

    def __str__(self) -> str:
        counts = {name: value for name, value in asdict(self).items() if name not in {"sent", "seconds"}}
        outcomes = ", ".join(f"{value} {name}" for name, value in counts.items())
        return f"{self.sent} sent in {self.seconds:.1f} s: {outcomes}."


@dataclass(frozen=True)
class Photo:
    """A photo to send."""

    key: str
    content: bytes | Path
    duplicate: bool  # deliver its event twice

    def read(self) -> bytes:
        """Return the file."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content


@dataclass
class PhotoStatus:
    """What has happened so far to a photo that was sent."""

    published: dict[str, str] = field(default_factory=dict)  # outcomes by event id
    failed: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing more is expected to happen to the photo."""
        return bool(self.published) or self.failed

    def state(self, recorded: str | None) -> str:
        """Return the outcome in the results table if it was published too, otherwise what went wrong."""
        if recorded in self.published.values():
            return str(recorded)
        return "failed" if self.failed else "missing"


def plan_photos(
    prefix: str, burst: int, folder: Path | None, *, bad: float, other: float, duplicates: float
) -> list[Photo]:
    """Plan `burst` photos in random order, from a folder or, without one, drawn.

    `bad`, `other` and `duplicates` are the shares, from 0 to 1, of unreadable files, of pictures without a
    vehicle (both are drawn), and of photos whose event is delivered twice. Raises `LoadTestError` if the
    folder has no photos.
    """
    bad_count, other_count, duplicate_count = (round(burst * share) for share in (bad, other, duplicates))
    vehicles = _find_photos(folder) if folder else draw("bicycle", "motorcycle")
    _, photo = next(draw("bicycle"))
    unreadable = [
        ("broke-off.jpg", photo[: len(photo) // 2]),
        ("text.jpg", b"Not a photo.\n"),
        ("empty.jpg", b""),
    ]
    contents = [
        *itertools.islice(itertools.cycle(unreadable), bad_count),
        *itertools.islice(itertools.cycle(draw("scone")), other_count),
        *itertools.islice(itertools.cycle(vehicles), burst - bad_count - other_count),
    ]
    rng = random.Random(prefix)  # noqa: S311  an order, not a secret
    rng.shuffle(contents)
    duplicated = set(rng.sample(range(burst), duplicate_count))
    folders = [TWICE if number in duplicated else "" for number in range(burst)]
    return [
        Photo(f"{prefix}{folder}{number:06}-{name}", content, bool(folder))
        for number, ((name, content), folder) in enumerate(zip(contents, folders, strict=True))
    ]


def _find_photos(folder: Path) -> list[tuple[str, bytes | Path]]:
    from model.photo import SUFFIXES  # noqa: PLC0415  imports Pillow, which `scones --help` does without

    found = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not found:
        raise LoadTestError(f"{folder} has no photos in it (files ending in {', '.join(sorted(SUFFIXES))}).")
    return [(file.name, file) for file in found]


def draw(*subjects: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and file of pictures of these subjects of `sample_images`, in turn."""
    from pipeline import sample_images  # noqa: PLC0415  imports Pillow, which `scones --help` does without

    for seed, subject in itertools.product(range(VARIANTS), subjects):
        picture = sample_images.picture(getattr(sample_images, subject), seed)
        yield f"{subject}.jpg", sample_images.encoded(picture)


@dataclass
class LoadTest:
    """Send photos through a stack and follow them until each has an outcome."""

    stack: Stack
    prefix: str  # of these photos' keys, and of no others
    photos: Sequence[Photo]
    progress: Progress
    rate: float | None  # photos per second; None is as fast as possible
    patience: float  # seconds without an event after which unfinished photos count as missing

    def __post_init__(self) -> None:
        self.statuses = {photo.key: PhotoStatus() for photo in self.photos}
        self.pending_duplicates = {photo.key for photo in self.photos if photo.duplicate}
        self.running_duplicates: set[str] = set()
        self.inspected: set[str] = set()
        step_functions, machine = self.stack.client("stepfunctions"), self.stack.output("StateMachineArn")
        self.lists_executions = lists_executions(step_functions, machine)
        self.ended = threading.Event()
        self.began_at = datetime.now(UTC)
        self.last_outcome_at = 0.0

    def run(self) -> LoadTestReport:
        """Send the photos, follow them and report what happened to them."""
        name = f"scones-traffic-{self.prefix.rstrip('/').rpartition('/')[2]}"
        patterns, probes = self._rules()
        with subscribed(self.stack, name, patterns) as subscription:
            subscription.wait_until_active(probes)
            started_at = self.last_outcome_at = time.monotonic()
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
        recorded = read_outcomes(self.stack, self.statuses)
        counts = Counter(status.state(recorded.get(key)) for key, status in self.statuses.items())
        return LoadTestReport(
            sent=len(self.photos),
            **{state: counts[state] for state in (*OUTCOMES, "failed", "missing")},
            double=sum(len(status.published) > 1 for status in self.statuses.values()),
            seconds=round(self.last_outcome_at - started_at, 1),
        )

    def _rules(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return, by bus, the pattern of the events to receive, and the detail of a probe that matches it."""
        bus, twice = self.stack.output("ResultsBusName"), self.prefix + TWICE
        detail: dict[str, Any] = {"key": [{"prefix": self.prefix}]}
        patterns = {bus: {"source": ["scones.vehicle-classifier", PROBE], "detail": detail}}
        probes: dict[str, Any] = {bus: {"key": self.prefix}}
        if self.pending_duplicates:
            detail = {"object": {"key": [{"prefix": twice}]}}
            patterns["default"] = {"source": ["aws.s3", PROBE], "detail": detail}
            probes["default"] = {"object": {"key": twice}}
        return patterns, probes

    def _send(self, photo: Photo, due: float) -> None:
        """Upload a photo when it is due, unless the test has ended by then."""
        if not self.ended.wait(max(0.0, due - time.monotonic())):
            bucket = self.stack.output("UploadBucketName")
            self.stack.client("s3").put_object(Bucket=bucket, Key=photo.key, Body=photo.read())

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
            finished = sum(status.finished for status in self.statuses.values())
            self.progress.update(sent_bar, completed=len(done))
            self.progress.update(finished_bar, completed=finished)
            if settled_at is None and (self._settled() or quiet > self.patience):
                settled_at = time.monotonic()

    def _handle(self, event: Mapping[str, Any]) -> None:
        """Record an outcome, or deliver the event of an upload a second time."""
        if event["source"] != "aws.s3":
            self.statuses[event["detail"]["key"]].published[event["id"]] = event["detail"]["outcome"]
            self.last_outcome_at = time.monotonic()
        elif (key := event["detail"]["object"]["key"]) in self.pending_duplicates:
            self.running_duplicates.add(self.stack.start_execution("StateMachineArn", event))
            self.pending_duplicates.discard(key)

    def _settled(self) -> bool:
        """Tell whether all photos and all executions for duplicate events are finished."""
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
        step_functions, since = self.stack.client("stepfunctions"), self.began_at - CLOCK_TOLERANCE
        for status in FAILED:
            query = {"stateMachineArn": self.stack.output("StateMachineArn"), "statusFilter": status}
            executions = paginate(step_functions, "list_executions", "executions", **query)
            # Step Functions lists the latest first.
            for execution in itertools.takewhile(lambda one: one["stopDate"] > since, executions):
                if (arn := execution["executionArn"]) not in self.inspected:
                    self.inspected.add(arn)
                    execution_input = step_functions.describe_execution(executionArn=arn)["input"]
                    if photo := self.statuses.get(key_of(execution_input)):
                        photo.failed = True


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
    for batch in itertools.batched(keys, BATCH, strict=False):
        keys_of_batch = [{"photo": {"S": bucket_uri + key}} for key in batch]
        query = {"Keys": keys_of_batch, "ProjectionExpression": "photo, outcome", "ConsistentRead": True}
        request: dict[str, Any] = {table: query}
        while request:
            answer = dynamodb.batch_get_item(RequestItems=request)
            for item in answer["Responses"][table]:
                found[item["photo"]["S"].removeprefix(bucket_uri)] = item["outcome"]["S"]
            request = answer.get("UnprocessedKeys", {})
    return found


def delete_photos(stack: Stack, prefix: str, keys: Iterable[str]) -> None:
    """Delete all versions of the photos under a prefix, and the results of those with these keys."""
    s3, dynamodb, bucket = stack.client("s3"), stack.client("dynamodb"), stack.output("UploadBucketName")
    delete_objects(s3, bucket, list_prefix_versions(s3, bucket, prefix))
    for key in keys:
        dynamodb.delete_item(**stack.result_key(f"s3://{bucket}/{key}"))
