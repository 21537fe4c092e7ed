"""``python -m model serve``: the model over HTTP, in a container of SageMaker's or on this machine.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import click
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from model.network.classifier import Classifier
from model.network.photo import PhotoError
from model.serving.capture import Capture
from model.serving.hosting import endpoint_route, read_body
from model.serving.listening import listen

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


@click.command("serve")
@click.option(
    "--model",
    type=click.Path(exists=True, path_type=Path),
    help="A model's folder or model.tar.gz.  [default: the ready-made zero-shot model, made on first use]",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 for all."
)
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one."
)
@click.option(
    "--capture",
    multiple=True,
    metavar="FOLDER|S3-URI",
    help="Where to record what endpoints are asked and answer, as SageMaker's data capture does; repeatable.",
)
def command(model: Path | None, host: str, port: int, capture: tuple[str, ...]) -> None:
    """Answer photos over HTTP, as a SageMaker endpoint does.

    \b
    GET  /ping                         200 once the model is loaded
    POST /invocations                  a photo's bytes in, [p, ...] out, in the order of the labels
    POST /endpoints/NAME/invocations   the same as SageMaker Runtime's InvokeEndpoint, for any NAME

    \b
    A body that is no photo gets 400, another content type 415, more than 6 MB 413, each with the
    reason: {"error": "..."}. Through an endpoint that is a ModelError, as on AWS.

    \b
    Examples:
      python -m model serve &
      curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8080/invocations
      AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://127.0.0.1:8080 aws sagemaker-runtime invoke-endpoint \\
        --endpoint-name any --content-type image/jpeg --body fileb://photo.jpg /dev/stdout

    \b
    Exit codes:
      0  ended by Ctrl-C or SIGTERM, with all that was asked answered and recorded
      1  a failure, such as a port in use
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    # uvicorn, once it has ended all in order, raises the signal again
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt), listen(host, port) as listener:
        app = create_app(Classifier.load(model), Capture(*capture) if capture else None)
        click.echo(f"Serving on http://{host}:{listener.getsockname()[1]} (Ctrl-C ends it)", err=True)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])


def create_app(classifier: Classifier, capture: Capture | None = None) -> Starlette:
    """Make the application: the container's routes and, in front of it, an endpoint's.

    Parameters
    ----------
    classifier
        The model to ask.
    capture
        Where the endpoint's requests and answers are to be recorded, if they are.
    """
    # As many photos at once as there are cores, and all cores for each: a lone photo is answered in half the
    # time that one core takes, and a crowd, measured, a tenth slower than with a core for each.
    workers = ThreadPoolExecutor(os.process_cpu_count())

    async def container(photo: bytes, headers: Headers) -> Response:
        if _media_type(headers.get("Content-Type", "")) not in CONTENT_TYPES:
            return _refuse(415, f"the content type must be one of {', '.join(CONTENT_TYPES)}")
        if not ACCEPTED.intersection(map(_media_type, headers.get("Accept", "*/*").split(","))):
            return _refuse(406, "the answer is application/json")
        try:
            probabilities = await asyncio.get_running_loop().run_in_executor(
                workers, classifier.classify, photo
            )
        except PhotoError as error:
            return _refuse(400, f"the body cannot be read as a photo: {error}")
        except Exception:
            logger.exception("A photo of %d bytes went unanswered", len(photo))
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
        exception_handlers={HTTPException: _refuse_request, ClientDisconnect: _answer_nobody},
        lifespan=lifespan,
    )


async def _ping(_request: Request) -> Response:
    return Response()


def _media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()


def _refuse(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status)


async def _refuse_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  as create_app registers it
    return _refuse(error.status_code, error.detail)


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)
