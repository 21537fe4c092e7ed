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
    """Load a model, or use an endpoint that serves it; raise `ArtifactError` if it cannot be loaded."""
    predictor = Predictor.from_model(model)
    if not endpoint:
        return predictor
    import boto3  # noqa: PLC0415  takes half a second, which a local model need not spend

    runtime = boto3.client("sagemaker-runtime", endpoint_url=endpoint_url)
    return Predictor.from_endpoint(
        endpoint, runtime, predictor.labels, predictor.threshold, predictor.input_size
    )


def check_labels(photos: Dataset, labels: Sequence[str]) -> None:
    """Raise `EvaluationError` if the photos have a label, apart from ``other``, that the model lacks."""
    present = {photos.labels[target] for target in photos.targets}
    if unknown := sorted(present.difference(labels, {OTHER})):
        raise EvaluationError(
            f"There are photos of {', '.join(unknown)}, but the model only has the labels "
            f"{', '.join(labels)}."
        )


def predict_photos(predictor: Predictor, photos: Dataset, folder: Path) -> Predictions:
    """Classify the photos one by one; their names in the result are relative to `folder`.

    Raises `EvaluationError` if a photo cannot be read, or does not get one probability per label.
    """
    answers, seconds = [], []
    for path in track(photos.paths, len(photos.paths), "Classifying"):
        try:
            photo = path.read_bytes()
            started = time.perf_counter()
            answer = predictor.classify(photo)
        except OSError as error:
            raise EvaluationError(f"{path} cannot be read ({error.strerror})") from error
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
