"""The demonstration: photos go into a local stack's bucket, and their outcomes are shown as they arrive."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from boto3.dynamodb.types import TypeDeserializer
from rich.table import Table
from rich.text import Text

from local import LocalError, pictures
from local.stack import Stack

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
    """Return what to upload, by name: every file of a folder, or the project's own pictures.

    Raises
    ------
    LocalError
        The folder does not exist or holds no file.
    """
    if folder is None:
        return dict(pictures.demo_pictures())
    if not folder.is_dir():
        raise LocalError(f"{folder} is no folder: give one with photos in it")
    files = {
        file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()
    }
    if not files:
        raise LocalError(f"{folder} holds no files: give a folder with photos in it")
    return dict(files)


def upload(stack: Stack, content: Mapping[str, bytes | Path]) -> Iterator[Photo]:
    """Put each photo under ``uploads/``, which starts the workflow, and yield it when it is there."""
    s3 = stack.client("s3")
    for name, photo in content.items():
        key = f"uploads/{name}"
        body = photo.read_bytes() if isinstance(photo, Path) else photo
        uploaded_at = datetime.now(UTC)
        s3.put_object(Bucket=stack.outputs["UploadBucketName"], Key=key, Body=body)
        yield Photo(name, key, uploaded_at)


def outcomes(stack: Stack, uploaded: list[Photo], silence: float = SILENCE) -> Iterator[Outcome]:
    """Yield each photo's outcome once, as it becomes known.

    A photo whose execution failed is ``failed``; one that is still out after ``silence`` seconds in which
    nothing was heard of any is ``missing``.
    """
    waiting = {photo.key: photo for photo in uploaded}
    heard_at = time.monotonic()
    while waiting and time.monotonic() - heard_at < silence:
        time.sleep(0.2)
        for outcome in [*results(stack, waiting), *failures(stack, waiting)]:
            if waiting.pop(outcome.photo.key, None):
                heard_at = time.monotonic()
                yield outcome
    for photo in waiting.values():
        yield Outcome(photo, "missing", f"nothing was heard of it for {silence:.0f} s")


def results(stack: Stack, waiting: Mapping[str, Photo]) -> Iterator[Outcome]:
    """Yield what the results table holds of the photos waited for."""
    deserialize = TypeDeserializer().deserialize
    prefix = f"s3://{stack.outputs['UploadBucketName']}/"
    pages = (
        stack.client("dynamodb").get_paginator("scan").paginate(TableName=stack.outputs["ResultsTableName"])
    )
    for item in (item for page in pages for item in page["Items"]):
        result = {name: deserialize(value) for name, value in item.items()}
        photo = waiting.get(result["photo"].removeprefix(prefix))
        if photo:
            yield Outcome(
                photo,
                result["outcome"],
                result["reason"],
                result["label"],
                None if result["confidence"] is None else float(result["confidence"]),
                (datetime.fromisoformat(result["classified_at"]) - photo.uploaded_at).total_seconds(),
            )


def failures(stack: Stack, waiting: Mapping[str, Photo]) -> Iterator[Outcome]:
    """Yield the photos waited for whose executions failed, with the cause."""
    step_functions = stack.client("stepfunctions")
    pages = step_functions.get_paginator("list_executions").paginate(
        stateMachineArn=stack.outputs["StateMachineArn"], statusFilter="FAILED"
    )
    for execution in (execution for page in pages for execution in page["executions"]):
        failed = step_functions.describe_execution(executionArn=execution["executionArn"])
        photo = waiting.get(json.loads(failed["input"])["detail"]["object"]["key"])
        if photo:
            yield Outcome(photo, "failed", f"{failed.get('error')}: {failed.get('cause', '')}"[:200])


def table(shown: list[Outcome]) -> Table:
    """Lay the outcomes out for the terminal."""
    laid_out = Table(title="Which vehicle is at the door?", title_justify="left", header_style="bold")
    laid_out.add_column("photo", overflow="fold")
    laid_out.add_column("outcome", no_wrap=True)
    laid_out.add_column("label", no_wrap=True)
    laid_out.add_column("confidence", justify="right")
    laid_out.add_column("reason", overflow="fold")
    laid_out.add_column("seconds", justify="right")
    for outcome in shown:
        laid_out.add_row(
            Text(outcome.photo.name),
            Text(outcome.outcome, STYLES[outcome.outcome]),
            outcome.label or "",
            "" if outcome.confidence is None else f"{outcome.confidence:.3f}",
            Text(outcome.reason),
            "" if outcome.seconds is None else f"{outcome.seconds:.1f}",
        )
    return laid_out
