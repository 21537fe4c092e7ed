"""``scones predict``: which vehicle is in each photo."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.predictor import _endpoint, _model, predict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


PATIENCE = 2  # seconds of silence before a progress bar


@click.command("predict")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--model",
    type=click.Path(exists=True, path_type=Path),
    help="A model's folder or model.tar.gz.  [default: the ready-made zero-shot model, made on first use]",
)
@click.option("--endpoint", help="Ask this SageMaker endpoint, as the pipeline does, not a model here.")
@click.option(
    "--labels",
    help="An endpoint's labels in their order, separated by commas.  [default: as they were deployed]",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="The least confidence to accept.  [default: the model's own]",
)
def command(
    *,
    files: tuple[Path, ...],
    model: Path | None,
    endpoint: str | None,
    labels: str | None,
    threshold: float | None,
) -> None:
    """Say which vehicle is in each photo, one JSON line a file.

    FILES are photos (JPEG, PNG, WebP, GIF, HEIC or AVIF, of any size) or folders of them.

    \b
    A line holds: file, label, confidence (the label's probability), probabilities (of each
    label), decision and reason.
      accepted      confident
      needs_review  low_confidence, or not_a_vehicle: a person should look
      rejected      cannot be read as a photo; the reason says why, the rest is null

    \b
    Examples:
      scones predict photo.jpg
      scones predict --model trained/ photos/ > answers.jsonl
      scones predict --endpoint "$(jq -r .endpoint_name deployment.json)" photo.jpg

    \b
    Exit codes:
      0  every file was answered
      1  at least one file was rejected (the others are answered all the same), or a failure
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    if endpoint and model:
        raise click.UsageError("--model or --endpoint, not both")
    if labels and not endpoint:
        raise click.UsageError("--labels are an --endpoint's: a model knows its own")
    photos = list(_find_photos(files))
    asked = _endpoint(endpoint, labels, threshold) if endpoint else _model(model)
    if threshold is not None:
        asked = asked._replace(threshold=threshold)
    rejected = False
    for photo in _with_progress(photos):
        prediction = predict(asked, photo)
        click.echo(json.dumps(prediction))
        rejected |= prediction["decision"] == "rejected"
    if rejected:
        raise click.exceptions.Exit(1)


def _find_photos(paths: Sequence[Path]) -> Iterator[Path]:
    from model.photo import SUFFIXES  # noqa: PLC0415  as above

    for path in paths:
        if not path.is_dir():
            yield path
            continue
        photos = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not photos:
            raise click.ClickException(
                f"{path} has no photos in it (files ending in {', '.join(sorted(SUFFIXES))})"
            )
        yield from photos


def _with_progress(photos: Sequence[Path]) -> Iterator[Path]:
    from rich.console import Console  # noqa: PLC0415  as above
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    # where the answers themselves appear on the terminal, they are the progress
    hidden = sys.stdout.isatty() or not console.is_terminal
    progress = Progress(console=console, transient=True, redirect_stdout=False, disable=hidden)
    task = progress.add_task("Reading photos", total=len(photos))
    started = time.monotonic()
    try:
        for photo in photos:
            yield photo
            progress.advance(task)
            if time.monotonic() - started > PATIENCE:
                progress.start()
    finally:
        progress.stop()
