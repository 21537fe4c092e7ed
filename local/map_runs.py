"""What the emulator lacks of a Distributed Map: limits from the input, an end when stopped, results in S3."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import boto3
from ministack.services import stepfunctions

LIMITS = ("MaxConcurrency", "ToleratedFailurePercentage")
"""Fields that the emulator reads, but not where their value is a path into the input."""
ENDED = ("SUCCEEDED", "FAILED")

type Json = dict[str, Any]
type RunMap = Callable[..., tuple[Any, str | None]]


def with_limits_and_results(run_map: RunMap) -> RunMap:
    """Make a Distributed Map take its limits from paths, and write its results where a ResultWriter says.

    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
    """

    def run(state: Json, *given: Any) -> tuple[Any, str | None]:  # noqa: ANN401  the emulator's
        _, effective, _, execution, context = given
        limits = {
            name: stepfunctions._resolve_path_or_ctx(state[f"{name}Path"], effective, context)  # noqa: SLF001
            for name in LIMITS
            if f"{name}Path" in state
        }
        written = None
        try:
            output, after = run_map(state | limits, *given)
        finally:
            map_run = latest_of(execution)
            if map_run and execution["status"] == "ABORTED":
                count_aborted(map_run)
            if map_run and "ResultWriter" in state:
                written = write_results(state["ResultWriter"], effective, context, map_run)
        return written or output, after

    return run


def latest_of(execution: Mapping[str, Any]) -> Json | None:
    """Return the last map run of an execution; ``None`` if its items could not even be listed."""
    every: list[Json] = stepfunctions._map_runs.values()  # noqa: SLF001
    runs = [run for run in every if run["executionArn"] == execution["executionArn"]]
    return runs[-1] if runs else None


def children_of(map_run: Mapping[str, Any]) -> list[Json]:
    """Return the executions of a map run."""
    executions = stepfunctions._executions.values()  # noqa: SLF001
    return [child for child in executions if child.get("mapRunArn") == map_run["mapRunArn"]]


def until_stopped(run_states: Callable[..., Any]) -> Callable[..., Any]:
    """Make the executions of a map run begin only while the one that they belong to has not been stopped."""

    def run(states: Json, start: str, given: Any, execution: Json, context: Json) -> Any:  # noqa: ANN401
        if map_run := stepfunctions._map_runs.get(execution.get("mapRunArn")):  # noqa: SLF001
            parent = stepfunctions._executions[map_run["executionArn"]]  # noqa: SLF001
            if parent["status"] == "ABORTED":
                raise stepfunctions._ExecutionError("States.Aborted", "the map run was stopped")  # noqa: SLF001
        return run_states(states, start, given, execution, context)

    return run


def unless_stopped(fail: Callable[[Json, str, str], None]) -> Callable[[Json, str, str], None]:
    """Let an execution that was stopped stay so, whatever its last state raises."""

    def fail_running(execution: Json, error: str, cause: str) -> None:
        if execution["status"] != "ABORTED":
            fail(execution, error, cause)

    return fail_running


def count_aborted(map_run: Json) -> None:
    """Tell those that never began from those that failed."""
    stopped = [child for child in children_of(map_run) if child.get("error") == "States.Aborted"]
    for child in stopped:
        child["status"] = "ABORTED"
    for counts in (map_run["itemCounts"], map_run["executionCounts"]):
        counts["failed"] -= len(stopped)
        counts["aborted"] += len(stopped)
    map_run["status"] = "ABORTED"


def write_results(writer: Json, effective: Any, context: Json, map_run: Json) -> Json:  # noqa: ANN401
    """Write what became of each item, and a manifest of that; return the state's output."""
    where = stepfunctions._resolve_params_obj(writer["Parameters"], effective, context)  # noqa: SLF001
    bucket, folder = where["Bucket"], f"{where['Prefix']}/{map_run['mapRunArn'].rpartition(':')[2]}"
    s3, files = boto3.client("s3"), dict[str, list[Json]](SUCCEEDED=[], FAILED=[], PENDING=[])
    for status in ENDED:
        if children := [child for child in children_of(map_run) if child["status"] == status]:
            key = f"{folder}/{status}_0.json"
            body = json.dumps([result_of(child) for child in children]).encode()
            s3.put_object(Bucket=bucket, Key=key, Body=body)
            files[status].append({"Key": key, "Size": len(body)})
            map_run["itemCounts"]["resultsWritten"] += len(children)
    manifest = {"DestinationBucket": bucket, "MapRunArn": map_run["mapRunArn"], "ResultFiles": files}
    s3.put_object(Bucket=bucket, Key=f"{folder}/manifest.json", Body=json.dumps(manifest).encode())
    return {
        "MapRunArn": map_run["mapRunArn"],
        "ResultWriterDetails": {"Bucket": bucket, "Key": f"{folder}/manifest.json"},
    }


def result_of(child: Json) -> Json:
    """Tell an execution as a result file does."""
    names = ("executionArn", "name", "input", "output", "error", "cause", "status", "startDate", "stopDate")
    return {name[0].upper() + name[1:]: child[name] for name in names if child.get(name) is not None}


def install() -> None:
    """Put all of it in the emulator's place; there are no hooks for it."""
    stepfunctions._run_distributed_map = with_limits_and_results(stepfunctions._run_distributed_map)  # noqa: SLF001
    stepfunctions._run_sub_machine = until_stopped(stepfunctions._run_sub_machine)  # noqa: SLF001
    stepfunctions._fail_execution = unless_stopped(stepfunctions._fail_execution)  # noqa: SLF001
