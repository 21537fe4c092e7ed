"""Send photos through a stack and account for every one of them."""

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

import click
from rich.progress import Progress

from pipeline.stack import Stack, lists_executions
from pipeline.subscription import PROBE, Subscription, subscribed

PREFIX = "uploads/traffic/"
"""Under which the photos of each run go, in a folder of their own."""

SENDERS = 8
"""Uploads at once."""

DIFFERENT = 24
"""Pictures drawn of each kind; they are sent again and again."""

SETTLING = 3.0
"""Seconds to listen on, when all is known, for an outcome too many."""

QUIET = 5.0
"""Seconds without news after which to look for executions that failed."""

FAILED = ("FAILED", "TIMED_OUT", "ABORTED")
"""What Step Functions calls executions that came to no good end."""

BATCH = 100
"""Items that DynamoDB gives at once (API Reference, BatchGetItem)."""

CLOCKS = timedelta(minutes=5)
"""By how much this machine's clock may be off."""


@dataclass(frozen=True)
class Report:
    """What became of the photos: each sent is accepted, in review, rejected, failed or missing.

    Attributes
    ----------
    sent
        Photos uploaded.
    accepted, needs_review, rejected
        Have this outcome in the results table, and it was published on the results bus.
    failed
        Have no such outcome, and their execution failed.
    missing
        Have neither.
    double
        Had more than one outcome published.
    seconds
        From the first upload to the last outcome.
    """

    sent: int
    accepted: int
    needs_review: int
    rejected: int
    failed: int
    missing: int
    double: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether every photo has one outcome."""
        return not (self.failed or self.missing or self.double)


@dataclass(frozen=True)
class Photo:
    """A photo to send: its key in the bucket, what is in it, and whether its event is to come twice."""

    key: str
    content: bytes | Path
    twice: bool

    def read(self) -> bytes:
        """Return the file."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content


@dataclass
class PhotoStatus:
    """What is known of a photo on its way: the outcomes published, by their events' ids; what went wrong."""

    published: dict[str, str] = field(default_factory=dict)
    failed: bool = False

    @property
    def known(self) -> bool:
        """Whether something has become of it."""
        return bool(self.published) or self.failed


def planned(
    prefix: str, burst: int, folder: Path | None, *, bad: float, other: float, duplicates: float
) -> list[Photo]:
    """Return the photos to send, in a mixed order.

    Parameters
    ----------
    prefix
        Of their keys.
    burst
        How many.
    folder
        Where photos come from, ``None`` to draw them.
    bad, other, duplicates
        Shares, 0 to 1, of files that are no photo, of photos of something else (both drawn), and of those
        whose event is to come twice.

    Raises
    ------
    click.ClickException
        The folder has no photos in it.
    """
    no_photo, something_else, twice = (round(burst * share) for share in (bad, other, duplicates))
    vehicles = photos_in(folder) if folder else drawn_vehicles()
    contents = [
        *itertools.islice(itertools.cycle(bad_files()), no_photo),
        *itertools.islice(itertools.cycle(drawn_scones()), something_else),
        *itertools.islice(itertools.cycle(vehicles), burst - no_photo - something_else),
    ]
    chance = random.Random(prefix)  # noqa: S311  an order, not a secret
    chance.shuffle(contents)
    again = set(chance.sample(range(burst), twice))
    return [
        Photo(
            f"{twice_prefix(prefix) if number in again else prefix}{number:06}-{name}",
            content,
            number in again,
        )
        for number, (name, content) in enumerate(contents)
    ]


def twice_prefix(prefix: str) -> str:
    """Return the prefix of those whose event is to come twice."""
    return f"{prefix}twice/"


def photos_in(folder: Path) -> list[tuple[str, bytes | Path]]:
    """Return the photos in a folder and its subfolders, by name."""
    from model.photo import SUFFIXES  # noqa: PLC0415  Pillow and its plugins take their time

    found = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not found:
        raise click.ClickException(
            f"{folder} has no photos in it (files ending in {', '.join(sorted(SUFFIXES))})"
        )
    return [(file.name, file) for file in found]


def drawn_vehicles() -> Iterator[tuple[str, bytes]]:
    """Draw bicycles and motorcycles."""
    from pipeline import sample_images  # noqa: PLC0415  as above

    for seed in range(DIFFERENT):
        yield "bicycle.jpg", sample_images.encoded(sample_images.picture(sample_images.bicycle, seed))
        yield "motorcycle.jpg", sample_images.encoded(sample_images.picture(sample_images.motorcycle, seed))


