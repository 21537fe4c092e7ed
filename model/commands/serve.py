"""``scones serve``: serve the model over HTTP, in SageMaker's container or on this machine.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

import logging
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvicorn

from model.network.classifier import Classifier
from model.serving.app import create_app
from model.serving.browsers import RefuseBrowsers
from model.serving.capture import Capture
from model.serving.listener import listen
from model.terminal.options import model_option
from model.terminal.output import echo

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
"""Addresses that only programs on this machine reach, and web pages in its browsers, which are refused."""

DRAIN_SECONDS = 10
"""Time to answer the photos in the queue after SIGTERM. SageMaker kills the container after 30 s."""


@click.command("serve")
@model_option
@click.option(
    "--host",
    default="127.0.0.1",
    help="The address to listen on; 0.0.0.0 for all interfaces.",
)
@click.option(
    "--port",
    default=8080,
    type=click.IntRange(0, 65535),
    help="The port to listen on; 0 for any free port.",
)
@click.option(
    "--capture",
    multiple=True,
    metavar="FOLDER|S3-URI",
    help="Record requests to endpoints and their answers here, as SageMaker's data capture does; repeatable.",
)
def command(model: Path | None, host: str, port: int, capture: tuple[str, ...]) -> None:
    """Serve the model over HTTP, as a SageMaker endpoint does.

    \b
    GET  /ping                         200 once the model is loaded
    POST /invocations                  takes a photo's bytes, returns [p, ...] in the order of the labels
    POST /endpoints/NAME/invocations   the same as SageMaker Runtime's InvokeEndpoint, for any NAME

    \b
    A body that is not a photo gets 400, a wrong content type 415, and more than 6 MB 413, each with a
    reason: {"error": "..."}. Through an endpoint, these are ModelErrors, as on AWS.

    \b
    A photo that cannot be answered in time gets 429 at once, with the seconds after which there will be
    room (Retry-After, and "retry_after" in the body). A caller may say in the header
    X-Amzn-SageMaker-Custom-Attributes how many seconds it waits for the answer, how many the photo has
    waited already, and that others come first: patience=8; waited=31; priority=low. Without it, 3 s are
    assumed.

    On the default address, requests of web browsers are refused (403): any page in one could send some.

    \b
    Examples:
      scones serve &
      curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8080/invocations
      AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://127.0.0.1:8080 aws sagemaker-runtime invoke-endpoint \\
        --endpoint-name any --content-type image/jpeg --body fileb://photo.jpg /dev/stdout

    \b
    Exit codes:
      0  stopped by Ctrl-C or SIGTERM, after answering and recording all requests
      1  a failure, such as a port that is in use
      2  usage error
    """  # noqa: D301  click reads \b as a character
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    # After its graceful shutdown, uvicorn raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt), listen(host, port) as listener:
        app: ASGIApp = create_app(Classifier.load(model), Capture(*capture) if capture else None)
        if host in LOOPBACK:
            app = RefuseBrowsers(app)
        echo(f"Serving on http://{host}:{listener.getsockname()[1]} (Ctrl-C to stop)", err=True)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=DRAIN_SECONDS
        )
        uvicorn.Server(config).run(sockets=[listener])
