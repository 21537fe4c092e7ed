"""Collect a model's answers to labelled photos and write the evaluation."""

import base64
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model import storage
from model.data.dataset import Dataset
from model.evaluation.metrics import Answers
from model.labels import OTHER
from model.photo import PhotoError
from model.terminal.progress import track

METRICS = "metrics.json"

REPORT = "report.html"


class EvaluationError(Exception):
    """The model cannot be evaluated on this; the message says why."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes
    ----------
    name
        For people to read.
    labels
        What the probabilities are of, in their order.
    threshold
        The least confidence, 0 to 1, at which an answer is accepted.
    classify
        Gives the probabilities for a photo's bytes.
    """

    name: str
    labels: tuple[str, ...]
    threshold: float
    classify: Callable[[bytes], list[float]]


def find_subject(model: Path | None, endpoint: str | None, endpoint_url: str | None) -> Subject:
    """Load a model, or find an endpoint that serves one.

    Raises
    ------
    ArtifactError
        The model cannot be loaded.
    """
    from model.network.classifier import Classifier  # noqa: PLC0415  ONNX Runtime takes a while to import

    classifier = Classifier.load(model)
    description = classifier.description
    name = f"{description.name} {description.version}"
    if not endpoint:
        return Subject(name, description.labels, description.threshold, classifier.classify)
    return Subject(
        f"endpoint {endpoint}",
        description.labels,
        description.threshold,
        asking(endpoint, endpoint_url, description.input_size),
    )


def asking(endpoint: str, endpoint_url: str | None, box: int) -> Callable[[bytes], list[float]]:
    """Return what asks an endpoint about a photo, reduced to `box` x `box` pixels as the pipeline does it.

    What it returns raises `EvaluationError` if the endpoint does not answer with a list of numbers, and
    `PhotoError` if the photo is rejected before it is sent.
    """
    import boto3  # noqa: PLC0415  takes half a second to import
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  as above

    from functions.serialize.photo import RejectedError, serialize  # noqa: PLC0415  as above

    runtime = boto3.client("sagemaker-runtime", endpoint_url=endpoint_url)

    def classify(photo: bytes) -> list[float]:
        try:
            reduced = serialize(io.BytesIO(photo), box)
        except RejectedError as error:
            raise PhotoError(error.detail) from error
        try:
            answer = runtime.invoke_endpoint(
                EndpointName=endpoint,
                ContentType=reduced["content_type"],
                Accept="application/json",
                Body=base64.b64decode(reduced["image_data"]),
            )
            return [float(probability) for probability in json.loads(answer["Body"].read())]
        except (BotoCoreError, ClientError) as error:
            raise EvaluationError(f"{endpoint} does not answer: {error}") from error
        except (ValueError, TypeError) as error:
            raise EvaluationError(f"{endpoint} does not answer with a list of probabilities") from error

    return classify


def check_labels(photos: Dataset, labels: Sequence[str]) -> None:
    """Make sure that the model can be right on all photos but those of ``other``.

    Raises
    ------
    EvaluationError
        There are photos of a label that the model does not have.
    """
    present = {photos.labels[target] for target in photos.targets}
    if unknown := sorted(present.difference(labels, {OTHER})):
        raise EvaluationError(
            f"there are photos of {', '.join(unknown)}, which the model does not know: its labels are "
            f"{', '.join(labels)}"
        )


def ask(subject: Subject, photos: Dataset, folder: Path) -> Answers:
    """Let it classify photos, one after the other.

    Parameters
    ----------
    subject
        What to ask.
    photos
        What to ask about.
    folder
        Where the photos are; they are named from there.

    Raises
    ------
    EvaluationError
        A photo cannot be read, or an answer has not one number for each label.
    """
    answers, seconds = [], []
    for path in track(photos.paths, len(photos.paths), "Asking"):
        photo = _read(path)
        started = time.perf_counter()
        try:
            answer = subject.classify(photo)
        except PhotoError as error:
            raise EvaluationError(f"{path} cannot be read as a photo: {error}") from error
        seconds.append(time.perf_counter() - started)
        if len(answer) != len(subject.labels):
            raise EvaluationError(
                f"{subject.name} gives {len(answer)} probabilities for the {len(subject.labels)} labels "
                f"{', '.join(subject.labels)}"
            )
        answers.append(answer)
    return Answers(
        labels=subject.labels,
        threshold=subject.threshold,
        probabilities=np.array(answers),
        seconds=np.array(seconds),
        files=[path.relative_to(folder).as_posix() for path in photos.paths],
        shown=[photos.labels[target] for target in photos.targets],
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror})") from error


def write(out: Path, report: dict[str, object], page: str) -> None:
    """Write the metrics and the report."""
    metrics = json.dumps(report, indent=2) + "\n"
    storage.write_files(out, {METRICS: metrics.encode(), REPORT: page.encode()})
