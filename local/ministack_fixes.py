"""Fixes for places where ministack behaves differently from AWS."""

# ruff: noqa: ANN401, SLF001  ministack has no types, and no hooks but its private functions

import contextvars
import email.utils
import functools
import json
import os
import re
import threading
from collections.abc import Callable
from typing import Any

from ministack.core import iam_actions, iam_evaluator, lambda_runtime
from ministack.core.router import extract_access_key_id, extract_region
from ministack.services import eventbridge, lambda_svc, s3, stepfunctions
from ministack.services.cloudformation import provisioners

from local.patches import patch

type S3Response = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""
type Query = dict[str, list[str]] | None

executions = threading.Semaphore(2 * (os.process_cpu_count() or 1))
"""Executions that run; the others wait. Each Lambda call in flight is a process of 100 MB."""
memory_size = contextvars.ContextVar[int]("memory_size")
"""Memory in MB of the function whose container is about to start."""
object_version = contextvars.ContextVar[str | None]("object_version", default=None)

UNNAMED, NAMED = '"error": str(e), "trace"', '"error": type(e).__name__ + chr(0) + str(e), "trace"'
"""How ministack's worker script returns an exception, and how it returns one with the name of its class."""
assert UNNAMED in lambda_runtime._PYTHON_WORKER_SCRIPT  # noqa: S101  fails if ministack needs another fix
lambda_runtime._PYTHON_WORKER_SCRIPT = lambda_runtime._PYTHON_WORKER_SCRIPT.replace(UNNAMED, NAMED)


@patch(stepfunctions, "_run_execution")
def limit_concurrent_executions(run: Callable[[str], None], arn: str) -> None:
    """Run a limited number of executions at a time, so that a burst of photos does not exhaust memory."""
    with executions:
        run(arn)


@functools.cache
def compile_wildcards(pattern: str, ignore_case: bool) -> re.Pattern[str]:  # noqa: FBT001  ministack's signature
    """Compile a policy's pattern; ministack's own stops at a line break, which a photo's key may contain."""
    regex = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
    return re.compile(regex + r"\Z", re.DOTALL | (re.IGNORECASE if ignore_case else re.NOFLAG))


iam_evaluator._fnmatch_compile = compile_wildcards


@patch(s3, "_get_object")
def return_403_for_missing_keys(
    get: Callable[..., S3Response], bucket: str, key: str, headers: dict[str, str], query: Query = None
) -> S3Response:
    """Return 403, not 404, to callers that may not list the bucket, as S3 does (API Reference, GetObject)."""
    response = get(bucket, key, headers, query)
    if b"<Code>NoSuchKey</Code>" not in response[2]:
        return response
    access_key, region = extract_access_key_id(headers, query or {}), extract_region(headers, query or {})
    arn = f"arn:aws:s3:::{bucket}"
    if iam_evaluator.enforce(access_key, "s3:ListBucket", "s3", region, arn) is None:
        return response
    message = f"The caller is not authorized to perform: s3:ListBucket on resource: {arn}"
    denied: S3Response = s3._error("AccessDenied", message, 403, f"/{bucket}/{key}")
    return denied


@patch(iam_actions, "extract_resource_arn")
def keep_slashes_in_object_arn(
    resource_arn: Callable[..., str], service: str, method: str, path: str, *rest: object
) -> str:
    """Authorize a request for an S3 object by its whole key; ministack drops the key's empty parts."""
    bucket, _, key = path.removeprefix("/").partition("/")
    if service == "s3" and key:
        return f"arn:aws:s3:::{bucket}/{key}"
    return resource_arn(service, method, path, *rest)


@patch(iam_actions, "extract_resource_arn")
def name_map_run_and_rule(resource_arn: Callable[..., str], service: str, *request: Any) -> str:
    """Authorize requests about a map run or a rule by its ARN, for which ministack substitutes another."""
    arn, body = resource_arn(service, *request), request[3]
    if service not in {"states", "events"}:
        return arn
    fields = json.loads(body or b"{}")
    if map_run := fields.get("mapRunArn"):
        return str(map_run)
    if rule := fields.get("Rule"):
        arn = f"{arn.partition(':event-bus/')[0]}:rule/{fields.get('EventBusName', 'default')}/{rule}"
    # Rules of the default bus are named without it (Service Authorization Reference, EventBridge).
    return arn.replace(":rule/default/", ":rule/")


