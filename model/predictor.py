"""Classify photos with a model in this process, or with the one behind a SageMaker endpoint."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient

# `scones predict --help` imports this module, so the functions import boto3, NumPy and ONNX Runtime.


@dataclass(frozen=True)
class Predictor:
    """A model in this process or behind an endpoint, and what is needed to interpret its answers.

    An endpoint is sent photos that fit in a square of `input_size` pixels. `classify` takes the bytes of a
    photo and returns a probability for each of `labels`. It raises `PhotoError` if it cannot decode them and
    `EndpointError` if the endpoint fails.
    """

    name: str
    labels: tuple[str, ...]
    threshold: float
    input_size: int
    classify: Callable[[bytes], list[float]]

    @classmethod
    def from_model(cls, path: Path | None) -> Self:
        """Load a model into this process; ``None`` stands for the ready-made zero-shot model.

        Raises `ArtifactError` if the model cannot be loaded.
        """
        from model.network.classifier import Classifier  # noqa: PLC0415

        classifier = Classifier.load(path)
        model = classifier.description
        name = f"{model.name} {model.version}"
        return cls(name, model.labels, model.threshold, model.input_size, classifier.classify)

    @classmethod
    def from_endpoint(
        cls,
        endpoint: str,
        runtime: SageMakerRuntimeClient,
        labels: tuple[str, ...],
        threshold: float,
        input_size: int,
    ) -> Self:
        """Send photos to an endpoint as the pipeline does, each reduced by its serialize function."""
        from functions.serialize.photo import RejectedError, serialize  # noqa: PLC0415
        from model.photo import PhotoError  # noqa: PLC0415
        from model.sagemaker.endpoint import ask  # noqa: PLC0415

        def classify(photo: bytes) -> list[float]:
            try:
                reduced = serialize(io.BytesIO(photo), input_size)
            except RejectedError as error:
                raise PhotoError(error.detail) from error
            body = base64.b64decode(reduced["image_data"])
            return ask(runtime, endpoint, body, reduced["content_type"])

        return cls(f"endpoint {endpoint}", labels, threshold, input_size, classify)

    @classmethod
    def from_deployed_endpoint(
        cls, endpoint: str, labels: tuple[str, ...] | None, threshold: float | None
    ) -> Self:
        """Use an endpoint of the AWS account; labels and threshold default to those in the model registry.

        Raises `AccountError` if AWS cannot be reached or denies access. Raises `EndpointError` if there is no
        such endpoint, or labels or threshold are needed because the registry does not list its model.
        """
        from model.network.embedding import SIZE  # noqa: PLC0415
        from model.sagemaker.account import connect, translate_aws_errors  # noqa: PLC0415
        from model.sagemaker.endpoint import served_model  # noqa: PLC0415

        account = connect()
        if labels and threshold is not None:
            return cls.from_endpoint(endpoint, account.runtime, labels, threshold, SIZE)
        with translate_aws_errors():
            model = served_model(account, endpoint)
        predictor = cls.from_endpoint(
            endpoint, account.runtime, model.labels, model.threshold, model.input_size
        )
        return predictor.with_overrides(labels, threshold)

    def with_overrides(self, labels: tuple[str, ...] | None, threshold: float | None) -> Self:
        """Replace the labels and the threshold by those that are not ``None``."""
        threshold = self.threshold if threshold is None else threshold
        return replace(self, labels=labels or self.labels, threshold=threshold)


class Prediction(TypedDict):
    """One line of output. For a rejected file, label, confidence and probabilities are null."""

    file: str
    label: str | None
    confidence: float | None
    probabilities: dict[str, float] | None
    decision: str
    reason: str


def predict(predictor: Predictor, photo: Path) -> Prediction:
    """Classify a file and decide on the answer as the pipeline's filter does."""
    from functions.filter.decision import decide  # noqa: PLC0415
    from model.photo import PhotoError  # noqa: PLC0415

    file = str(photo)
    try:
        inferences = predictor.classify(photo.read_bytes())
    except (PhotoError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Prediction(
            file=file, label=None, confidence=None, probabilities=None, decision="rejected", reason=reason
        )
    decision = decide(inferences, predictor.labels, predictor.threshold)
    return Prediction(
        file=file,
        label=decision["label"],
        confidence=decision["confidence"],
        probabilities=dict(zip(predictor.labels, inferences, strict=True)),
        decision=decision["decision"],
        reason=decision["reason"],
    )
