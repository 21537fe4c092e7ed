"""The inference server: the container's ``/ping`` and ``/invocations``, and SageMaker Runtime's route.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from model.network.classifier import Classifier
from model.photo import PhotoError
from model.serving.capture import Capture
from model.serving.hosting import endpoint_route, read_body

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
    workers = ThreadPoolExecutor(os.process_cpu_count())

    async def container(photo: bytes, headers: Headers) -> Response:
        if _media_type(headers.get("Content-Type", "")) not in CONTENT_TYPES:
            return _refuse(415, f"The content type must be one of {', '.join(CONTENT_TYPES)}")
        if not ACCEPTED.intersection(map(_media_type, headers.get("Accept", "*/*").split(","))):
            return _refuse(406, "The answer is application/json.")
        try:
            probabilities = await asyncio.get_running_loop().run_in_executor(
                workers, classifier.classify, photo
            )
        except PhotoError as error:
            return _refuse(400, f"The body cannot be read as a photo: {error}")
        except Exception:
            logger.exception("A photo of %d bytes could not be classified", len(photo))
            return _refuse(500, "internal error")
        return Response(json.dumps(probabilities), media_type="application/json")

    async def invocations(request: Request) -> Response:
        return await container(await read_body(request), request.headers)

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
            endpoint_route(container, capture),
        ],
        exception_handlers={HTTPException: _refuse_request, ClientDisconnect: _ignore_disconnect},
        lifespan=lifespan,
    )


async def _ping(_request: Request) -> Response:
    return Response()


def _media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()


def _refuse(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status)


async def _refuse_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  create_app registers it for this class only
    return _refuse(error.status_code, error.detail)


async def _ignore_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)
