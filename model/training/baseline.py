"""Make and read the drift baseline that monitoring compares captured data with.

`scones train` writes one from cross-validated predictions on its training photos; `scones monitor
--write-baseline` writes one from captured data.
"""

from __future__ import annotations

import base64
import io
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from functions.monitor.capture_analysis.drift import Baseline, BaselineError, Numbers, categories, rounded
from functions.monitor.capture_analysis.window import IMAGE_PROPERTIES, image_properties
from model.network import artifact

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from model.evaluation.statistics import Bools, Floats, Integers
    from model.network.artifact import Description

FILE = "baseline.json"
MAX_VALUES = 500
"""Quantiles that represent a distribution."""
MAX_PHOTOS = 1000
"""Photos whose image properties are measured; more would hardly change the distributions."""


@dataclass(frozen=True)
class FeatureSpace:
    """Measures the distance of a photo from the baseline's photos in the model's feature space.

    This is the Mahalanobis distance with a diagonal covariance (P. C. Mahalanobis, "On the generalised
    distance in statistics", Proceedings of the National Institute of Sciences of India 2, 1936), divided by
    the square root of the number D of features:

        distance = sqrt( mean over features of ((feature - mean) / deviation)^2 )

    A full covariance of a few thousand features cannot be estimated from as many photos.

    Attributes
    ----------
    graph_sha256
        Hash of the model whose features these are.
    mean, deviation
        Mean and standard deviation of each feature over the baseline's photos, float [D].
    """

    graph_sha256: str
    mean: Floats
    deviation: Floats

    @classmethod
    def fit(cls, features: Floats, graph_sha256: str) -> Self:
        """Fit the space to the features of N photos, float [N, D]."""
        deviation = features.std(axis=0)
        # without a lower bound, a feature that is almost constant would dominate the distance
        return cls(graph_sha256, features.mean(axis=0), np.maximum(deviation, np.median(deviation) / 10))

    @classmethod
    def from_baseline(cls, baseline: Baseline) -> Self | None:
        """Return a baseline's feature space, if it has one."""
        if not (stored := baseline.feature_space):
            return None
        return cls(stored["graph_sha256"], np.array(stored["mean"]), np.array(stored["deviation"]))

    def distance(self, features: Floats) -> Floats:
        """Return the distance of N photos, float [N], from their features, float [N, D]."""
        scaled = (features - self.mean) / self.deviation
        distance: Floats = np.sqrt((scaled**2).mean(axis=1))
        return distance

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON value that a baseline stores."""
        return {
            "graph_sha256": self.graph_sha256,
            "mean": rounded(self.mean),
            "deviation": rounded(self.deviation),
        }


def from_training(
    model: Description,
    photos: Sequence[Path],
    probabilities: Floats,
    truth: Integers,
    features: Floats | None = None,
) -> Baseline:
    """Make a baseline from the held-out predictions on N training photos.

    Parameters
    ----------
    photos
        The files. The image properties of at most `MAX_PHOTOS` of them are measured, as serialized for the
        endpoint.
    probabilities
        Predicted by a model that was not trained on the photo, float [N, K].
    truth
        Label numbers, int [N].
    features
        As `Classifier.features` returns them, float [N, D].

    Raises `OSError` if a photo cannot be read.
    """
    sample = random.Random(0).sample(photos, min(MAX_PHOTOS, len(photos)))  # noqa: S311  not for security
    predicted = probabilities.argmax(axis=1)
    return make(
        model=f"{model.name} {model.version}",
        labels=model.labels,
        threshold=model.threshold,
        confidence=probabilities.max(axis=1),
        predicted=predicted,
        properties=measure_properties(
            serialize_photo(photo.read_bytes(), model.input_size) for photo in sample
        ),
        correct=predicted == truth,
        features=features,
        graph_sha256=model.graph_sha256,
    )


def make(
    *,
    model: str,
    labels: Sequence[str],
    threshold: float,
    confidence: Floats,
    predicted: Integers,
    properties: dict[str, Floats],
    correct: Bools | None = None,
    features: Floats | None = None,
    graph_sha256: str = "",
) -> Baseline:
    """Make a baseline from N predictions.

    Parameters
    ----------
    model
        The model's name and version.
    confidence, predicted
        Probability and number of the most probable label, float [N] and int [N].
    properties
        Image properties of any number of photos, as `measure_properties` returns them.
    correct
        Which predictions are correct, bool [N], if the truth is known.
    features
        Of any number M of photos, float [M, D], computed by the model of `graph_sha256`.

    Raises `BaselineError` if there are no predictions.
    """
    if not len(confidence):
        raise BaselineError("There are no answers to make a baseline from")
    numbers = {"confidence": confidence, **properties}
    space = None if features is None or not len(features) else FeatureSpace.fit(features, graph_sha256)
    if space and features is not None:
        numbers["feature_distance"] = space.distance(features)
    by_label = np.bincount(predicted, minlength=len(labels)).tolist()
    unsure = int((confidence < threshold).sum())
    return Baseline(
        model=model,
        labels=list(labels),
        threshold=threshold,
        n=len(confidence),
        mean_confidence=float(confidence.mean()),
        accuracy=None if correct is None else float(correct.mean()),
        numbers={
            name: Numbers(len(values), sample_quantiles(values))
            for name, values in numbers.items()
            if len(values)
        },
        counts=categories(dict(zip(labels, by_label, strict=True)), unsure),
        feature_space=space.to_dict() if space else None,
    )


def measure_properties(photos: Iterable[bytes]) -> dict[str, Floats]:
    """Measure the image properties of photos (`window.properties`); unreadable photos are skipped."""
    measured = [found for photo in photos if (found := image_properties(photo))]
    return {name: np.array([one[name] for one in measured]) for name in IMAGE_PROPERTIES}


def serialize_photo(photo: bytes, box: int) -> bytes:
    """Return a photo as the pipeline sends it to the endpoint: reduced to fit in `box` x `box` pixels."""
    from functions.serialize.photo import serialize  # noqa: PLC0415  imports the HEIC decoder, only for training

    return base64.b64decode(serialize(io.BytesIO(photo), box)["image_data"])


def sample_quantiles(values: Floats) -> list[float]:
    """Return at most `MAX_VALUES` of the values, sorted: the medians of as many equal parts."""
    if len(values) > MAX_VALUES:
        middles = (np.arange(MAX_VALUES) + 0.5) / MAX_VALUES
        values = np.quantile(values, middles, method="inverted_cdf")
    return sorted(rounded(values))


def read(path: Path) -> Baseline:
    """Read a baseline from its file, or from the folder or ``model.tar.gz`` of a model.

    Raises `BaselineError` if the file cannot be read, or is not a baseline; `ArtifactError` if the archive
    cannot be unpacked.
    """
    if path.name.endswith(".tar.gz"):
        with artifact.unpacked(path) as folder:
            return read(folder)
    file = path / FILE if path.is_dir() else path
    try:
        return Baseline.parse(file.read_bytes())
    except OSError as error:
        raise BaselineError(f"{file} cannot be read ({error.strerror})") from error
    except BaselineError as error:
        raise BaselineError(f"{file}: {error}") from error
