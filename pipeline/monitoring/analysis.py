"""Analyse the captured data of a time window: confidence, accuracy, and drift from the baseline."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from functions.monitor.capture_analysis import captures, drift
from functions.monitor.capture_analysis.captures import ReadCounts, TimeWindow
from functions.monitor.capture_analysis.drift import SIGNIFICANCE, Baseline, BaselineError, Drift, Features
from functions.monitor.capture_analysis.intervals import Interval
from functions.monitor.capture_analysis.window import (
    IMAGE_PROPERTIES,
    OTHER,
    Answer,
    Window,
    image_properties,
)
from model.evaluation import statistics
from model.evaluation.statistics import Bin, Bools, Floats, Share
from model.photo import read_pixels
from model.training import baseline as baselines
from model.training.baseline import FeatureSpace

if TYPE_CHECKING:
    from model.network.classifier import Classifier

GALLERY = 12
"""Number of photos on the page in each of two groups: least confident, farthest from the baseline."""
MAX_SLICES = 24
MIN_VALUES = 30
"""Minimum number of values in a slice to compare with the baseline; with fewer, chance decides."""
EMBEDDING_BATCH = 16


class MonitoringError(Exception):
    """There is nothing to report, or nowhere to write it; the message says why."""


@dataclass(frozen=True)
class Slice:
    """A part of the time window: its `n` answers, and the 10%, 50% and 90% quantiles of their confidence.

    `drift` lacks features of which the slice has too few values.
    """

    start: datetime
    end: datetime
    accepted: int
    n: int
    confidence: tuple[float, float, float]
    by_label: dict[str, int]
    drift: dict[str, Drift]


@dataclass(frozen=True)
class Labelled:
    """Metrics of the answers whose true label is known; `of_accepted` is the selective precision."""

    accuracy: Share
    of_accepted: Share | None
    ece: float
    bins: list[Bin]


@dataclass(frozen=True)
class Sample:
    """N answers with photos, drawn at random from a window, and the photos' properties by name, float [N].

    `features` are the embeddings of the first M photos, float [M, D], and `distance` their distances from the
    baseline in that space, float [M].
    """

    answers: list[Answer]
    properties: dict[str, Floats]
    features: Floats | None = None
    distance: Floats | None = None

    @property
    def numbers(self) -> dict[str, Floats]:
        """All measurements by feature."""
        distance = {} if self.distance is None else {"feature_distance": self.distance}
        return {name: values for name, values in (self.properties | distance).items() if len(values)}


@dataclass(frozen=True)
class MonitoringReport:
    """The results for a time window; what could not be measured is ``None`` or empty.

    `start` and `end` are the times of the first and last answer if the requested window is open. `model` is
    the baseline's. `since` has the start of the first slice in which a feature drifted. `farthest` has the
    sampled photos that are farthest from the baseline, each with its distance in words.
    """

    source: str
    counts: ReadCounts
    start: datetime | None
    end: datetime | None
    model: str | None
    window: Window
    features: Features
    sample: Sample
    drift: dict[str, Drift]
    since: dict[str, datetime]
    under_threshold: Share | None
    others: Share | None
    accepted: Share | None
    estimated_accuracy: Interval | None
    labelled: Labelled | None
    slices: list[Slice]
    farthest: list[tuple[Answer, str]]

    @property
    def drifted(self) -> list[str]:
        """The features that have drifted, in descending order of the statistic."""
        names = [name for name, one in self.drift.items() if one.drifted]
        return sorted(names, key=lambda name: -self.drift[name].statistic)

    @property
    def photos_embedded(self) -> int:
        """Number of photos whose distance in the model's feature space was measured."""
        return 0 if self.sample.distance is None else len(self.sample.distance)


