"""The emulator: ministack with fixes and with services that it lacks, among them SageMaker's runtime.

Run as ``hypercorn local.emulator:app``, with the address of the model's server in ``MODEL_URL``.
"""

import os
import re
import time
from urllib.parse import parse_qs

import httpx
from ministack.app import app as ministack
from ministack.core.iam_actions import access_denied_response
from ministack.core.iam_evaluator import AuthError, enforce, pin_signed_body, pin_signed_request
from ministack.core.responses import get_account_id, set_request_account_id, set_request_region
from ministack.core.router import extract_access_key_id, extract_region
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from local import cloudwatch_metrics, express, map_runs, ministack_fixes  # noqa: F401  patch ministack
from model.serving.browsers import RefuseBrowsers

INVOCATIONS = re.compile(r"/endpoints/([^/]+)/invocations")
FORWARDED = ("x-amzn-", "content-type", "accept")
"""Prefixes of the headers that are forwarded between the caller and the model's server."""

model_server = httpx.AsyncClient(base_url=os.environ["MODEL_URL"], timeout=60)


async def services(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve SageMaker's runtime here, and all other services with ministack (ASGI)."""
    if scope["type"] != "http":
        await ministack(scope, receive, send)
        return
    # Requests stay on this machine, so they count as encrypted: policies that require TLS need no exception.
    scope = {**scope, "headers": [*scope["headers"], (b"x-forwarded-proto", b"https")]}
    if match := INVOCATIONS.fullmatch(scope["path"]):
        request = Request(scope, receive)
        response = await _access_denied(request, match[1]) or await _invoke_endpoint(request, match[1])
        await response(scope, receive, send)
        return
    if b"/monitoring/aws4_request" in dict(scope["headers"]).get(b"authorization", b""):  # for CloudWatch
        _set_caller(scope)
        cloudwatch_metrics.publish_queue_depths()
    await ministack(scope, receive, send)


# The credentials are known to everyone, and whoever may create a Lambda function runs code as the user.
app = RefuseBrowsers(services)


def _set_caller(scope: Scope) -> tuple[str, str]:
    """Set ministack's account and region to the caller's; return the access key and the region."""
    headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
    query = parse_qs(scope["query_string"].decode())
    access_key, region = extract_access_key_id(headers, query), extract_region(headers, query)
    set_request_account_id(access_key)
    set_request_region(region)
    return access_key, region


async def _access_denied(request: Request, endpoint: str) -> Response | None:
    """Return IAM's denial if the caller may not invoke the endpoint, otherwise ``None``."""
    access_key, region = _set_caller(request.scope)
    query = parse_qs(request.url.query)
    pin_signed_request(request.method, request.scope["raw_path"].decode(), query, request.scope["headers"])
    pin_signed_body(await request.body())

    arn = f"arn:aws:sagemaker:{region}:{get_account_id()}:endpoint/{endpoint.lower()}"
    denied = enforce(access_key, "sagemaker:InvokeEndpoint", "sagemaker", region, resource_arn=arn)
    if denied is None:
        return None
    principal = access_key if isinstance(denied, AuthError) else denied.principal_arn
    status, headers, body = access_denied_response("sagemaker", "sagemaker:InvokeEndpoint", principal, "")
    return Response(body, status, {**headers, "x-amzn-errortype": "AccessDeniedException"})


async def _invoke_endpoint(request: Request, endpoint: str) -> Response:
    """Forward a call to the model's server, or return 503 if it is down, as SageMaker does."""
    headers = {name: value for name, value in request.headers.items() if name.startswith(FORWARDED)}
    started = time.monotonic()
    try:
        answer = await model_server.post(request.url.path, content=await request.body(), headers=headers)
    except httpx.TransportError as error:
        cloudwatch_metrics.publish_invocation(endpoint, 503, time.monotonic() - started)
        message = f"the local endpoint does not answer: {type(error).__name__}"
        return JSONResponse({"Message": message}, 503, {"x-amzn-errortype": "ServiceUnavailable"})
    cloudwatch_metrics.publish_invocation(endpoint, answer.status_code, time.monotonic() - started)
    forwarded = {name: value for name, value in answer.headers.items() if name.startswith(FORWARDED)}
    return Response(answer.content, answer.status_code, forwarded)
