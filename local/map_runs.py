"""What the emulator's Distributed Map lacks: limits from paths, stopping, and result files."""

# ruff: noqa: SLF001  ministack has no hooks, so its private functions are replaced

import json
from collections.abc import Callable, Mapping
from typing import Any

import boto3
from ministack.services import stepfunctions

LIMITS = ("MaxConcurrency", "ToleratedFailurePercentage")
"""Fields that the emulator reads only as literals, not as ``…Path``."""

type Json = dict[str, Any]
type RunMap = Callable[..., tuple[Any, str | None]]


def support_limit_paths_and_result_writer(run_map: RunMap) -> RunMap:
    """Make a Distributed Map read its limits from paths, and write result files if it has a ResultWriter.

    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
    """

    def run(state: Json, *arguments: Any) -> tuple[Any, str | None]:  # noqa: ANN401  the emulator's
        _, effective, _, execution, context = arguments
        limits = {
            name: stepfunctions._resolve_path_or_ctx(state[f"{name}Path"], effective, context)
            for name in LIMITS
            if f"{name}Path" in state
        }
        written = None
        try:
            output, following = run_map(state | limits, *arguments)
        finally:
            map_run = latest_map_run(execution)
            if map_run and execution["status"] == "ABORTED":
                count_aborted(map_run)
            if map_run and "ResultWriter" in state:
                written = write_results(state["ResultWriter"], effective, context, map_run)
        return written or output, following

    return run


def latest_map_run(execution: Mapping[str, Any]) -> Json | None:
    """Return the last map run of an execution; ``None`` if it failed to list its items."""
    map_runs: list[Json] = stepfunctions._map_runs.values()
    runs = [run for run in map_runs if run["executionArn"] == execution["executionArn"]]
    return runs[-1] if runs else None


def children(map_run: Mapping[str, Any]) -> list[Json]:
    """Return the child executions of a map run."""
    executions = stepfunctions._executions.values()
    return [child for child in executions if child.get("mapRunArn") == map_run["mapRunArn"]]


def start_no_children_of_aborted_run(run_states: Callable[..., Any]) -> Callable[..., Any]:
    """Do not start a child execution once its parent has been stopped."""

    def run(states: Json, start: str, given: Any, execution: Json, context: Json) -> Any:  # noqa: ANN401
        if map_run := stepfunctions._map_runs.get(execution.get("mapRunArn")):
            parent = stepfunctions._executions[map_run["executionArn"]]
            if parent["status"] == "ABORTED":
                raise stepfunctions._ExecutionError("States.Aborted", "the map run was stopped")
        return run_states(states, start, given, execution, context)

    return run


def keep_aborted_status(fail: Callable[[Json, str, str], None]) -> Callable[[Json, str, str], None]:
    """Keep a stopped execution ABORTED, even if its last state then raises."""

    def fail_running(execution: Json, error: str, cause: str) -> None:
        if execution["status"] != "ABORTED":
            fail(execution, error, cause)

    return fail_running


def count_aborted(map_run: Json) -> None:
    """Count child executions that were never started as aborted instead of failed."""
    aborted = [child for child in children(map_run) if child.get("error") == "States.Aborted"]
    for child in aborted:
        child["status"] = "ABORTED"
    for counts in (map_run["itemCounts"], map_run["executionCounts"]):
        counts["failed"] -= len(aborted)
        counts["aborted"] += len(aborted)
    map_run["status"] = "ABORTED"


def write_results(writer: Json, effective: Any, context: Json, map_run: Json) -> Json:  # noqa: ANN401
    """Write the result files and their manifest to S3; return the state's output."""
    target = stepfunctions._resolve_params_obj(writer["Parameters"], effective, context)
    bucket, folder = target["Bucket"], f"{target['Prefix']}/{map_run['mapRunArn'].rpartition(':')[2]}"
    s3, files = boto3.client("s3"), dict[str, list[Json]](SUCCEEDED=[], FAILED=[], PENDING=[])
    for status in ("SUCCEEDED", "FAILED"):
        if ended := [child for child in children(map_run) if child["status"] == status]:
            key = f"{folder}/{status}_0.json"
            body = json.dumps([as_result(child) for child in ended]).encode()
            s3.put_object(Bucket=bucket, Key=key, Body=body)
            files[status].append({"Key": key, "Size": len(body)})
            map_run["itemCounts"]["resultsWritten"] += len(ended)
    manifest = {"DestinationBucket": bucket, "MapRunArn": map_run["mapRunArn"], "ResultFiles": files}
    s3.put_object(Bucket=bucket, Key=f"{folder}/manifest.json", Body=json.dumps(manifest).encode())
    return {
        "MapRunArn": map_run["mapRunArn"],
        "ResultWriterDetails": {"Bucket": bucket, "Key": f"{folder}/manifest.json"},
    }


def as_result(child: Json) -> Json:
    """Convert an execution to an entry of a result file, whose keys are capitalized."""
    names = ("executionArn", "name", "input", "output", "error", "cause", "status", "startDate", "stopDate")
    return {name[0].upper() + name[1:]: child[name] for name in names if child.get(name) is not None}


def install() -> None:
    """Patch the emulator."""
    stepfunctions._run_distributed_map = support_limit_paths_and_result_writer(
        stepfunctions._run_distributed_map
    )
    stepfunctions._run_sub_machine = start_no_children_of_aborted_run(stepfunctions._run_sub_machine)
    stepfunctions._fail_execution = keep_aborted_status(stepfunctions._fail_execution)
