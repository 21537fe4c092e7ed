"""Classify labelled photos with a model or through an endpoint."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.data.dataset import Dataset
from model.evaluation.metrics import Predictions
from model.labels import OTHER
from model.photo import PhotoError
from model.predictor import Predictor
from model.terminal.progress import track


class EvaluationError(Exception):
    """The model cannot be evaluated on these photos; the message says why."""


def find_predictor(model: Path | None, endpoint: str | None, endpoint_url: str | None) -> Predictor:
    """Load a model, or use an endpoint that serves it.

    Raises `ArtifactError` if the model cannot be loaded.
    """
    predictor = Predictor.from_model(model)
    if not endpoint:
        return predictor
    import boto3  # noqa: PLC0415  takes half a second, which a local model need not spend

    runtime = boto3.client("sagemaker-runtime", endpoint_url=endpoint_url)
    return Predictor.from_endpoint(
        endpoint, predictor.labels, predictor.threshold, predictor.input_size, runtime
    )


def check_labels(photos: Dataset, labels: Sequence[str]) -> None:
    """Make sure that the model has every label of the photos, apart from ``other``.

    Raises `EvaluationError` if the model lacks a label, so all its answers to these photos would be wrong.
    """
    present = {photos.labels[target] for target in photos.targets}
    if unknown := sorted(present.difference(labels, {OTHER})):
        raise EvaluationError(
            f"There are photos of {', '.join(unknown)}, but the model only has the labels "
            f"{', '.join(labels)}."
        )


def predict_photos(predictor: Predictor, photos: Dataset, folder: Path) -> Predictions:
    """Classify the photos one by one; their names are relative to `folder`.

    Raises `EvaluationError` if a photo cannot be read, or the number of probabilities is not that of the
    labels.
    """
    answers, seconds = [], []
    for path in track(photos.paths, len(photos.paths), "Classifying"):
        photo = _read(path)
        started = time.perf_counter()
        try:
            answer = predictor.classify(photo)
        except PhotoError as error:
            raise EvaluationError(f"{path} cannot be read as a photo: {error}") from error
        seconds.append(time.perf_counter() - started)
        if len(answer) != len(predictor.labels):
            raise EvaluationError(
                f"{predictor.name} returns {len(answer)} probabilities for the {len(predictor.labels)} "
                f"labels {', '.join(predictor.labels)}."
            )
        answers.append(answer)
    return Predictions(
        labels=predictor.labels,
        threshold=predictor.threshold,
        probabilities=np.array(answers),
        seconds=np.array(seconds),
        files=[path.relative_to(folder).as_posix() for path in photos.paths],
        true_labels=[photos.labels[target] for target in photos.targets],
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror})") from error
