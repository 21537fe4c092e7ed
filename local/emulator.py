"""The emulator: ministack, mended, with what it lacks: SageMaker's runtime, metrics, whole map runs, Express.

Run as ``hypercorn local.emulator:app``, with the address of the model's server in ``MODEL_URL``.
"""

import contextvars
import functools
import json
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import httpx
from ministack.app import app as ministack
from ministack.core import iam_actions, iam_evaluator, lambda_runtime
from ministack.core.iam_actions import access_denied_response
from ministack.core.iam_evaluator import AuthError, enforce, pin_signed_body, pin_signed_request
from ministack.core.responses import get_account_id, set_request_account_id, set_request_region
from ministack.core.router import extract_access_key_id, extract_region
from ministack.services import eventbridge, lambda_svc, s3, stepfunctions
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from local import express, map_runs, metrics

INVOCATIONS = re.compile(r"/endpoints/([^/]+)/invocations")

EXECUTIONS_AT_ONCE = 2 * (os.process_cpu_count() or 1)
"""Executions that make progress; the others wait. Each call in flight is a process of a hundred megabytes."""

type Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""
type GetObject = Callable[..., Answer]

model = httpx.AsyncClient(base_url=os.environ["MODEL_URL"], timeout=60)


def run_in_turn(run: Callable[[str], None]) -> Callable[[str], None]:
    """Make executions wait for one another before they begin, so that a burst of photos is a queue."""
    turn = threading.Semaphore(EXECUTIONS_AT_ONCE)

    def run_one(arn: str) -> None:
        with turn:
            run(arn)

    return run_one


@functools.cache
def wildcards(pattern: str, ignore_case: bool) -> re.Pattern[str]:  # noqa: FBT001  called as ministack's own
    """Compile a policy's pattern; ministack's own stops at a line break, which a photo's key may hold."""
    regex = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
    return re.compile(regex + r"\Z", re.DOTALL | (re.IGNORECASE if ignore_case else re.NOFLAG))


def hide_from_strangers(get: GetObject) -> GetObject:
    """Answer 403 instead of 404 to whoever may not list the bucket, as S3 does (API Reference, GetObject)."""

    def get_object(
        bucket: str, key: str, headers: dict[str, str], query: dict[str, list[str]] | None = None
    ) -> Answer:
        answer = get(bucket, key, headers, query)
        if b"<Code>NoSuchKey</Code>" not in answer[2]:
            return answer
        access_key, region = extract_access_key_id(headers, query or {}), extract_region(headers, query or {})
        if enforce(access_key, "s3:ListBucket", "s3", region, f"arn:aws:s3:::{bucket}") is None:
            return answer
        message = f"The caller is not authorized to perform: s3:ListBucket on resource: arn:aws:s3:::{bucket}"
        denied: Answer = s3._error("AccessDenied", message, 403, f"/{bucket}/{key}")  # noqa: SLF001
        return denied

    return get_object


def with_all_slashes(resource_of: Callable[..., str]) -> Callable[..., str]:
    """Judge a request for an S3 object by its whole key; ministack leaves its empty parts out."""

    def resource_arn(service: str, method: str, path: str, *rest: object) -> str:
        bucket, _, key = path.removeprefix("/").partition("/")
        if service == "s3" and key:
            return f"arn:aws:s3:::{bucket}/{key}"
        return resource_of(service, method, path, *rest)

    return resource_arn


memory = contextvars.ContextVar[int]("memory")
"""Of the function whose container is about to start, in MB."""


def knowing_its_memory(spawn: Callable[..., Any]) -> Callable[..., Any]:
    """Tell `within_memory` whose container starts."""

    def spawn_container(config: dict[str, Any], *rest: Any) -> Any:  # noqa: ANN401  passed through
        memory.set(config["MemorySize"])
        return spawn(config, *rest)

    return spawn_container


