"""The demonstration: photos go into a local stack's bucket, and their outcomes are shown as they arrive."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError
from rich import box
from rich.table import Table
from rich.text import Text

from local import LocalError
from local.stack import Stack
from pipeline import sample_images
from pipeline.stack import lists_executions

AT_ONCE = os.process_cpu_count() or 1
"""Photos on their way at a time: as many workers of each function are started, each a second of work."""
SILENCE = 120.0
"""Seconds without any news after which the photos still out are given up."""
STYLES = {
    "accepted": "green",
    "needs_review": "yellow",
    "rejected": "magenta",
    "failed": "red",
    "missing": "red",
}


@dataclass(frozen=True)
class Photo:
    """A photo on its way: its name here, its key in the bucket, and when it was put there."""

    name: str
    key: str
    uploaded_at: datetime


@dataclass(frozen=True)
class Outcome:
    """What became of a photo: a result of the pipeline's, or ``failed`` or ``missing`` and why."""

    photo: Photo
    outcome: str
    reason: str
    label: str | None = None
    confidence: float | None = None
    seconds: float | None = None


def photos(folder: Path | None) -> dict[str, bytes | Path]:
    """Return what to upload, by name: every file of a folder but hidden ones, or the project's own pictures.

    Raises
    ------
    LocalError
        The folder does not exist or holds no file.
    """
    if folder is None:
        return dict(sample_images.demo_pictures())
    if not folder.is_dir():
        raise LocalError(f"{folder} is no folder: give one with photos in it")
    names = {file.relative_to(folder): file for file in sorted(folder.rglob("*")) if file.is_file()}
    files = {
        name.as_posix(): file
        for name, file in names.items()
        if not any(part.startswith(".") for part in name.parts)
    }
    if not files:
        raise LocalError(f"{folder} holds no files: give a folder with photos in it")
    return dict(files)


def classify(
    stack: Stack, content: Mapping[str, bytes | Path], at_once: int = AT_ONCE, silence: float = SILENCE
) -> Iterator[Outcome]:
    """Put photos under ``uploads/``, which starts the workflow, and yield each outcome once it is known.

    Never more than ``at_once`` photos are out. One that cannot be uploaded, or whose execution failed, is
    ``failed``; one that is still out after ``silence`` seconds in which nothing was heard of any is
    ``missing``.
    """
    s3 = stack.client("s3")
    files = iter(content.items())
    out: dict[str, Photo] = {}
    heard_at = time.monotonic()
    while True:
        while len(out) < at_once and (file := next(files, None)):
            name, photo = file
            sent = Photo(name, f"uploads/{name}", datetime.now(UTC))
            try:
                body = photo.read_bytes() if isinstance(photo, Path) else photo
                s3.put_object(Bucket=stack.outputs["UploadBucketName"], Key=sent.key, Body=body)
            except OSError as error:
                yield Outcome(sent, "failed", f"cannot be read: {error.strerror}")
            except (UnicodeError, ClientError) as error:
                yield Outcome(sent, "failed", f"cannot be a key in S3: {error}")
            else:
                out[sent.key] = sent
        if not out:
            return
        if time.monotonic() - heard_at > silence:
            yield from (
                Outcome(lost, "missing", f"not heard of for {silence:.0f} s") for lost in out.values()
            )
            return
        for outcome in [*results(stack, out.values()), *failures(stack, out)]:
            if out.pop(outcome.photo.key, None):
                heard_at = time.monotonic()
                yield outcome
        time.sleep(0.1)


def results(stack: Stack, out: Iterable[Photo]) -> Iterator[Outcome]:
    """Yield what the results table holds of these photos, written since they were uploaded."""
    dynamodb = stack.client("dynamodb")
    for photo in out:
        key = {"photo": {"S": f"s3://{stack.outputs['UploadBucketName']}/{photo.key}"}}
        item = dynamodb.get_item(TableName=stack.outputs["ResultsTableName"], Key=key).get("Item", {})
        result = {name: TypeDeserializer().deserialize(value) for name, value in item.items()}
        if result and (seconds := seconds_between(photo.uploaded_at, result["classified_at"])) >= 0:
            confidence = None if result["confidence"] is None else float(result["confidence"])
            yield Outcome(photo, result["outcome"], result["reason"], result["label"], confidence, seconds)


def seconds_between(uploaded_at: datetime, classified_at: str) -> float:
    """Return how long a photo took, to the millisecond that Step Functions tells."""
    return (datetime.fromisoformat(classified_at) - uploaded_at).total_seconds()


def failures(stack: Stack, out: Mapping[str, Photo]) -> Iterator[Outcome]:
    """Yield the photos out whose executions failed, with the cause."""
    step_functions = stack.client("stepfunctions")
    if not lists_executions(step_functions, stack.outputs["StateMachineArn"]):
        return
    pages = step_functions.get_paginator("list_executions").paginate(
        stateMachineArn=stack.outputs["StateMachineArn"], statusFilter="FAILED"
    )
    for execution in (execution for page in pages for execution in page["executions"]):
        failed = step_functions.describe_execution(executionArn=execution["executionArn"])
        photo = out.get(json.loads(failed["input"])["detail"]["object"]["key"])
        if photo and failed["startDate"] >= photo.uploaded_at:
            yield Outcome(photo, "failed", f"{failed.get('error')}: {failed.get('cause', '')}"[:200])


def table(shown: list[Outcome]) -> Table:
    """Lay the outcomes out for the terminal."""
    laid_out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    laid_out.add_column("photo", overflow="fold")
    laid_out.add_column("outcome", no_wrap=True)
    laid_out.add_column("label", no_wrap=True)
    laid_out.add_column("confidence", justify="right")
    laid_out.add_column("reason", overflow="fold")
    laid_out.add_column("seconds", justify="right")
    for outcome in shown:
        laid_out.add_row(
            Text(outcome.photo.name.encode(errors="replace").decode()),
            Text(outcome.outcome, STYLES[outcome.outcome]),
            outcome.label or "",
            "" if outcome.confidence is None else f"{outcome.confidence:.3f}",
            Text(outcome.reason),
            "" if outcome.seconds is None else f"{outcome.seconds:.1f}",
        )
    return laid_out
