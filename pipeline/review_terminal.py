"""Review photos on the terminal; each is written to a file for the reviewer to open."""

import tempfile
from pathlib import Path

import click

from model.sagemaker.account import translate_aws_errors
from pipeline.review_page import SKIP_KEY, UNUSABLE_KEY, assign_keys
from pipeline.review_queue import UNUSABLE, ReviewError, ReviewItem, ReviewQueue


def review(queue: ReviewQueue) -> None:
    """Ask for the label of one photo after another until none is waiting."""
    labels = {key: label for label, key in assign_keys(queue.labels).items()}
    labels |= {UNUSABLE_KEY: UNUSABLE, SKIP_KEY: "skip"}
    question = ", ".join(f"[{key}] {label}" for key, label in labels.items())
    with translate_aws_errors(), tempfile.TemporaryDirectory() as folder:
        while item := queue.receive(patience=2):
            try:
                with queue.hold(item):
                    # A key in S3 may contain control characters, which a terminal would interpret.
                    uri = "".join(letter if letter.isprintable() else "?" for letter in item.uri)
                    click.echo(f"\n{uri}\n{_save_photo(queue, item, Path(folder))}")
                    click.echo(
                        "Prediction: {label}, confidence {confidence:.1%} ({reason})".format(**item.detail)
                    )
                    key = click.prompt(question, type=click.Choice(list(labels)), show_choices=False)
            except BaseException:
                queue.release(item)
                raise
            if key == SKIP_KEY:
                queue.skip(item)
            else:
                click.echo(queue.answer(item, labels[key]).message)
    click.echo("No photos are waiting for review.")


def _save_photo(queue: ReviewQueue, item: ReviewItem, folder: Path) -> str:
    """Write a photo into a folder in place of the previous one; return its path, or why there is none."""
    for previous in folder.iterdir():
        previous.unlink()
    file = folder / f"photo{Path(item.uri).suffix}"
    try:
        file.write_bytes(queue.read_photo(item))
    except ReviewError as error:
        return str(error)
    return str(file)
