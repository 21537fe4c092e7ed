"""Classify photos with a model, in this process or through a SageMaker endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypedDict

from model.labels import split_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Asked(NamedTuple):
    """What is asked: it gives a probability for each label of a photo's bytes."""

    classify: Callable[[bytes], list[float]]
    labels: Sequence[str]
    threshold: float


class Prediction(TypedDict):
    """One line of the answer; label, confidence and probabilities are null for a file that is no photo."""

    file: str
    label: str | None
    confidence: float | None
    probabilities: dict[str, float] | None
    decision: str
    reason: str


def _model(path: Path | None) -> Asked:
    from model.network.classifier import Classifier  # noqa: PLC0415  --help should not wait for it

    classifier = Classifier.load(path)
    return Asked(classifier.classify, classifier.description.labels, classifier.description.threshold)


def _endpoint(name: str, labels: str | None, threshold: float | None) -> Asked:
    from model.sagemaker.account import connect, translate_aws_errors  # noqa: PLC0415  as above
    from model.sagemaker.endpoint import asking, served_model  # noqa: PLC0415  as above

    account = connect()
    if labels and threshold is not None:
        from model.network.embedding import SIZE  # noqa: PLC0415  as above

        own_labels = split_labels(labels)
        return Asked(asking(account, name, SIZE), own_labels, threshold)
    with translate_aws_errors():
        known = served_model(account, name)
    return Asked(asking(account, name, known.input_size), known.labels, known.threshold)


def predict(asked: Asked, photo: Path) -> Prediction:
    """Answer one file, as the pipeline would answer it.

    Parameters
    ----------
    asked
        The model or the endpoint to ask, and the least confidence to accept.
    photo
        An image file.
    """
    from functions.filter.decision import decide  # noqa: PLC0415  as above
    from model.photo import PhotoError  # noqa: PLC0415

    file = str(photo)
    try:
        inferences = asked.classify(photo.read_bytes())
    except (PhotoError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Prediction(
            file=file, label=None, confidence=None, probabilities=None, decision="rejected", reason=reason
        )
    decision = decide(inferences, asked.labels, asked.threshold)
    return Prediction(
        file=file,
        label=decision["label"],
        confidence=decision["confidence"],
        probabilities=dict(zip(asked.labels, inferences, strict=True)),
        decision=decision["decision"],
        reason=decision["reason"],
    )
