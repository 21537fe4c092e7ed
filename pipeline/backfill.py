"""Run the backfill state machine over photos that are already in the bucket."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.progress import Progress

from pipeline import OUTCOMES
from pipeline.stack import Stack, StackError

POLL = 1.0
"""Seconds between two status requests."""


@dataclass(frozen=True)
class BackfillReport:
    """The number of photos by what happened to them; ``None`` is unknown, without a manifest."""

    photos: int
    done: int  # with a result for their current version
    failed: int  # without one, because their execution failed; its input is in the failed queue
    left: int  # not started, or not finished, when the backfill ended
    already: int | None  # of those done, with the result from before
    accepted: int | None  # of those done now, by outcome
    needs_review: int | None
    rejected: int | None
    seconds: float
    manifest: str | None  # the S3 object that leads to the outcome of each photo

    def __str__(self) -> str:
        before = "" if self.already is None else f", {self.already} of them from before"
        new = "".join(f", {count} {outcome}" for outcome in OUTCOMES if (count := getattr(self, outcome)))
        return (
            f"{self.done} of {self.photos} photos have a result{before}{new}; {self.failed} failed, "
            f"{self.left} not processed ({self.seconds:.1f} s)."
        )


def count_photos(stack: Stack, prefix: str) -> int:
    """Count the objects under a prefix, with or without a result."""
    bucket, pages = stack.output("UploadBucketName"), stack.client("s3").get_paginator("list_objects_v2")
    return sum(page["KeyCount"] for page in pages.paginate(Bucket=bucket, Prefix=prefix))


def find_running(stack: Stack, prefix: str) -> str | None:
    """Return the ARN of the prefix's running backfill, if any; raise `StackError` if another is running."""
    step_functions, state_machine = stack.client("stepfunctions"), stack.output("BackfillStateMachineArn")
    running = step_functions.list_executions(stateMachineArn=state_machine, statusFilter="RUNNING")
    if not running["executions"]:
        return None
    arn = str(running["executions"][0]["executionArn"])
    other = json.loads(step_functions.describe_execution(executionArn=arn)["input"]).get("prefix")
    if other != prefix:
        raise StackError(f"A backfill of {other} is running. Wait until it ends, or stop it: {arn}")
    return arn


def start(stack: Stack, prefix: str, concurrency: int | None, tolerate: float | None) -> str:
    """Start a backfill and return its execution's ARN; raise `StackError` if the prefix has no objects.

    `concurrency` is the number of photos to process at once, `tolerate` the percentage that may fail; both
    default to the stack's parameters.
    """
    bucket = stack.output("UploadBucketName")
    if not stack.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)["KeyCount"]:
        raise StackError(f"No photos under s3://{bucket}/{prefix}")
    settings = {"prefix": prefix, "concurrency": concurrency, "tolerated_failure_percentage": tolerate}
    given = {name: value for name, value in settings.items() if value is not None}
    return stack.start_execution("BackfillStateMachineArn", given)


def follow(stack: Stack, execution: str, progress: Progress) -> bool:
    """Show the progress of a backfill until it ends; return whether Ctrl-C has stopped it."""
    try:
        _show_progress(stack, execution, progress)
    except KeyboardInterrupt:
        # Photos already started still get their result.
        stack.client("stepfunctions").stop_execution(executionArn=execution)
        _show_progress(stack, execution, progress)
        return True
    return False


def _show_progress(stack: Stack, execution: str, progress: Progress) -> None:
    bar = progress.add_task("Finding photos", total=None)
    while stack.client("stepfunctions").describe_execution(executionArn=execution)["status"] == "RUNNING":
        time.sleep(POLL)
        if counts := item_counts(stack, execution):
            ended = counts["total"] - counts["pending"] - counts["running"]
            progress.update(bar, description="Classifying", total=counts["total"], completed=ended)


def item_counts(stack: Stack, execution: str) -> Mapping[str, int]:
    """Return a backfill's number of photos by status; empty until it has found them."""
    if not (map_run := _find_map_run(stack, execution)):
        return {}
    return dict(stack.client("stepfunctions").describe_map_run(mapRunArn=map_run)["itemCounts"])


def _find_map_run(stack: Stack, execution: str) -> str | None:
    """Return the ARN of a backfill's map run; ``None`` until it has started."""
    runs = stack.client("stepfunctions").list_map_runs(executionArn=execution)["mapRuns"]
    return str(runs[0]["mapRunArn"]) if runs else None


def summarize(stack: Stack, execution: str) -> tuple[BackfillReport, str | None]:
    """Return the report of a backfill that has ended, and the reason if it failed."""
    ended = stack.client("stepfunctions").describe_execution(executionArn=execution)
    counts, manifest = Counter(item_counts(stack, execution)), _find_manifest(stack, execution)
    outcomes = Counter(_read_outcomes(stack, manifest)) if manifest else None
    report = BackfillReport(
        photos=counts["total"],
        done=counts["succeeded"],
        failed=counts["failed"] + counts["timedOut"],
        left=counts["pending"] + counts["running"] + counts["aborted"],
        **{name: None if outcomes is None else outcomes[name] for name in ("already", *OUTCOMES)},
        seconds=round((ended["stopDate"] - ended["startDate"]).total_seconds(), 1),
        manifest=f"s3://{stack.output('UploadBucketName')}/{manifest}" if manifest else None,
    )
    failed = ended["status"] in {"FAILED", "TIMED_OUT"}
    return report, (ended.get("cause") or ended.get("error") or ended["status"]) if failed else None


def _find_manifest(stack: Stack, execution: str) -> str | None:
    """Return the key of a backfill's manifest; ``None`` if none was written."""
    if not (map_run := _find_map_run(stack, execution)):
        return None
    key = f"backfills/{map_run.rpartition(':')[2]}/manifest.json"
    found = stack.client("s3").list_objects_v2(Bucket=stack.output("UploadBucketName"), Prefix=key)
    return key if found["KeyCount"] else None


def _read_outcomes(stack: Stack, manifest: str) -> Iterator[str]:
    """Yield the outcome of each photo that has a result; ``already`` if it had the result before."""
    s3, bucket = stack.client("s3"), stack.output("UploadBucketName")
    files = json.load(s3.get_object(Bucket=bucket, Key=manifest)["Body"])["ResultFiles"]["SUCCEEDED"]
    for file in files:
        for photo in json.load(s3.get_object(Bucket=bucket, Key=file["Key"])["Body"]):
            output = json.loads(photo["Output"])
            yield output["outcome"] if output["new"] else "already"
