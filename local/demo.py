"""The demo: upload photos to a local stack's bucket, and show their outcomes as they arrive."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError
from rich import box

from local import HOME, LocalError
from local.stack import Stack
from model.terminal.tables import Table, styled
from pipeline import sample_images
from pipeline.stack import lists_executions

AT_ONCE = os.process_cpu_count() or 1
"""Photos in flight. Each needs its own worker of each function, which takes a second of CPU to start."""
SILENCE = 300.0
"""Seconds without any outcome after which the photos in flight count as missing."""
STYLES = {
    "accepted": "green",
    "needs_review": "yellow",
    "rejected": "magenta",
    "failed": "red",
    "missing": "red",
}


@dataclass(frozen=True)
class Outcome:
    """The pipeline's result for a photo, or ``failed`` or ``missing`` with the reason.

    `photo` is its name on this machine, and `seconds` how long after its upload it was classified.
    """

    photo: str
    outcome: str
    reason: str
    label: str | None = None
    confidence: float | None = None
    seconds: float | None = None


def photos(folder: Path | None) -> dict[str, bytes | Path]:
    """Return the photos to upload, by name: every file in a folder that is not hidden, or drawn pictures."""
    if folder is None:
        return dict(sample_images.demo_pictures())
    if not folder.is_dir():
        raise LocalError(f"Not a folder: {folder}. Give one that contains photos.")
    photos: dict[str, bytes | Path] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            photos[name.as_posix()] = file
    if not photos:
        raise LocalError(f"No files in {folder}. Give a folder that contains photos.")
    return photos


def classify(
    stack: Stack, content: Mapping[str, bytes | Path], at_once: int = AT_ONCE, silence: float = SILENCE
) -> Iterator[Outcome]:
    """Upload photos under ``uploads/``, which starts the workflow, and yield each outcome when it is known.

    At most ``at_once`` photos are in flight. A photo that cannot be uploaded, or whose execution failed, is
    ``failed``. After ``silence`` seconds without any outcome, the photos in flight are ``missing``.
    """
    s3 = stack.client("s3")
    bucket, files = stack.outputs["UploadBucketName"], iter(content.items())
    in_flight: dict[str, datetime] = {}
    last_outcome_at = time.monotonic()
    while True:
        while len(in_flight) < at_once and (file := next(files, None)):
            photo, source = file
            uploaded_at = datetime.now(UTC)
            if reason := _upload(s3, bucket, photo, source):
                yield Outcome(photo, "failed", reason)
            else:
                in_flight[photo] = uploaded_at
        if not in_flight:
            return
        if time.monotonic() - last_outcome_at > silence:
            for photo in in_flight:
                yield Outcome(photo, "missing", f"no outcome for {silence:.0f} s")
            return
        for outcome in [*_results(stack, in_flight), *_failures(stack, in_flight)]:
            if in_flight.pop(outcome.photo, None):
                last_outcome_at = time.monotonic()
                yield outcome
        time.sleep(0.1)


def _upload(s3: Any, bucket: str, photo: str, source: bytes | Path) -> str | None:  # noqa: ANN401  boto3's
    """Upload a photo; return the reason if that is not possible."""
    try:
        body = source.read_bytes() if isinstance(source, Path) else source
        s3.put_object(Bucket=bucket, Key=f"uploads/{photo}", Body=body)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (UnicodeError, ClientError) as error:
        return f"cannot be a key in S3: {error}"
    return None


def _results(stack: Stack, in_flight: Mapping[str, datetime]) -> Iterator[Outcome]:
    """Yield the outcomes in the results table that were written after these photos were uploaded."""
    dynamodb = stack.client("dynamodb")
    for photo, uploaded_at in in_flight.items():
        key = {"photo": {"S": f"s3://{stack.outputs['UploadBucketName']}/uploads/{photo}"}}
        item = dynamodb.get_item(TableName=stack.outputs["ResultsTableName"], Key=key).get("Item", {})
        result = {name: TypeDeserializer().deserialize(value) for name, value in item.items()}
        if not result:
            continue
        # Step Functions' timestamps have milliseconds.
        seconds = (datetime.fromisoformat(result["classified_at"]) - uploaded_at).total_seconds()
        if seconds >= 0:
            confidence = None if result["confidence"] is None else float(result["confidence"])
            yield Outcome(photo, result["outcome"], result["reason"], result["label"], confidence, seconds)


def _failures(stack: Stack, in_flight: Mapping[str, datetime]) -> Iterator[Outcome]:
    """Yield the photos whose executions failed, with the cause."""
    step_functions = stack.client("stepfunctions")
    if not lists_executions(step_functions, stack.outputs["StateMachineArn"]):
        return
    pages = step_functions.get_paginator("list_executions").paginate(
        stateMachineArn=stack.outputs["StateMachineArn"], statusFilter="FAILED"
    )
    for execution in pages.search("executions[]"):
        failed = step_functions.describe_execution(executionArn=execution["executionArn"])
        photo = json.loads(failed["input"])["detail"]["object"]["key"].removeprefix("uploads/")
        if photo in in_flight and failed["startDate"] >= in_flight[photo]:
            yield Outcome(photo, "failed", f"{failed.get('error')}: {failed.get('cause', '')}"[:200])


def empty_table() -> Table:
    """Return a table in the style of the local commands."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def table(outcomes: Iterable[Outcome]) -> Table:
    """Lay outcomes out for the terminal."""
    layout = empty_table()
    layout.add_column("photo", overflow="fold")
    layout.add_column("outcome", no_wrap=True)
    layout.add_column("label", no_wrap=True)
    layout.add_column("confidence", justify="right")
    layout.add_column("reason", overflow="fold")
    layout.add_column("seconds", justify="right")
    for outcome in outcomes:
        layout.add_row(
            outcome.photo,
            styled(outcome.outcome, STYLES[outcome.outcome]),
            outcome.label or "",
            "" if outcome.confidence is None else f"{outcome.confidence:.3f}",
            outcome.reason,
            "" if outcome.seconds is None else f"{outcome.seconds:.1f}",
        )
    return layout


def summary(outcomes: Iterable[Outcome]) -> str:
    """Count the outcomes in one line, the most frequent first."""
    counts = Counter(outcome.outcome for outcome in outcomes)
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())


def require_results(outcomes: Iterable[Outcome]) -> None:
    """Raise :class:`LocalError` if any photo failed or is missing."""
    without = [outcome.outcome in {"failed", "missing"} for outcome in outcomes]
    if any(without):
        raise LocalError(f"{sum(without)} of {len(without)} photos got no result. Logs: {HOME / 'logs'}")
