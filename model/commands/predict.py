"""``scones predict``: classify photos."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from model.predictor import Predictor, predict
from model.terminal.options import labels_option, model_option, threshold_option
from model.terminal.output import echo_json
from model.terminal.progress import track


@click.command("predict")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@model_option
@click.option(
    "--endpoint",
    help="Classify with this SageMaker endpoint, as the pipeline does, instead of a local model.",
)
@labels_option("those that the endpoint was deployed with; a local model's own cannot be replaced")
@threshold_option("the model's own")
def command(
    *,
    files: tuple[Path, ...],
    model: Path | None,
    endpoint: str | None,
    labels: tuple[str, ...] | None,
    threshold: float | None,
) -> None:
    """Classify photos, one JSON line per file.

    FILES are photos (JPEG, PNG, WebP, GIF, HEIC or AVIF, of any size) or folders of photos.

    \b
    Each line has: file, label, confidence (the label's probability), probabilities (of every
    label), decision and reason.
      accepted      confident
      needs_review  low_confidence or not_a_vehicle: a person should look at the photo
      rejected      the file cannot be read as a photo; reason says why, the other fields are null

    \b
    Examples:
      scones predict photo.jpg
      scones predict --model trained/ photos/ > answers.jsonl
      scones predict --endpoint "$(jq -r .endpoint_name deployment.json)" photo.jpg

    \b
    Exit codes:
      0  every file was classified
      1  at least one file was rejected (the others are still classified), or the command failed
      2  usage error
    """  # noqa: D301  click reads \b as a character
    if endpoint and model:
        raise click.UsageError("--model and --endpoint exclude each other")
    if labels and not endpoint:
        raise click.UsageError("--labels needs --endpoint: a local model knows its own labels")
    photos = list(_find_photos(files))
    if endpoint:
        predictor = Predictor.from_deployed_endpoint(endpoint, labels, threshold)
    else:
        predictor = Predictor.from_model(model).with_overrides(None, threshold)
    rejected = False
    # If stdout is a terminal, the printed lines already show the progress.
    for photo in photos if sys.stdout.isatty() else track(photos, len(photos), "Classifying"):
        prediction = predict(predictor, photo)
        echo_json(prediction)
        rejected |= prediction["decision"] == "rejected"
    if rejected:
        raise click.exceptions.Exit(1)


def _find_photos(paths: Sequence[Path]) -> Iterator[Path]:
    from model.photo import SUFFIXES  # noqa: PLC0415  imports Pillow

    for path in paths:
        if not path.is_dir():
            yield path
            continue
        photos = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not photos:
            raise click.ClickException(
                f"{path} contains no photos (files ending in {', '.join(sorted(SUFFIXES))})"
            )
        yield from photos
