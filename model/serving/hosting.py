"""SageMaker Runtime's InvokeEndpoint, which adds endpoint names, error shapes and data capture.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
"""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from functions.classify.capture import VARIANT
from model.serving.capture import Capture

type Container = Callable[[bytes, Request], Awaitable[Response]]

MAX_BODY = 6_291_456
"""InvokeEndpoint's limit in bytes for the body of a real-time request."""

MAX_BODIES = 16 * MAX_BODY
"""Bytes of all bodies that are held at a time; more are refused, so that memory is bounded."""
BODY_SECONDS = 10.0
"""Time to receive a body in. SageMaker has all of it before it calls the container."""

ENDPOINT_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
"""InvokeEndpoint's pattern, which must match the whole name."""
MAX_ENDPOINT_NAME = 63


def endpoint_route(container: Container, bodies: "Bodies", capture: Capture | None) -> Route:
    """Serve the container under any endpoint name; ``capture`` records the requests that it accepts."""

    async def invoke_endpoint(request: Request) -> Response:
        endpoint = request.path_params["endpoint"]
        if not ENDPOINT_NAME.fullmatch(endpoint) or len(endpoint) > MAX_ENDPOINT_NAME:
            return _validation_error(endpoint)
        try:
            async with bodies.receive(request) as photo:
                return await invoke(endpoint, photo, request)
        except HTTPException as error:
            return JSONResponse({"Message": error.detail}, error.status_code)

    async def invoke(endpoint: str, photo: bytes, request: Request) -> Response:
        answer = await container(photo, request)
        if answer.status_code != HTTPStatus.OK:
            return _model_error(endpoint, answer)
        if capture:
            inference_id = request.headers.get("X-Amzn-SageMaker-Inference-Id")
            content_type = request.headers["Content-Type"]
            capture.add(endpoint, photo, content_type, bytes(answer.body).decode(), inference_id)
        answer.headers["x-Amzn-Invoked-Production-Variant"] = VARIANT
        answer.headers["x-amzn-RequestId"] = str(uuid.uuid4())
        return answer

    return Route("/endpoints/{endpoint}/invocations", invoke_endpoint, methods=["POST"])


class Bodies:
    """The bodies of all requests that are being received or answered."""

    def __init__(self) -> None:
        self._size = 0

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[bytes]:
        """Hold a request's body for a ``with`` block.

        Raises `HTTPException`: 408 if the body takes longer than `BODY_SECONDS`, 413 if it is larger than
        `MAX_BODY`, and 503 if all bodies together are larger than `MAX_BODIES`. A body that is too large is
        refused only once it has been received: a client that is still sending would see a broken connection
        instead of the answer.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS) as limit:
                await self._read(request, body)
            yield bytes(body)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise HTTPException(408, f"The body was not received within {BODY_SECONDS:.0f} s.") from error
        finally:
            self._size -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        size, full = 0, False
        async for chunk in request.stream():
            size += len(chunk)
            full = full or self._size + len(chunk) > MAX_BODIES
            if size <= MAX_BODY and not full:
                body += chunk
                self._size += len(chunk)
        if size > MAX_BODY:
            raise HTTPException(413, f"HTTP content length exceeded {MAX_BODY} bytes.")
        if full:
            raise HTTPException(503, "Too many large photos at a time. Try again.")


def _validation_error(endpoint: str) -> Response:
    message = (
        f"1 validation error detected: Value '{endpoint}' at 'endpointName' failed to satisfy constraint: "
        f"Member must have length less than or equal to {MAX_ENDPOINT_NAME} and satisfy regular expression "
        f"pattern: ^{ENDPOINT_NAME.pattern}$"
    )
    return JSONResponse({"Message": message}, 400, {"x-amzn-ErrorType": "ValidationError"})


def _model_error(endpoint: str, answer: Response) -> Response:
    original = bytes(answer.body).decode()
    kind = "client" if answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else "server"
    error = {
        "Message": f'Received {kind} error ({answer.status_code}) from primary with message "{original}".',
        "OriginalStatusCode": answer.status_code,
        "OriginalMessage": original,
        "LogStreamArn": f"arn:aws:logs:us-east-1:000000000000:log-group:/aws/sagemaker/Endpoints/{endpoint}",
    }
    return JSONResponse(error, 424, {"x-amzn-ErrorType": "ModelError"})
