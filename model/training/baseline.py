"""Make and read the drift baseline with which monitoring compares captured data.

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
"""Number of quantiles that represent a distribution."""
MAX_PHOTOS = 1000
"""Number of photos whose image properties are measured; more would hardly change the distributions."""


@dataclass(frozen=True)
class FeatureSpace:
    """Measures a photo's distance from the baseline's photos in the feature space of a model.

    This is the Mahalanobis distance with a diagonal covariance (P. C. Mahalanobis, "On the generalised
    distance in statistics", Proceedings of the National Institute of Sciences of India 2, 1936), divided by
    the square root of the number D of features:

        distance = sqrt( mean over features of ((feature - mean) / deviation)^2 )

    Mean and standard deviation of each feature are over the baseline's photos, float [D]. A full covariance
    of a few thousand features cannot be estimated from as many photos.
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
        """Return the distances of N photos, float [N], given their features, float [N, D]."""
        scaled = (features - self.mean) / self.deviation
        distance: Floats = np.sqrt((scaled**2).mean(axis=1))
        return distance

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON value that a baseline stores."""
        numbers = {"mean": rounded(self.mean), "deviation": rounded(self.deviation)}
        return {"graph_sha256": self.graph_sha256, **numbers}


def from_training(
    model: Description, photos: Sequence[Path], probabilities: Floats, truth: Integers, features: Floats
) -> Baseline:
    """Make a baseline from N training photos, their label numbers, int [N], and features, float [N, D].

    The `probabilities`, float [N, K], are of models that were not trained on the respective photo. The image
    properties of at most `MAX_PHOTOS` photos are measured, as serialized for the endpoint. Raises `OSError`
    if a photo cannot be read.
    """
    sample = random.Random(0).sample(photos, min(MAX_PHOTOS, len(photos)))  # noqa: S311  not for security
    serialized = (serialize_photo(photo.read_bytes(), model.input_size) for photo in sample)
    predicted = probabilities.argmax(axis=1)
    return make(
        model=f"{model.name} {model.version}",
        labels=model.labels,
        threshold=model.threshold,
        confidence=probabilities.max(axis=1),
        predicted=predicted,
        properties=measure_properties(serialized),
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
    """Make a baseline from N predictions, given the confidence and number of each most probable label.

    `correct` says which predictions are correct, if the truth is known. The image `properties`, by name, and
    the `features`, float [M, D], may be those of any number of photos; see `Baseline` for the rest. Raises
    `BaselineError` if there are no predictions.
    """
    if not len(confidence):
        raise BaselineError("There are no answers to make a baseline from")
    numbers, space = {"confidence": confidence, **properties}, None
    if features is not None and len(features):
        space = FeatureSpace.fit(features, graph_sha256)
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
    """Return the values sorted; of more than `MAX_VALUES`, the medians of as many equal parts."""
    if len(values) > MAX_VALUES:
        middles = (np.arange(MAX_VALUES) + 0.5) / MAX_VALUES
        values = np.quantile(values, middles, method="inverted_cdf")
    return sorted(rounded(values))


def read(path: Path) -> Baseline:
    """Read a baseline from its file, or from the folder or ``model.tar.gz`` of a model.

    Raises `BaselineError` if the file cannot be read or is not a baseline; `ArtifactError` if the archive
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
