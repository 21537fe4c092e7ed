"""SageMaker Runtime's InvokeEndpoint, which adds endpoint names, error shapes and data capture.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
"""

import re
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from functions.classify.capture import VARIANT
from model.serving.capture import Capture

type Container = Callable[[bytes, Headers], Awaitable[Response]]

MAX_BODY = 6_291_456
"""InvokeEndpoint's limit in bytes for the body of a real-time request."""

ENDPOINT_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
"""InvokeEndpoint's pattern, which must match the whole name."""
MAX_ENDPOINT_NAME = 63


def endpoint_route(container: Container, capture: Capture | None) -> Route:
    """Serve the container under any endpoint name; ``capture`` records the requests that it accepts."""

    async def invoke_endpoint(request: Request) -> Response:
        endpoint = request.path_params["endpoint"]
        if not ENDPOINT_NAME.fullmatch(endpoint) or len(endpoint) > MAX_ENDPOINT_NAME:
            return _validation_error(endpoint)
        try:
            photo = await read_body(request)
        except HTTPException as error:
            return JSONResponse({"Message": error.detail}, error.status_code)
        answer = await container(photo, request.headers)
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


async def read_body(request: Request) -> bytes:
    """Read a request's body, holding no more than `MAX_BODY` bytes of it.

    Refuse a larger one with 413, but only once it has been received: a client that is still sending would see
    a broken connection instead of the answer.
    """
    body = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BODY:
            body += chunk
    if size > MAX_BODY:
        raise HTTPException(413, f"HTTP content length exceeded {MAX_BODY} bytes.")
    return bytes(body)


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