@patch(iam_actions, "extract_resource_arn")
def end_log_group_arn(resource_arn: Callable[..., str], service: str, *request: Any) -> str:
    """Authorize requests about a log group by its ARN with ``:*`` at the end, as AWS does except for tags.

    https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_LogGroup.html
    """
    arn = resource_arn(service, *request)
    with_group = service == "logs" and b"logGroupName" in (request[3] or b"")
    return f"{arn}:*" if with_group and arn != "*" else arn


@patch(iam_actions, "extract_iam_action")
def authorize_batch_as_single(iam_action: Callable[..., str | None], *request: Any) -> str | None:
    """Authorize a batch by the action for one message or version, as AWS does (API Reference)."""
    action, body = iam_action(*request), request[4]
    if action == "s3:DeleteObject" and b"<VersionId>" in body:
        return "s3:DeleteObjectVersion"
    return action.removesuffix("Batch") if action and action.startswith("sqs:") else action


@patch(lambda_svc, "_spawn_lambda_container_impl")
def record_memory_size(spawn: Callable[..., Any], config: dict[str, Any], *rest: Any) -> Any:
    """Record a function's memory size for `fill_in_memory_size`."""
    memory_size.set(config["MemorySize"])
    return spawn(config, *rest)


@patch(lambda_svc, "_parse_docker_flags")
def fill_in_memory_size(parse: Callable[[str], dict[str, Any]], flags: str) -> dict[str, Any]:
    """Limit a container to its function's memory; ministack passes every container the same flags."""
    return parse(flags.format(memory=memory_size.get()))


@patch(lambda_svc, "_execute_function_warm")
def report_exception_class(execute: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Report an exception by its class, and the end of the process as ``Runtime.ExitError``, as Lambda does.

    A Retry in the state machine matches these names; ministack reports ``Runtime.HandlerError`` for all.
    """
    result = execute(*arguments)
    if result.get("error"):
        name, separator, message = result["body"].get("errorMessage", "").partition("\0")
        if separator:
            result["body"] |= {"errorType": name, "errorMessage": message}
        elif name == "Worker process died":
            result["body"]["errorType"] = "Runtime.ExitError"
    return result


@patch(s3, "_fire_s3_event")
def record_object_version(
    fire: Callable[..., None], *arguments: object, version_id: str | None = None, **options: object
) -> None:
    """Record an object's version id for `add_object_version`."""
    object_version.set(version_id)
    fire(*arguments, version_id=version_id, **options)


@patch(eventbridge, "_dispatch_event")
def add_object_version(dispatch: Callable[..., None], event: dict[str, Any], view: Any = None) -> None:
    """Add the version id to S3's events, which ministack leaves out.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
    """
    if event["Source"] == "aws.s3" and (version_id := object_version.get()):
        detail = json.loads(event["Detail"])
        detail["object"]["version-id"] = version_id
        event = event | {"Detail": json.dumps(detail)}
    dispatch(event, view)


@patch(stepfunctions, "_dispatch_aws_sdk_rest_xml")
def return_iso_time(dispatch: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return the time of HeadObject in ISO 8601, in which AWS's SDK has parsed the header."""
    output = dispatch(*arguments)
    if "LastModified" in output:
        modified = email.utils.parsedate_to_datetime(output["LastModified"])
        output |= {"LastModified": f"{modified:%FT%TZ}"}
    return output


@patch(provisioners, "_cw_metric_alarm_record")
def watch_first_metric(record: Callable[..., Any], name: str, properties: dict[str, Any]) -> Any:
    """Let an alarm on an expression of metrics, which ministack rejects, watch the first of them."""
    if "Metrics" in properties:
        first = next(one["MetricStat"] for one in properties["Metrics"] if "MetricStat" in one)
        watched = first["Metric"] | {"Statistic": first["Stat"], "Period": first["Period"]}
        properties = {key: value for key, value in properties.items() if key != "Metrics"} | watched
    return record(name, properties)
