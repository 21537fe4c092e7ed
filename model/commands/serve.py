"""``scones serve``: the model over HTTP, in a container of SageMaker's or on this machine.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

import logging
import signal
import sys
from contextlib import suppress
from pathlib import Path

import click
import uvicorn

from model.network.classifier import Classifier
from model.serving.app import create_app
from model.serving.capture import Capture
from model.serving.listener import listen


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
      scones serve &
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
