"""Review photos on the terminal; each is written to a file for the reviewer to open."""

import tempfile
from pathlib import Path

from model.photo import PhotoError, file_suffix
from model.sagemaker.account import translate_aws_errors
from model.terminal.output import choose, echo
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
                    echo("", item.uri, _save_photo(queue, item, Path(folder)))
                    echo("Prediction: {label}, confidence {confidence:.1%} ({reason})".format(**item.detail))
                    key = choose(question, labels)
            except BaseException:
                queue.release(item)
                raise
            if key == SKIP_KEY:
                queue.skip(item)
            else:
                echo(queue.answer(item, labels[key]).message)
    echo("No photos are waiting for review.")


def _save_photo(queue: ReviewQueue, item: ReviewItem, folder: Path) -> str:
    """Write a photo into a folder in place of the previous one; return its path, or why there is none.

    The name depends on the content only, because it decides which program opens the file.
    """
    for previous in folder.iterdir():
        previous.unlink()
    try:
        photo = queue.read_photo(item)
        file = folder / f"photo{file_suffix(photo)}"
    except ReviewError as error:
        return str(error)
    except PhotoError as error:
        return f"The photo cannot be shown: {error}"
    file.write_bytes(photo)
    return str(file)
