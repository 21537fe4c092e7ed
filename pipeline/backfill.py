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
"""Seconds between two looks at how far it is."""


@dataclass(frozen=True)
class Report:
    """What became of the photos under a prefix.

    Attributes
    ----------
    photos
        Found there.
    done
        Have a result for the version that they are of.
    failed
        Have none, and their execution failed; its input is in the failed queue.
    left
        Had not begun, or were on their way, when the backfill ended.
    already
        Of those done, that had their result before.
    accepted, needs_review, rejected
        Outcomes of the others.
    seconds
        It took.
    manifest
        Where S3 has what became of each. Without one, those four are unknown.
    """

    photos: int
    done: int
    failed: int
    left: int
    already: int | None
    accepted: int | None
    needs_review: int | None
    rejected: int | None
    seconds: float
    manifest: str | None

    def __str__(self) -> str:
        had = "" if self.already is None else f", {self.already} of them had it before"
        outcomes = (
            ("accepted", self.accepted),
            ("needs_review", self.needs_review),
            ("rejected", self.rejected),
        )
        new = "".join(f", {count} {outcome}" for outcome, count in outcomes if count)
        return (
            f"{self.done} of {self.photos} photos have a result{had}{new}; {self.failed} failed, "
            f"{self.left} left ({self.seconds:.1f} s)."
        )


def photos_under(stack: Stack, prefix: str) -> int:
    """Count what a backfill of a prefix would look at: every object there, with a result or without."""
    pages = stack.client("s3").get_paginator("list_objects_v2")
    return sum(
        page["KeyCount"] for page in pages.paginate(Bucket=stack.output("UploadBucketName"), Prefix=prefix)
    )


def running(stack: Stack, prefix: str) -> str | None:
    """Return the ARN of a backfill of this prefix that runs, if one does.

    Raises
    ------
    StackError
        One of another prefix does.
    """
    step_functions = stack.client("stepfunctions")
    for execution in step_functions.list_executions(
        stateMachineArn=stack.output("BackfillStateMachineArn"), statusFilter="RUNNING"
    )["executions"]:
        arn = str(execution["executionArn"])
        other = json.loads(step_functions.describe_execution(executionArn=arn)["input"]).get("prefix")
        if other != prefix:
            raise StackError(f"a backfill of {other} is running: wait for it, or stop it ({arn})")
        return arn
    return None


def start(stack: Stack, prefix: str, concurrency: int | None, tolerate: float | None) -> str:
    """Start a backfill, and return its execution's ARN.

    Parameters
    ----------
    stack
        Where.
    prefix
        Of the keys.
    concurrency
        Photos at once, ``None`` for as many as the stack allows.
    tolerate
        The percentage of photos that may fail, ``None`` for the stack's.

    Raises
    ------
    StackError
        There is nothing under the prefix.
    """
    bucket = stack.output("UploadBucketName")
    if not stack.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)["KeyCount"]:
        raise StackError(f"there is nothing under s3://{bucket}/{prefix}")
    limits = {"concurrency": concurrency, "tolerated_failure_percentage": tolerate}
    given = {"prefix": prefix} | {name: limit for name, limit in limits.items() if limit is not None}
    execution = stack.client("stepfunctions").start_execution(
        stateMachineArn=stack.output("BackfillStateMachineArn"), input=json.dumps(given)
    )
    return str(execution["executionArn"])


def follow(stack: Stack, execution: str, progress: Progress) -> None:
    """Wait for a backfill's end, and show how far it is."""
    bar = progress.add_task("Finding photos", total=None)
    while described(stack, execution)["status"] == "RUNNING":
        time.sleep(POLL)
        if counts := counts_of(stack, execution):
            ended = counts["total"] - counts["pending"] - counts["running"]
            progress.update(bar, description="Classifying", total=counts["total"], completed=ended)


def described(stack: Stack, execution: str) -> Mapping[str, Any]:
    """Return what Step Functions says of an execution."""
    answer: Mapping[str, Any] = stack.client("stepfunctions").describe_execution(executionArn=execution)
    return answer


def counts_of(stack: Stack, execution: str) -> Mapping[str, int]:
    """Return how many photos of a backfill are where; nothing before it has found them."""
    map_run = map_run_of(stack, execution)
    if map_run is None:
        return {}
    described_run = stack.client("stepfunctions").describe_map_run(mapRunArn=map_run)
    counts: Mapping[str, int] = described_run["itemCounts"]
    return counts


def map_run_of(stack: Stack, execution: str) -> str | None:
    """Return the ARN of a backfill's map run; ``None`` until it has begun."""
    runs = stack.client("stepfunctions").list_map_runs(executionArn=execution)["mapRuns"]
    return str(runs[0]["mapRunArn"]) if runs else None


def account(stack: Stack, execution: str) -> tuple[Report, str | None]:
    """Say what became of the photos of a backfill that has ended, and why it was given up, if it was."""
    ended, counts = described(stack, execution), Counter(counts_of(stack, execution))
    manifest = manifest_of(stack, execution)
    outcomes = Counter(results(stack, manifest)) if manifest else None
    report = Report(
        photos=counts["total"],
        done=counts["succeeded"],
        failed=counts["failed"] + counts["timedOut"],
        left=counts["pending"] + counts["running"] + counts["aborted"],
        already=None if outcomes is None else outcomes["already"],
        accepted=None if outcomes is None else outcomes["accepted"],
        needs_review=None if outcomes is None else outcomes["needs_review"],
        rejected=None if outcomes is None else outcomes["rejected"],
        seconds=round((ended["stopDate"] - ended["startDate"]).total_seconds(), 1),
        manifest=f"s3://{stack.output('UploadBucketName')}/{manifest}" if manifest else None,
    )
    failed = ended["status"] in {"FAILED", "TIMED_OUT"}
    return report, (ended.get("cause") or ended.get("error") or ended["status"]) if failed else None


def manifest_of(stack: Stack, execution: str) -> str | None:
    """Return the key of a backfill's manifest; ``None`` where none was written."""
    map_run = map_run_of(stack, execution)
    if map_run is None:
        return None
    key = f"backfills/{map_run.rpartition(':')[2]}/manifest.json"
    found = stack.client("s3").list_objects_v2(Bucket=stack.output("UploadBucketName"), Prefix=key)
    return key if found["KeyCount"] else None


def results(stack: Stack, manifest: str) -> Iterator[str]:
    """Yield the outcome of each photo that has a result, ``already`` where it had it before."""
    s3, bucket = stack.client("s3"), stack.output("UploadBucketName")
    files = json.load(s3.get_object(Bucket=bucket, Key=manifest)["Body"])["ResultFiles"]["SUCCEEDED"]
    for file in files:
        for photo in json.load(s3.get_object(Bucket=bucket, Key=file["Key"])["Body"]):
            output = json.loads(photo["Output"])
            yield output["outcome"] if output["new"] else "already"