def drawn_scones() -> Iterator[tuple[str, bytes]]:
    """Draw something else."""
    from pipeline import sample_images  # noqa: PLC0415  as above

    for seed in range(DIFFERENT):
        yield "scone.jpg", sample_images.encoded(sample_images.picture(sample_images.scone, seed))


def bad_files() -> list[tuple[str, bytes]]:
    """Return files that are no photo: an upload that broke off, a text, nothing."""
    from pipeline import sample_images  # noqa: PLC0415  as above

    whole = sample_images.encoded(sample_images.picture(sample_images.bicycle, 0))
    return [("broke-off.jpg", whole[: len(whole) // 2]), ("text.jpg", b"Not a photo.\n"), ("empty.jpg", b"")]


class Traffic:
    """Photos on their way through a stack.

    Parameters
    ----------
    stack
        Where to.
    prefix
        Of all their keys, and of no others.
    photos
        What to send.
    progress
        Where to show how far it is.
    rate
        How many a second; ``None`` for as fast as they go.
    patience
        Seconds without news after which what is still out is missing.
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
        self.undelivered = {photo.key for photo in photos if photo.twice}
        self.delivered: set[str] = set()
        self.looked_into: set[str] = set()
        self.lists_executions = lists_executions(
            stack.client("stepfunctions"), stack.output("StateMachineArn")
        )
        self.ended = threading.Event()
        self.began_at = datetime.now(UTC)
        self.last_outcome_at = 0.0

    def run(self) -> Report:
        """Send the photos, follow them, and say what became of each.

        Raises
        ------
        StackError
            The stack's events do not come through.
        botocore.exceptions.ClientError
            A photo could not be uploaded.
        """
        name = f"scones-traffic-{self.prefix.rstrip('/').rpartition('/')[2]}"
        with subscribed(self.stack, name, self._patterns()) as subscription:
            subscription.wait_until_heard(self._probes())
            started_at = time.monotonic()
            self.last_outcome_at = started_at
            with ThreadPoolExecutor(SENDERS) as senders:
                try:
                    pause = 1 / self.rate if self.rate else 0
                    uploads = [
                        senders.submit(self._send, photo, started_at + number * pause)
                        for number, photo in enumerate(self.photos)
                    ]
                    self._follow(subscription, uploads)
                finally:
                    self.ended.set()
        return self._report(self.last_outcome_at - started_at)

    def _patterns(self) -> dict[str, dict[str, Any]]:
        """Let through every outcome of ours and, of those whose event is to come twice, that event."""
        outcomes = {
            "source": ["scones.vehicle-classifier", PROBE],
            "detail": {"key": [{"prefix": self.prefix}]},
        }
        uploads = {
            "source": ["aws.s3", PROBE],
            "detail": {"object": {"key": [{"prefix": twice_prefix(self.prefix)}]}},
        }
        patterns = {self.stack.output("ResultsBusName"): outcomes}
        return patterns | ({"default": uploads} if self.undelivered else {})

    def _probes(self) -> dict[str, dict[str, Any]]:
        probes: dict[str, dict[str, Any]] = {self.stack.output("ResultsBusName"): {"key": self.prefix}}
        return probes | (
            {"default": {"object": {"key": twice_prefix(self.prefix)}}} if self.undelivered else {}
        )

    def _send(self, photo: Photo, due: float) -> None:
        """Upload a photo when its time has come, unless all is over by then."""
        if not self.ended.wait(max(0.0, due - time.monotonic())):
            self.stack.client("s3").put_object(
                Bucket=self.stack.output("UploadBucketName"), Key=photo.key, Body=photo.read()
            )

    def _follow(self, subscription: Subscription, uploads: Sequence[Future[None]]) -> None:
        """Listen until something has become of every photo, or nothing is heard for too long."""
        sent = self.progress.add_task("Sent", total=len(self.photos))
        heard = self.progress.add_task("Heard of", total=len(self.photos))
        news_at = time.monotonic()
        settled_at = None
        while settled_at is None or time.monotonic() - settled_at < SETTLING:
            for event in subscription.received():
                self._note(event)
                news_at = time.monotonic()
            done = [upload for upload in uploads if upload.done()]
            for upload in done:
                upload.result()
            if len(done) < len(uploads):
                news_at = time.monotonic()
            quiet = time.monotonic() - news_at
            if quiet > QUIET and self.lists_executions:
                self._look_for_failures()
            self.progress.update(sent, completed=len(done))
            self.progress.update(heard, completed=sum(course.known for course in self.statuses.values()))
            if settled_at is None and (self._settled() or quiet > self.patience):
                settled_at = time.monotonic()

    def _note(self, event: Mapping[str, Any]) -> None:
        """Note an outcome, or deliver the event of an upload a second time."""
        if event["source"] != "aws.s3":
            self.statuses[event["detail"]["key"]].published[event["id"]] = event["detail"]["outcome"]
            self.last_outcome_at = time.monotonic()
        elif (key := event["detail"]["object"]["key"]) in self.undelivered:
            execution = self.stack.client("stepfunctions").start_execution(
                stateMachineArn=self.stack.output("StateMachineArn"), input=json.dumps(event)
            )
            self.undelivered.discard(key)
            self.delivered.add(execution["executionArn"])

    def _settled(self) -> bool:
        """Tell whether something has become of every photo, second deliveries included."""
        if self.undelivered or not all(course.known for course in self.statuses.values()):
            return False
        if not self.lists_executions:
            return True
        step_functions = self.stack.client("stepfunctions")
        self.delivered -= {
            execution
            for execution in self.delivered
            if step_functions.describe_execution(executionArn=execution)["status"] != "RUNNING"
        }
        return not self.delivered

    def _look_for_failures(self) -> None:
        """Note whose executions failed since the start."""
        step_functions = self.stack.client("stepfunctions")
        for status in FAILED:
            pages = step_functions.get_paginator("list_executions").paginate(
                stateMachineArn=self.stack.output("StateMachineArn"), statusFilter=status
            )
            executions = (execution for page in pages for execution in page["executions"])
            for execution in itertools.takewhile(self._is_new, executions):
                if (arn := execution["executionArn"]) not in self.looked_into:
                    self.looked_into.add(arn)
                    given = step_functions.describe_execution(executionArn=arn)["input"]
                    if course := self.statuses.get(key_in(given)):
                        course.failed = True

    def _is_new(self, execution: Mapping[str, Any]) -> bool:
        """Tell whether an execution may be of these photos; Step Functions lists the latest first."""
        return bool(execution["stopDate"] > self.began_at - CLOCKS)

    def _report(self, seconds: float) -> Report:
        recorded = outcomes(self.stack, self.statuses)
        counts = Counter(
            recorded[key]
            if recorded.get(key) in course.published.values()
            else "failed"
            if course.failed
            else "missing"
            for key, course in self.statuses.items()
        )
        return Report(
            sent=len(self.photos),
            accepted=counts["accepted"],
            needs_review=counts["needs_review"],
            rejected=counts["rejected"],
            failed=counts["failed"],
            missing=counts["missing"],
            double=sum(len(course.published) > 1 for course in self.statuses.values()),
            seconds=round(seconds, 1),
        )


def key_in(given: str) -> str:
    """Return the key that an execution's input is about, nothing where it is about none."""
    match json.loads(given):
        case {"detail": {"object": {"key": str(key)}}}:
            return key
    return ""


def outcomes(stack: Stack, keys: Iterable[str]) -> dict[str, str]:
    """Return what the results table holds of photos: the outcome by key, as far as there is one."""
    dynamodb, table = stack.client("dynamodb"), stack.output("ResultsTableName")
    address = f"s3://{stack.output('UploadBucketName')}/"
    found: dict[str, str] = {}
    for batch in batched(keys, BATCH, strict=False):
        asked: dict[str, Any] = {
            table: {
                "Keys": [{"photo": {"S": address + key}} for key in batch],
                "ProjectionExpression": "photo, outcome",
                "ConsistentRead": True,
            }
        }
        while asked:
            answer = dynamodb.batch_get_item(RequestItems=asked)
            for item in answer["Responses"][table]:
                found[item["photo"]["S"].removeprefix(address)] = item["outcome"]["S"]
            asked = answer.get("UnprocessedKeys", {})
    return found


def delete(stack: Stack, prefix: str, keys: Iterable[str]) -> None:
    """Delete photos, in all their versions, and their results."""
    from pipeline.teardown import empty_bucket  # noqa: PLC0415  it knows all of SageMaker

    s3, dynamodb = stack.client("s3"), stack.client("dynamodb")
    bucket, table = stack.output("UploadBucketName"), stack.output("ResultsTableName")
    empty_bucket(s3, bucket, prefix)
    for key in keys:
        dynamodb.delete_item(TableName=table, Key={"photo": {"S": f"s3://{bucket}/{key}"}})