def load_classifier(model: Path, baseline: Baseline | None) -> "Classifier":
    """Load a model to measure distances in its feature space.

    Raises `ArtifactError` if it cannot be loaded, and `BaselineError` if the baseline is not this model's.
    """
    from model.network.classifier import Classifier  # noqa: PLC0415  ONNX Runtime, needed only with a model

    classifier = Classifier.load(model)
    space = FeatureSpace.from_baseline(baseline) if baseline else None
    if space and space.graph_sha256 != classifier.description.graph_sha256:
        raise BaselineError(
            f"The baseline belongs to another model than {model}. Use that model's baseline, or omit --model."
        )
    return classifier


def analyse(
    source: str,
    bounds: TimeWindow,
    window: Window,
    *,
    baseline: Baseline | None = None,
    classifier: "Classifier | None" = None,
    max_embedded: int = 0,
    truth: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> MonitoringReport:
    """Read the captures of a time window into the empty `window`, and analyse them.

    Up to `max_embedded` photos are embedded with the classifier. `truth` has the true label, its name or
    number, by inference id. Raises `CaptureError` if captures cannot be read.
    """
    counts = ReadCounts()
    for record in captures.read(source, bounds, counts):
        window.add(record)
        progress(f"Reading captures … {counts.read:,}")
    progress("Measuring photos …")
    sample = _measure_photos(window, classifier, max_embedded)
    if baseline and sample.features is not None and (space := FeatureSpace.from_baseline(baseline)):
        sample = replace(sample, distance=space.distance(sample.features))
    features = drift.features(window, {name: values.tolist() for name, values in sample.numbers.items()})
    accepted = np.array(list(map(window.accepts, window.label, window.confidence)), np.bool_)
    n = len(accepted)
    times = np.array(window.at)
    times = times[np.isfinite(times)]
    slices = list(_slices(window, sample, accepted, times, baseline)) if len(times) else []
    drift_by_feature = drift.compare(features, baseline) if baseline else {}
    return MonitoringReport(
        source=source,
        counts=counts,
        start=bounds.start or (_time(times.min()) if len(times) else None),
        end=bounds.end or (_time(times.max()) if len(times) else None),
        model=baseline.model if baseline else None,
        window=window,
        features=features,
        sample=sample,
        drift=drift_by_feature,
        since={
            name: one.start for one in reversed(slices) for name, found in one.drift.items() if found.drifted
        },
        under_threshold=statistics.share(window.under_threshold(), n),
        others=statistics.share(window.by_label().get(OTHER, 0), n),
        accepted=statistics.share(int(accepted.sum()), n),
        estimated_accuracy=drift.estimated_accuracy(window.confidence, baseline, drift_by_feature.values()),
        labelled=_labelled(window, accepted, truth) if truth else None,
        slices=slices,
        farthest=list(_farthest(sample, baseline)) if baseline else [],
    )


def _measure_photos(window: Window, classifier: "Classifier | None", max_embedded: int) -> Sample:
    """Measure the window's sampled photos, and embed up to `max_embedded` of them with the classifier."""
    measured = [(answer, found) for answer in window.sample if (found := image_properties(answer.photo))]
    properties = {name: np.array([found[name] for _, found in measured]) for name in IMAGE_PROPERTIES}
    answers = [answer for answer, _ in measured]
    features = _embed(classifier, answers[:max_embedded]) if classifier and answers else None
    return Sample(answers, properties, features)


def _embed(classifier: "Classifier", answers: Sequence[Answer]) -> Floats:
    size = classifier.description.input_size
    pixels = (
        np.stack([read_pixels(answer.photo, size) for answer in batch])
        for batch in itertools.batched(answers, EMBEDDING_BATCH, strict=False)
    )
    return np.concatenate([classifier.features(batch) for batch in pixels])


def make_baseline(report: MonitoringReport, classifier: "Classifier | None" = None) -> Baseline:
    """Make a baseline from a window; raise `BaselineError` if the window has no answers."""
    model = classifier.description if classifier else None
    return baselines.make(
        model=f"{model.name} {model.version}" if model else report.model or "captured answers",
        labels=report.window.labels,
        threshold=report.window.threshold,
        confidence=np.array(report.window.confidence),
        predicted=np.array(report.window.label),
        properties=report.sample.properties,
        features=report.sample.features,
        graph_sha256=model.graph_sha256 if model else "",
    )


def _slices(
    window: Window, sample: Sample, accepted: Bools, times: Floats, baseline: Baseline | None
) -> Iterator[Slice]:
    """Cut the window into equal parts of time, each large enough to compare its photos with the baseline."""
    at, confidence, label = np.array(window.at), np.array(window.confidence), np.array(window.label)
    sampled_at = np.array([answer.at for answer in sample.answers])
    # 1.5 times the minimum on average, as some slices have fewer answers than others
    parts = max(1, min(MAX_SLICES, len(times) * 2 // (3 * MIN_VALUES)))
    edges = np.linspace(times.min(), np.nextafter(times.max(), np.inf), parts + 1)
    for start, end in itertools.pairwise(edges):
        inside = (at >= start) & (at < end)
        if not (n := int(inside.sum())):
            continue
        sampled = (sampled_at >= start) & (sampled_at < end)
        numbers = {name: values[sampled[: len(values)]] for name, values in sample.numbers.items()}
        numbers["confidence"] = confidence[inside]
        counts = np.bincount(label[inside], minlength=len(window.labels)).tolist()
        by_label = dict(zip(window.labels, counts, strict=True))
        under_threshold = int((confidence[inside] < window.threshold).sum())
        features = Features(
            {name: values for name, values in numbers.items() if len(values) >= MIN_VALUES},
            drift.categories(by_label, under_threshold) if n >= MIN_VALUES else {},
        )
        low, median, high = np.quantile(confidence[inside], (0.1, 0.5, 0.9)).tolist()
        yield Slice(
            start=_time(start),
            end=_time(end),
            accepted=int(accepted[inside].sum()),
            n=n,
            confidence=(low, median, high),
            by_label=by_label,
            drift=drift.compare(features, baseline, SIGNIFICANCE / parts) if baseline else {},
        )


def _labelled(window: Window, accepted: Bools, truth: Mapping[str, str]) -> Labelled | None:
    numbers = {label: number for number, label in enumerate(window.labels)}
    true_labels = [truth.get(name) for name in window.names]
    has_label = np.array([label is not None for label in true_labels], np.bool_)
    confidence, predicted = np.array(window.confidence)[has_label], np.array(window.label)[has_label]
    correct: Bools = predicted == np.array(
        [numbers.get(label, _number(label)) for label in true_labels if label is not None]
    )
    if not (accuracy := statistics.share(int(correct.sum()), len(correct))):
        return None
    bins = statistics.equal_width_bins(confidence, correct)
    return Labelled(
        accuracy=accuracy,
        of_accepted=statistics.share_of(correct, accepted[has_label]),
        ece=statistics.calibration_error(bins) or 0.0,
        bins=bins,
    )


def _number(label: str) -> int:
    """Read a label's number; -1 matches no answer, for a label that the model does not have."""
    return int(label) if label.isdecimal() else -1


def _farthest(sample: Sample, baseline: Baseline) -> Iterator[tuple[Answer, str]]:
    """Rank the sampled photos by their distance from the baseline.

    Without a model, the distance is that of the photo's most extreme property from the baseline's median, in
    interquartile ranges.
    """
    if sample.distance is not None:
        for index in np.argsort(-sample.distance)[:GALLERY]:
            yield sample.answers[index], f"distance {sample.distance[index]:.2f}"
        return
    deviations: dict[str, Floats] = {}
    for name, values in sample.properties.items():
        if known := baseline.numbers.get(name):
            low, median, high = np.quantile(known.sample, (0.25, 0.5, 0.75))
            deviations[name] = np.abs(values - median) / max(high - low, abs(median) / 100, 1e-9)
    if not deviations:
        return
    names, scores = list(deviations), np.stack(list(deviations.values()))
    for index in np.argsort(-scores.max(axis=0))[:GALLERY]:
        name = names[int(scores[:, index].argmax())]
        yield sample.answers[index], f"{name} {sample.properties[name][index]:.2f}"


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)
