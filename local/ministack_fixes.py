"""Fixes for places where ministack behaves differently from AWS."""

# ruff: noqa: SLF001  ministack has no hooks, so its private functions are replaced

import contextvars
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

EXECUTIONS_AT_ONCE = 2 * (os.process_cpu_count() or 1)
"""Executions that run; the others wait. Each Lambda call in flight is a process of 100 MB."""

type S3Response = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""
type GetObject = Callable[..., S3Response]
type Execute = Callable[[dict[str, Any], dict[str, Any], str], dict[str, Any]]


def limit_concurrent_executions(run: Callable[[str], None]) -> Callable[[str], None]:
    """Run a limited number of executions at a time, so that a burst of photos does not exhaust memory."""
    slots = threading.Semaphore(EXECUTIONS_AT_ONCE)

    def run_in_slot(arn: str) -> None:
        with slots:
            run(arn)

    return run_in_slot


@functools.cache
def compile_wildcards(pattern: str, ignore_case: bool) -> re.Pattern[str]:  # noqa: FBT001  ministack's signature
    """Compile a policy's pattern; ministack's own stops at a line break, which a photo's key may contain."""
    regex = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
    return re.compile(regex + r"\Z", re.DOTALL | (re.IGNORECASE if ignore_case else re.NOFLAG))


def return_403_for_missing_keys(get: GetObject) -> GetObject:
    """Return 403, not 404, to callers that may not list the bucket, as S3 does (API Reference, GetObject)."""

    def get_object(
        bucket: str, key: str, headers: dict[str, str], query: dict[str, list[str]] | None = None
    ) -> S3Response:
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

    return get_object


def keep_slashes_in_object_arn(resource_arn: Callable[..., str]) -> Callable[..., str]:
    """Authorize a request for an S3 object by its whole key; ministack drops the key's empty parts."""

    def object_arn(service: str, method: str, path: str, *rest: object) -> str:
        bucket, _, key = path.removeprefix("/").partition("/")
        if service == "s3" and key:
            return f"arn:aws:s3:::{bucket}/{key}"
        return resource_arn(service, method, path, *rest)

    return object_arn


memory_size = contextvars.ContextVar[int]("memory_size")
"""Memory in MB of the function whose container is about to start."""


def record_memory_size(spawn: Callable[..., Any]) -> Callable[..., Any]:
    """Record a function's memory size for `fill_in_memory_size`."""

    def spawn_container(config: dict[str, Any], *rest: Any) -> Any:  # noqa: ANN401  passed through
        memory_size.set(config["MemorySize"])
        return spawn(config, *rest)

    return spawn_container


def fill_in_memory_size(parse: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """Limit a container to its function's memory; ministack passes every container the same flags."""
    return lambda flags: parse(flags.format(memory=memory_size.get()))


UNNAMED, NAMED = '"error": str(e), "trace"', '"error": type(e).__name__ + chr(0) + str(e), "trace"'
"""How ministack's worker script returns an exception, and how it returns one with the name of its class."""


def report_exception_class(execute: Execute) -> Execute:
    """Report an exception by its class, and the end of the process as ``Runtime.ExitError``, as Lambda does.

    A Retry in the state machine matches these names; ministack reports ``Runtime.HandlerError`` for all.
    """

    def execute_named(function: dict[str, Any], event: dict[str, Any], request_id: str) -> dict[str, Any]:
        result = execute(function, event, request_id)
        if result.get("error"):
            name, separator, message = result["body"].get("errorMessage", "").partition("\0")
            if separator:
                result["body"] |= {"errorType": name, "errorMessage": message}
            elif name == "Worker process died":
                result["body"]["errorType"] = "Runtime.ExitError"
        return result

    return execute_named


object_version = contextvars.ContextVar[str | None]("object_version", default=None)


def record_object_version(fire: Callable[..., None]) -> Callable[..., None]:
    """Record an object's version id for `add_object_version`."""

    def fire_event(*arguments: object, version_id: str | None = None, **options: object) -> None:
        object_version.set(version_id)
        fire(*arguments, version_id=version_id, **options)

    return fire_event


def add_object_version(dispatch: Callable[..., None]) -> Callable[..., None]:
    """Add the version id to S3's events, which ministack leaves out.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
    """

    def dispatch_event(event: dict[str, Any], view: Any = None) -> None:  # noqa: ANN401  ministack's
        if event["Source"] == "aws.s3" and (version_id := object_version.get()):
            detail = json.loads(event["Detail"])
            detail["object"]["version-id"] = version_id
            event = event | {"Detail": json.dumps(detail)}
        dispatch(event, view)

    return dispatch_event


def install() -> None:
    """Patch ministack."""
    script = lambda_runtime._PYTHON_WORKER_SCRIPT
    assert UNNAMED in script  # noqa: S101  fails if another version of ministack needs another fix
    lambda_runtime._PYTHON_WORKER_SCRIPT = script.replace(UNNAMED, NAMED)
    lambda_svc._execute_function_warm = report_exception_class(lambda_svc._execute_function_warm)
    lambda_svc._spawn_lambda_container_impl = record_memory_size(lambda_svc._spawn_lambda_container_impl)
    lambda_svc._parse_docker_flags = fill_in_memory_size(lambda_svc._parse_docker_flags)
    stepfunctions._run_execution = limit_concurrent_executions(stepfunctions._run_execution)
    s3._get_object = return_403_for_missing_keys(s3._get_object)
    s3._fire_s3_event = record_object_version(s3._fire_s3_event)
    eventbridge._dispatch_event = add_object_version(eventbridge._dispatch_event)
    iam_actions.extract_resource_arn = keep_slashes_in_object_arn(iam_actions.extract_resource_arn)
    iam_evaluator._fnmatch_compile = compile_wildcards
