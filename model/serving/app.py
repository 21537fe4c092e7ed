"""The inference server: the container's ``/ping`` and ``/invocations``, and SageMaker Runtime's route.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

import asyncio
import json
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from model.network.classifier import Classifier
from model.photo import PhotoError
from model.serving.admission import Admission, BusyError, Caller
from model.serving.capture import Capture
from model.serving.hosting import Bodies, endpoint_route

CONTENT_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/heic",
    "image/avif",
    "application/x-image",
)

ACCEPTED = frozenset({"application/json", "application/*", "*/*"})

logger = logging.getLogger(__name__)


def create_app(classifier: Classifier, capture: Capture | None = None) -> Starlette:
    """Create the application. ``capture`` records requests that go through an endpoint's route."""
    # One worker per core, each of which uses all cores: measured against one core per worker, a single photo
    # takes half the time, and many at once take a tenth longer.
    workers = ThreadPoolExecutor(os.process_cpu_count() or 1)
    admission = Admission(os.process_cpu_count() or 1)
    bodies = Bodies()

    async def container(photo: bytes, request: Request) -> Response:
        headers = request.headers
        if _media_type(headers.get("Content-Type", "")) not in CONTENT_TYPES:
            return _refuse(415, f"The content type must be one of {', '.join(CONTENT_TYPES)}")
        if not ACCEPTED.intersection(map(_media_type, headers.get("Accept", "*/*").split(","))):
            return _refuse(406, "The answer is application/json.")
        caller = Caller.from_attributes(headers.get("X-Amzn-SageMaker-Custom-Attributes", ""))
        try:
            await _while_connected(request, admission.enter(caller))
        except BusyError as error:
            return _refuse_busy(error)
        started_at = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(workers, _answer, classifier, photo)
        finally:
            admission.leave(time.monotonic() - started_at)

    async def invocations(request: Request) -> Response:
        async with bodies.receive(request) as photo:
            return await container(photo, request)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        workers.shutdown()
        if capture:
            capture.close()

    return Starlette(
        routes=[
            Route("/ping", _ping),
            Route("/invocations", invocations, methods=["POST"]),
            endpoint_route(container, bodies, capture),
        ],
        exception_handlers={
            HTTPException: _refuse_request,
            ClientDisconnect: _ignore_disconnect,
        },
        lifespan=lifespan,
    )


async def _ping(_request: Request) -> Response:
    return Response()


def _answer(classifier: Classifier, photo: bytes) -> Response:
    try:
        probabilities = classifier.classify(photo)
    except PhotoError as error:
        return _refuse(400, f"The body cannot be read as a photo: {error}")
    except Exception:
        logger.exception("A photo of %d bytes could not be classified", len(photo))
        return _refuse(500, "internal error")
    return Response(json.dumps(probabilities), media_type="application/json")


async def _while_connected(request: Request, entering: Coroutine[None, None, None]) -> None:
    """Wait for a request's turn, or raise `ClientDisconnect` if its caller hangs up before."""
    turn, hung_up = asyncio.ensure_future(entering), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((turn, hung_up), return_when=asyncio.FIRST_COMPLETED)
        if not turn.done():
            raise ClientDisconnect
        turn.result()
    finally:
        turn.cancel()
        hung_up.cancel()


def _media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()


def _refuse(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status)


def _refuse_busy(error: BusyError) -> Response:
    """Refuse with 429, which CloudWatch counts apart from the 5XX of a model that is broken."""
    body = {"error": str(error), "retry_after": round(error.retry_after, 1)}
    return JSONResponse(body, 429, {"Retry-After": str(math.ceil(error.retry_after))})


async def _refuse_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  create_app registers it for this class only
    return _refuse(error.status_code, error.detail)


async def _ignore_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)
