"""What the emulator's Distributed Map lacks: limits from paths, stopping, and result files."""

# ruff: noqa: ANN401, SLF001  ministack has no types, and no hooks but its private functions

import json
from collections.abc import Callable, Mapping
from typing import Any

import boto3
from ministack.services import stepfunctions

from local.patches import patch

LIMITS = ("MaxConcurrency", "ToleratedFailurePercentage")
"""Fields that the emulator reads only as literals, not as ``…Path``."""

type Json = dict[str, Any]


@patch(stepfunctions, "_run_distributed_map")
def support_limit_paths_and_result_writer(
    run_map: Callable[..., tuple[Any, str | None]], state: Json, *arguments: Any
) -> tuple[Any, str | None]:
    """Read the limits of a Distributed Map from paths, and write result files if it has a ResultWriter.

    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
    """
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
        map_run = _latest_map_run(execution)
        if map_run and execution["status"] == "ABORTED":
            _count_aborted(map_run)
        if map_run and "ResultWriter" in state:
            written = _write_results(state["ResultWriter"], effective, context, map_run)
    return written or output, following


@patch(stepfunctions, "_run_sub_machine")
def start_no_children_of_aborted_run(run_states: Callable[..., Any], *arguments: Any) -> Any:
    """Do not start a child execution once its parent has been stopped."""
    *_, execution, _ = arguments
    if map_run := stepfunctions._map_runs.get(execution.get("mapRunArn")):
        parent = stepfunctions._executions[map_run["executionArn"]]
        if parent["status"] == "ABORTED":
            raise stepfunctions._ExecutionError("States.Aborted", "the map run was stopped")
    return run_states(*arguments)


@patch(stepfunctions, "_fail_execution")
def keep_aborted_status(fail: Callable[..., None], execution: Json, error: str, cause: str) -> None:
    """Keep a stopped execution ABORTED, even if its last state then raises."""
    if execution["status"] != "ABORTED":
        fail(execution, error, cause)


def _latest_map_run(execution: Mapping[str, Any]) -> Json | None:
    # An execution that failed to list its items has none.
    map_runs: list[Json] = stepfunctions._map_runs.values()
    runs = [run for run in map_runs if run["executionArn"] == execution["executionArn"]]
    return runs[-1] if runs else None


def _children(map_run: Mapping[str, Any]) -> list[Json]:
    executions = stepfunctions._executions.values()
    return [child for child in executions if child.get("mapRunArn") == map_run["mapRunArn"]]


def _count_aborted(map_run: Json) -> None:
    """Count child executions that were never started as aborted instead of failed."""
    aborted = [child for child in _children(map_run) if child.get("error") == "States.Aborted"]
    for child in aborted:
        child["status"] = "ABORTED"
    for counts in (map_run["itemCounts"], map_run["executionCounts"]):
        counts["failed"] -= len(aborted)
        counts["aborted"] += len(aborted)
    map_run["status"] = "ABORTED"


def _write_results(writer: Json, effective: Any, context: Json, map_run: Json) -> Json:
    """Write the result files and their manifest to S3; return the state's output."""
    target = stepfunctions._resolve_params_obj(writer["Parameters"], effective, context)
    bucket, folder = target["Bucket"], f"{target['Prefix']}/{map_run['mapRunArn'].rpartition(':')[2]}"
    s3, files = boto3.client("s3"), dict[str, list[Json]](SUCCEEDED=[], FAILED=[], PENDING=[])
    for status in ("SUCCEEDED", "FAILED"):
        if ended := [child for child in _children(map_run) if child["status"] == status]:
            key = f"{folder}/{status}_0.json"
            body = json.dumps([_as_result(child) for child in ended]).encode()
            s3.put_object(Bucket=bucket, Key=key, Body=body)
            files[status].append({"Key": key, "Size": len(body)})
            map_run["itemCounts"]["resultsWritten"] += len(ended)
    manifest = {"DestinationBucket": bucket, "MapRunArn": map_run["mapRunArn"], "ResultFiles": files}
    s3.put_object(Bucket=bucket, Key=f"{folder}/manifest.json", Body=json.dumps(manifest).encode())
    return {
        "MapRunArn": map_run["mapRunArn"],
        "ResultWriterDetails": {"Bucket": bucket, "Key": f"{folder}/manifest.json"},
    }


def _as_result(child: Json) -> Json:
    """Convert an execution to an entry of a result file, whose keys are capitalized."""
    names = ("executionArn", "name", "input", "output", "error", "cause", "status", "startDate", "stopDate")
    return {name[0].upper() + name[1:]: child[name] for name in names if child.get(name) is not None}
