"""``scones review``: a person looks at what the model is not sure of."""

from __future__ import annotations

import getpass
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.stack import find, stack_option

if TYPE_CHECKING:
    from pipeline.review_queue import Photo, ReviewQueue


@click.command("review")
@stack_option
@click.option(
    "--reviewer", default=getpass.getuser, help="Who answers, for the record.  [default: your user's name]"
)
@click.option("--plain", is_flag=True, help="Ask on the terminal, without a page; the photo is a file.")
@click.option(
    "--port",
    default=0,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="The page's; 0 takes a free one.",
)
@click.option("--no-browser", is_flag=True, help="Print the page's address, and do not open it.")
def command(*, stack: str | None, reviewer: str, plain: bool, port: int, no_browser: bool) -> None:
    """Look at the photos that wait for a person: one key says what is in each.

    A photo is its reviewer's alone while it is shown, and goes back when the page is closed. An answer is
    written to the results table beside the model's, and as a ground-truth record for `scones monitor --truth`
    and `scones data --reviewed`; only then does the photo leave the queue.

    \b
    Examples:
      scones review
      scones review --stack scones-unlimited-dev --reviewer ada
      scones review --plain

    \b
    Exit codes:
      0  ended by Ctrl-C; with --plain also when nothing waits any more
      1  something failed; one line on stderr says what
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    from pipeline.review_queue import ReviewQueue  # noqa: PLC0415  --help should not wait for it

    desk = ReviewQueue(find(stack), reviewer)
    if plain:
        with suppress(KeyboardInterrupt, click.Abort, EOFError):
            ask(desk)
    else:
        serve(desk, port, open_browser=not no_browser)


def serve(desk: ReviewQueue, port: int, *, open_browser: bool) -> None:
    """Serve the page on this machine alone until Ctrl-C; what is on it then goes back to the queue."""
    import signal  # noqa: PLC0415  as above
    import sys  # noqa: PLC0415

    import uvicorn  # noqa: PLC0415

    from model.serving.listener import listen  # noqa: PLC0415
    from pipeline.review_page import Session, create_app, keys  # noqa: PLC0415

    keys(desk.labels)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    session = Session(desk)
    with suppress(KeyboardInterrupt), listen("127.0.0.1", port) as listener:
        bound = listener.getsockname()[1]
        address = f"http://127.0.0.1:{bound}/#{session.token}"
        click.echo(f"Review at {address} (Ctrl-C ends it)", err=True)
        if open_browser:
            click.launch(address)
        config = uvicorn.Config(
            create_app(session, bound), log_level="warning", access_log=False, timeout_graceful_shutdown=2
        )
        uvicorn.Server(config).run(sockets=[listener])


def ask(desk: ReviewQueue) -> None:
    """Ask on the terminal until nothing waits."""
    from model.sagemaker.account import translate_aws_errors  # noqa: PLC0415
    from pipeline.review_page import SKIP, SPOILT, keys  # noqa: PLC0415
    from pipeline.review_queue import UNUSABLE, held  # noqa: PLC0415  as above

    choices = {key: label for label, key in keys(desk.labels).items()} | {SPOILT: UNUSABLE, SKIP: ""}
    offered = ", ".join(f"[{key}] {label or 'somebody else'}" for key, label in choices.items())
    with translate_aws_errors(), tempfile.TemporaryDirectory() as folder:
        while photo := desk.take(patience=2):
            try:
                with held(desk, photo):
                    click.echo(
                        f"\n{printable(photo.uri)}\n{shown(desk, photo, Path(folder))}\n{guess(photo)}"
                    )
                    label = choices[
                        click.prompt(offered, type=click.Choice(list(choices)), show_choices=False)
                    ]
            except BaseException:
                desk.release(photo)
                raise
            if label:
                click.echo(desk.answer(photo, label))
            else:
                desk.skip_photo(photo)
    click.echo("Nothing waits for review.")


def shown(desk: ReviewQueue, photo: Photo, folder: Path) -> str:
    """Return the file that holds the photo while it is asked about, or why there is none."""
    from pipeline.review_queue import ReviewError  # noqa: PLC0415  as above

    file = folder / f"photo{Path(photo.uri).suffix}"
    for before in folder.iterdir():
        before.unlink()
    try:
        file.write_bytes(desk.content(photo))
    except ReviewError as error:
        return str(error)
    return str(file)


def guess(photo: Photo) -> str:
    """Say what the model made of a photo."""
    said = photo.detail
    return f"The model: {said['label']}, {said['confidence']:.1%} sure ({said['reason']})"


def printable(text: str) -> str:
    """Return a text without what a terminal would obey: a key in S3 may hold any character."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
