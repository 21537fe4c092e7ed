"""Run the backfill state machine over photos that are already in the bucket."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress

from pipeline.stack import Stack, StackError

POLL = 1.0
"""Seconds between two status requests."""


@dataclass(frozen=True)
class BackfillReport:
    """The number of photos under a prefix by what happened to them.

    The numbers that may be ``None`` are unknown without a manifest.
    """

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
        outcomes = {"accepted": self.accepted, "needs_review": self.needs_review, "rejected": self.rejected}
        new = "".join(f", {count} {outcome}" for outcome, count in outcomes.items() if count)
        return (
            f"{self.done} of {self.photos} photos have a result{before}{new}; {self.failed} failed, "
            f"{self.left} not processed ({self.seconds:.1f} s)."
        )


def count_photos(stack: Stack, prefix: str) -> int:
    """Count the objects under a prefix, with or without a result."""
    pages = stack.client("s3").get_paginator("list_objects_v2")
    return sum(
        page["KeyCount"] for page in pages.paginate(Bucket=stack.output("UploadBucketName"), Prefix=prefix)
    )


def find_running(stack: Stack, prefix: str) -> str | None:
    """Return the ARN of the running backfill of this prefix; ``None`` if no backfill is running.

    Raises `StackError` if a backfill of another prefix is running.
    """
    step_functions = stack.client("stepfunctions")
    running = step_functions.list_executions(
        stateMachineArn=stack.output("BackfillStateMachineArn"), statusFilter="RUNNING"
    )["executions"]
    if not running:
        return None
    arn = str(running[0]["executionArn"])
    other = json.loads(describe_execution(stack, arn)["input"]).get("prefix")
    if other != prefix:
        raise StackError(f"A backfill of {other} is running. Wait until it ends, or stop it: {arn}")
    return arn


def start(stack: Stack, prefix: str, concurrency: int | None, tolerate: float | None) -> str:
    """Start a backfill and return its execution's ARN.

    `concurrency` is the number of photos to process at once, `tolerate` the percentage that may fail; both
    default to the stack's parameters.

    Raises `StackError` if there are no objects under the prefix.
    """
    bucket = stack.output("UploadBucketName")
    if not stack.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)["KeyCount"]:
        raise StackError(f"No photos under s3://{bucket}/{prefix}")
    settings = {"prefix": prefix, "concurrency": concurrency, "tolerated_failure_percentage": tolerate}
    execution_input = {name: value for name, value in settings.items() if value is not None}
    execution = stack.client("stepfunctions").start_execution(
        stateMachineArn=stack.output("BackfillStateMachineArn"), input=json.dumps(execution_input)
    )
    return str(execution["executionArn"])


def follow(stack: Stack, execution: str, progress: Progress) -> None:
    """Show the progress of a backfill until it ends."""
    bar = progress.add_task("Finding photos", total=None)
    while describe_execution(stack, execution)["status"] == "RUNNING":
        time.sleep(POLL)
        if counts := item_counts(stack, execution):
            ended = counts["total"] - counts["pending"] - counts["running"]
            progress.update(bar, description="Classifying", total=counts["total"], completed=ended)


def stop(stack: Stack, execution: str) -> None:
    """Stop a backfill; photos already started still get their result."""
    stack.client("stepfunctions").stop_execution(executionArn=execution)


def describe_execution(stack: Stack, execution: str) -> Mapping[str, Any]:
    """Return Step Functions' description of an execution."""
    description: Mapping[str, Any] = stack.client("stepfunctions").describe_execution(executionArn=execution)
    return description


def item_counts(stack: Stack, execution: str) -> Mapping[str, int]:
    """Return a backfill's number of photos by status; empty until it has found them."""
    map_run = find_map_run(stack, execution)
    if map_run is None:
        return {}
    description = stack.client("stepfunctions").describe_map_run(mapRunArn=map_run)
    counts: Mapping[str, int] = description["itemCounts"]
    return counts


def find_map_run(stack: Stack, execution: str) -> str | None:
    """Return the ARN of a backfill's map run; ``None`` until it has started."""
    runs = stack.client("stepfunctions").list_map_runs(executionArn=execution)["mapRuns"]
    return str(runs[0]["mapRunArn"]) if runs else None


def summarize(stack: Stack, execution: str) -> tuple[BackfillReport, str | None]:
    """Return the report of a backfill that has ended, and why it failed, if it did."""
    ended, counts = describe_execution(stack, execution), Counter(item_counts(stack, execution))
    manifest = find_manifest(stack, execution)
    outcomes = Counter(read_outcomes(stack, manifest)) if manifest else None
    names = ("already", "accepted", "needs_review", "rejected")
    report = BackfillReport(
        photos=counts["total"],
        done=counts["succeeded"],
        failed=counts["failed"] + counts["timedOut"],
        left=counts["pending"] + counts["running"] + counts["aborted"],
        **{name: None if outcomes is None else outcomes[name] for name in names},
        seconds=round((ended["stopDate"] - ended["startDate"]).total_seconds(), 1),
        manifest=f"s3://{stack.output('UploadBucketName')}/{manifest}" if manifest else None,
    )
    failed = ended["status"] in {"FAILED", "TIMED_OUT"}
    return report, (ended.get("cause") or ended.get("error") or ended["status"]) if failed else None


def find_manifest(stack: Stack, execution: str) -> str | None:
    """Return the key of a backfill's manifest; ``None`` if none was written."""
    map_run = find_map_run(stack, execution)
    if map_run is None:
        return None
    key = f"backfills/{map_run.rpartition(':')[2]}/manifest.json"
    found = stack.client("s3").list_objects_v2(Bucket=stack.output("UploadBucketName"), Prefix=key)
    return key if found["KeyCount"] else None


def read_outcomes(stack: Stack, manifest: str) -> Iterator[str]:
    """Yield the outcome of each photo that has a result; ``already`` if it had the result before."""
    s3, bucket = stack.client("s3"), stack.output("UploadBucketName")
    files = json.load(s3.get_object(Bucket=bucket, Key=manifest)["Body"])["ResultFiles"]["SUCCEEDED"]
    for file in files:
        for photo in json.load(s3.get_object(Bucket=bucket, Key=file["Key"])["Body"]):
            output = json.loads(photo["Output"])
            yield output["outcome"] if output["new"] else "already"
