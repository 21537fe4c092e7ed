"""``scones review``: label the photos that need review."""

import getpass
from contextlib import suppress

import click

from model.terminal.output import echo
from pipeline.options import stack_option
from pipeline.stack import find_stack


def _user_name() -> str:
    try:
        return getpass.getuser()
    except OSError as error:  # a container's user may have none
        raise click.UsageError("Your user has no name on this machine. Give one with --reviewer.") from error


@click.command("review")
@stack_option
@click.option(
    "--reviewer",
    default=_user_name,
    show_default=False,
    help="The name to record.  [default: your user name]",
)
@click.option("--plain", is_flag=True, help="Ask on the terminal instead of a page; the photo is a file.")
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65535),
    help="The page's port; 0 for any free one.",
)
@click.option("--no-browser", is_flag=True, help="Print the page's address without opening it.")
def command(*, stack: str | None, reviewer: str, plain: bool, port: int, no_browser: bool) -> None:
    """Label the photos that need review, with one key each.

    A photo is hidden from other reviewers while it is shown, and returns to the queue when the page is
    closed. An answer is written to the results table, next to the model's label, and as a ground-truth record
    for `scones monitor --truth` and `scones data --reviewed`; then the photo leaves the queue.

    \b
    Examples:
      scones review
      scones review --stack scones-unlimited-dev --reviewer ada
      scones review --plain

    \b
    Exit codes:
      0  stopped by Ctrl-C; with --plain also when no photos are waiting
      1  something failed; one line on stderr says what
      2  usage error
    """  # noqa: D301  click reads \b as a character
    # `scones review --help` must not wait for the web server and the image libraries.
    from pipeline import review_page, review_terminal  # noqa: PLC0415
    from pipeline.review_queue import ReviewQueue  # noqa: PLC0415

    queue = ReviewQueue(find_stack(stack), reviewer)
    if plain:
        with suppress(KeyboardInterrupt, click.Abort, EOFError):
            review_terminal.review(queue)
        return

    def announce(address: str) -> None:
        echo(f"Review at {address} (Ctrl-C stops it)", err=True)
        if not no_browser:
            click.launch(address)

    review_page.serve(queue, port, announce)
