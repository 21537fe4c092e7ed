"""What monitoring compares with: how photos and answers looked where the model is known.

`scones train` writes one from its training photos, each answered by a model that had not seen it; `model
monitor --write-baseline` writes one from captured data, such as last month's.
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
KEPT = 500
"""Values of a number that stand for all."""
PHOTOS = 1000
"""Of how many the look is measured, at most: more would hardly move a distribution."""


@dataclass(frozen=True)
class FeatureSpace:
    """Measures how far a photo is from the baseline's photos, as the model sees them.

    The distance is Mahalanobis's with a diagonal covariance (P. C. Mahalanobis, "On the generalised distance
    in statistics", Proceedings of the National Institute of Sciences of India 2, 1936), divided by the root
    of the number D of features:

        distance = sqrt( mean over features of ((feature - mean) / deviation)^2 )

    A full covariance of some thousand features cannot be estimated from as many photos.

    Attributes
    ----------
    graph_sha256
        Of the model whose features these are.
    mean, deviation
        Of each feature over the baseline's photos, float [D].
    """

    graph_sha256: str
    mean: Floats
    deviation: Floats

    @classmethod
    def fit(cls, features: Floats, graph_sha256: str) -> Self:
        """Take the baseline's features, float [N, D]."""
        deviation = features.std(axis=0)
        # A feature that hardly ever moves would turn its first move into a distance beyond all others.
        return cls(graph_sha256, features.mean(axis=0), np.maximum(deviation, np.median(deviation) / 10))

    @classmethod
    def of(cls, baseline: Baseline) -> Self | None:
        """Return the one that a baseline holds, if it does."""
        if not (kept := baseline.feature_space):
            return None
        return cls(kept["graph_sha256"], np.array(kept["mean"]), np.array(kept["deviation"]))

    def distance(self, features: Floats) -> Floats:
        """Return each photo's distance, float [N], from its features, float [N, D]."""
        scaled = (features - self.mean) / self.deviation
        distance: Floats = np.sqrt((scaled**2).mean(axis=1))
        return distance

    def kept(self) -> dict[str, Any]:
        """Return it as a baseline holds it."""
        return {
            "graph_sha256": self.graph_sha256,
            "mean": rounded(self.mean),
            "deviation": rounded(self.deviation),
        }


def of_training(
    model: Description,
    photos: Sequence[Path],
    probabilities: Floats,
    truth: Integers,
    features: Floats | None = None,
) -> Baseline:
    """Make a baseline from labelled photos, as `scones train` has them.

    Parameters
    ----------
    model
        Its name, labels, threshold, input size and graph.
    photos
        The files, N of them. How they look is measured on at most `PHOTOS` of them, as the pipeline would
        send them.
    probabilities
        What is answered to each by a model that was not trained on it, float [N, K].
    truth
        The number of each one's label, int [N].
    features
        Each one's features, float [N, D], as `Classifier.features` gives them.

    Raises
    ------
    OSError
        A photo cannot be read.
    """
    drawn = random.Random(0).sample(photos, min(PHOTOS, len(photos)))  # noqa: S311  for a sample
    answered = probabilities.argmax(axis=1)
    return make(
        model=f"{model.name} {model.version}",
        labels=model.labels,
        threshold=model.threshold,
        confidence=probabilities.max(axis=1),
        answered=answered,
        look=look(sent(photo.read_bytes(), model.input_size) for photo in drawn),
        right=answered == truth,
        features=features,
        graph_sha256=model.graph_sha256,
    )


def make(
    *,
    model: str,
    labels: Sequence[str],
    threshold: float,
    confidence: Floats,
    answered: Integers,
    look: dict[str, Floats],
    right: Bools | None = None,
    features: Floats | None = None,
    graph_sha256: str = "",
) -> Baseline:
    """Make a baseline.

    Parameters
    ----------
    model
        The model's name and version.
    labels, threshold
        As of the model: K labels, and the least confidence at which it accepts.
    confidence, answered
        Of N answers: the probability, and the number, of the most probable label.
    look
        How photos look, by property, as `look` returns it.
    right
        Which answers were right, bool [N], where somebody knows.
    features
        Of any number of photos, float [M, D].
    graph_sha256
        Of the model that has these features.

    Raises
    ------
    BaselineError
        There are no answers to make it from.
    """
    if not len(confidence):
        raise BaselineError("there are no answers to make a baseline from")
    numbers = {"confidence": confidence, **look}
    space = None if features is None or not len(features) else FeatureSpace.fit(features, graph_sha256)
    if space and features is not None:
        numbers["feature_distance"] = space.distance(features)
    by_label = np.bincount(answered, minlength=len(labels)).tolist()
    unsure = int((confidence < threshold).sum())
    return Baseline(
        model=model,
        labels=list(labels),
        threshold=threshold,
        n=len(confidence),
        mean_confidence=float(confidence.mean()),
        accuracy=None if right is None else float(right.mean()),
        numbers={
            name: Numbers(len(values), thinned(values)) for name, values in numbers.items() if len(values)
        },
        counts=categories(dict(zip(labels, by_label, strict=True)), unsure),
        feature_space=space.kept() if space else None,
    )


def look(photos: Iterable[bytes]) -> dict[str, Floats]:
    """Measure how photos look, by property (`window.properties`); what cannot be read is left out."""
    measured = [found for photo in photos if (found := image_properties(photo))]
    return {name: np.array([one[name] for one in measured]) for name in IMAGE_PROPERTIES}


def sent(photo: bytes, box: int) -> bytes:
    """Return a photo as the pipeline sends it to the endpoint: reduced to fit in `box` x `box` pixels."""
    from functions.serialize.photo import serialize  # noqa: PLC0415  HEIC's decoder, which only training needs

    return base64.b64decode(serialize(io.BytesIO(photo), box)["image_data"])


def thinned(values: Floats) -> list[float]:
    """Return values in order, at most `KEPT`: those at the middles of as many equal parts."""
    if len(values) > KEPT:
        middles = (np.arange(KEPT) + 0.5) / KEPT
        values = np.quantile(values, middles, method="inverted_cdf")
    return sorted(rounded(values))


def read(path: Path) -> Baseline:
    """Read a baseline.

    Parameters
    ----------
    path
        The file, or the folder or ``model.tar.gz`` of a model that has it.

    Raises
    ------
    BaselineError
        It cannot be read, or is none.
    ArtifactError
        The archive cannot be unpacked.
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