def within_memory(parse: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """Give a function's container the function's memory; ministack gives each that of the machine."""
    return lambda flags: parse(flags.format(memory=memory.get()))


RAISED, NAMED = '"error": str(e), "trace"', '"error": type(e).__name__ + chr(0) + str(e), "trace"'
"""What a function's process answers for an exception, and what it has to for `named` to know its class."""

type Execute = Callable[[dict[str, Any], dict[str, Any], str], dict[str, Any]]


def named(execute: Execute) -> Execute:
    """Report a function's exception by its class and its process's end as such, as Lambda does.

    A Retry in the state machine goes by these names; ministack's own is ``Runtime.HandlerError`` for all.
    """

    def execute_named(function: dict[str, Any], event: dict[str, Any], request_id: str) -> dict[str, Any]:
        result = execute(function, event, request_id)
        if result.get("error"):
            name, mark, message = result["body"].get("errorMessage", "").partition("\0")
            if mark:
                result["body"] |= {"errorType": name, "errorMessage": message}
            elif name == "Worker process died":
                result["body"]["errorType"] = "Runtime.ExitError"
        return result

    return execute_named


version = contextvars.ContextVar[str | None]("version", default=None)


def remembering_version(fire: Callable[..., None]) -> Callable[..., None]:
    """Remember which version of an object an event is about."""

    def fire_event(*about: object, version_id: str | None = None, **more: object) -> None:
        version.set(version_id)
        fire(*about, version_id=version_id, **more)

    return fire_event


def naming_version(dispatch: Callable[..., None]) -> Callable[..., None]:
    """Make S3's events name the version, which ministack leaves out.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
    """

    def dispatch_event(event: dict[str, Any], view: Any = None) -> None:  # noqa: ANN401  ministack's
        if event["Source"] == "aws.s3" and (version_id := version.get()):
            detail = json.loads(event["Detail"])
            detail["object"]["version-id"] = version_id
            event = event | {"Detail": json.dumps(detail)}
        dispatch(event, view)

    return dispatch_event


assert RAISED in lambda_runtime._PYTHON_WORKER_SCRIPT  # noqa: S101, SLF001  another ministack, another mend
lambda_runtime._PYTHON_WORKER_SCRIPT = lambda_runtime._PYTHON_WORKER_SCRIPT.replace(RAISED, NAMED)  # noqa: SLF001
lambda_svc._execute_function_warm = named(lambda_svc._execute_function_warm)  # noqa: SLF001
lambda_svc._spawn_lambda_container_impl = knowing_its_memory(lambda_svc._spawn_lambda_container_impl)  # noqa: SLF001
lambda_svc._parse_docker_flags = within_memory(lambda_svc._parse_docker_flags)  # noqa: SLF001
stepfunctions._run_execution = run_in_turn(stepfunctions._run_execution)  # noqa: SLF001  there is no hook
s3._get_object = hide_from_strangers(s3._get_object)  # noqa: SLF001
s3._fire_s3_event = remembering_version(s3._fire_s3_event)  # noqa: SLF001
eventbridge._dispatch_event = naming_version(eventbridge._dispatch_event)  # noqa: SLF001
iam_actions.extract_resource_arn = with_all_slashes(iam_actions.extract_resource_arn)
iam_evaluator._fnmatch_compile = wildcards  # noqa: SLF001
map_runs.install()
express.install()
metrics.install()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve SageMaker's runtime here and everything else by ministack (ASGI)."""
    if scope["type"] == "http":
        # Nothing leaves this machine, so a request counts as encrypted, and TLS-only policies can stay on.
        scope = {**scope, "headers": [*scope["headers"], (b"x-forwarded-proto", b"https")]}
    if scope["type"] == "http" and INVOCATIONS.fullmatch(scope["path"]):
        request = Request(scope, receive)
        response = await denial(request) or await invoke_endpoint(request)
        await response(scope, receive, send)
    else:
        if scope["type"] == "http" and asks_cloudwatch(scope):
            metrics.of_queues()
        await ministack(scope, receive, send)


def asks_cloudwatch(scope: Scope) -> bool:
    """Say whether a request is for CloudWatch; then account and region are set to the caller's."""
    headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
    if "/monitoring/aws4_request" not in headers.get("authorization", ""):
        return False
    set_request_account_id(extract_access_key_id(headers, {}))
    set_request_region(extract_region(headers, {}))
    return True


async def denial(request: Request) -> Response | None:
    """Return IAM's refusal where the caller's role may not invoke the endpoint, ``None`` where it may."""
    headers, query = dict(request.headers), parse_qs(request.url.query)
    access_key, region = extract_access_key_id(headers, query), extract_region(headers, query)
    set_request_account_id(access_key)
    set_request_region(region)
    pin_signed_request(request.method, request.scope["raw_path"].decode(), query, request.scope["headers"])
    pin_signed_body(await request.body())

    endpoint = INVOCATIONS.fullmatch(request.url.path)[1]  # type: ignore[index]
    arn = f"arn:aws:sagemaker:{region}:{get_account_id()}:endpoint/{endpoint.lower()}"
    denied = enforce(access_key, "sagemaker:InvokeEndpoint", "sagemaker", region, resource_arn=arn)
    if denied is None:
        return None
    principal = access_key if isinstance(denied, AuthError) else denied.principal_arn
    status, headers, body = access_denied_response("sagemaker", "sagemaker:InvokeEndpoint", principal, "")
    return Response(body, status, {**headers, "x-amzn-errortype": "AccessDeniedException"})


async def invoke_endpoint(request: Request) -> Response:
    """Pass the call on to the model's server; without one, answer as SageMaker does without an instance."""
    passed_on = ("x-amzn-", "content-type", "accept")
    kept = {name: value for name, value in request.headers.items() if name.startswith(passed_on)}
    endpoint, began = INVOCATIONS.fullmatch(request.url.path)[1], time.monotonic()  # type: ignore[index]
    try:
        answer = await model.post(request.url.path, content=await request.body(), headers=kept)
    except httpx.TransportError as error:
        metrics.of_invocation(endpoint, 503, time.monotonic() - began)
        return Response(
            f'{{"Message": "the local endpoint does not answer: {type(error).__name__}"}}',
            503,
            {"x-amzn-errortype": "ServiceUnavailable"},
            "application/json",
        )
    metrics.of_invocation(endpoint, answer.status_code, time.monotonic() - began)
    passed = {name: value for name, value in answer.headers.items() if name.startswith(passed_on)}
    return Response(answer.content, answer.status_code, passed)
