"""What captured data says: every figure of `scones monitor`, from the records of a time window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from functions.monitor.capture_analysis import captures, drift
from functions.monitor.capture_analysis.captures import ReadCounts, TimeWindow
from functions.monitor.capture_analysis.drift import SIGNIFICANCE, Baseline, Drift, Features
from functions.monitor.capture_analysis.intervals import Interval, estimated_accuracy
from functions.monitor.capture_analysis.window import OTHER, Answer, Window, image_properties
from model.evaluation import statistics
from model.training.baseline import FeatureSpace

if TYPE_CHECKING:
    from pathlib import Path

    from model.evaluation.statistics import Bin, Bools, Floats, Integers, Share
    from model.network.classifier import Classifier


SHOWN = 12
"""Photos on the page: of the least confident, and of the farthest from the baseline."""

RECENT = 500
"""Of how many of the latest answers the confidence is shown one by one."""

SLICES = 24
"""Of the window's time, at most."""

ENOUGH = 30
"""Values in a slice to compare them with the baseline; of fewer, any distance may be chance."""

FEW = 20
"""Values, of two samples together, of which the p-value is computed exactly."""

AT_A_TIME = 16
"""Photos that the model looks at together."""


class MonitoringError(Exception):
    """There is nothing to report on; the message says why."""


@dataclass(frozen=True)
class Photo:
    """A photo for the page: why it is shown is in `note`."""

    name: str
    label: str
    confidence: float
    accepted: bool
    note: str
    file: bytes


@dataclass(frozen=True)
class Slice:
    """A part of the window's time.

    Attributes
    ----------
    start, end
        From when to when.
    accepted, n
        How many answers the pipeline acts on, of how many.
    confidence
        Their 10%, 50% and 90% quantiles.
    by_label
        How many answers, by label.
    drift
        How far each feature is from the baseline, where there are values enough.
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
    """How right the answers are that somebody else answered, too.

    Attributes
    ----------
    accuracy
        The share of right ones.
    of_accepted
        The share of right ones among those that the pipeline acted on.
    ece
        Expected calibration error.
    bins
        Confidence and share of right answers, for the reliability diagram.
    """

    accuracy: Share
    of_accepted: Share | None
    ece: float
    bins: list[Bin]


@dataclass(frozen=True)
class Monitoring:
    """All that is reported; what there is nothing for is ``None`` or empty.

    Attributes
    ----------
    source
        Where the captures are.
    tally
        What was read.
    start, end
        The time window asked for, or where it has no bound, when the first and last answer came.
    model
        The baseline's model, if there is a baseline.
    labels, threshold
        What the answers are of; from which confidence they are accepted.
    window
        Every answer.
    features
        What was measured, by feature.
    sampled, seen
        On how many photos the look was measured, and on how many the distance in the model's feature space.
    drift
        How far each feature is from the baseline.
    since
        Of a feature that drifted in some slice of time, when the first such slice begins.
    estimated_accuracy
        Estimated without labels.
    labelled
        Measured with labels.
    slices
        The window, part by part.
    least_confident, farthest
        Photos to look at.
    """

    source: str
    tally: ReadCounts
    start: datetime | None
    end: datetime | None
    model: str | None
    labels: Sequence[str]
    threshold: float
    window: Window
    features: Features
    sampled: int
    seen: int
    drift: dict[str, Drift]
    since: dict[str, datetime]
    estimated_accuracy: Interval | None
    labelled: Labelled | None
    slices: list[Slice]
    least_confident: list[Photo]
    farthest: list[Photo]

    @property
    def drifted(self) -> list[str]:
        """The features that have drifted, the farthest first."""
        far = [name for name, one in self.drift.items() if one.drifted]
        return sorted(far, key=lambda name: -self.drift[name].statistic)

    @property
    def under_threshold(self) -> Share | None:
        """The share of answers whose confidence is under the threshold."""
        return statistics.share(self.window.under_threshold(), len(self.window.confidence))

    @property
    def others(self) -> Share | None:
        """The share of answers that the photo shows no vehicle."""
        return statistics.share(self.window.by_label().get(OTHER, 0), len(self.window.confidence))

    @property
    def accepted(self) -> Share | None:
        """The share of answers that the pipeline acts on."""
        accepted = sum(map(self.window.accepts, self.window.label, self.window.confidence))
        return statistics.share(accepted, len(self.window.confidence))


@dataclass
class Sample:
    """Photos drawn from a window, with what was measured of each.

    Attributes
    ----------
    answers
        N answers with their photos.
    look
        By property, float [N].
    features
        In the model's feature space, float [M, D], of the first M of them.
    distance
        In that space from the baseline, float [M].
    """

    answers: list[Answer]
    look: dict[str, Floats]
    features: Floats | None = None
    distance: Floats | None = None

    @property
    def numbers(self) -> dict[str, Floats]:
        """All that was measured, by feature."""
        distance = {} if self.distance is None else {"feature_distance": self.distance}
        return {name: values for name, values in (self.look | distance).items() if len(values)}

    @property
    def at(self) -> Floats:
        """When each was answered, in seconds since 1970, float [N]."""
        return np.array([answer.at for answer in self.answers])


def gather(source: str, bounds: TimeWindow, window: Window, progress: Progress | None = None) -> ReadCounts:
    """Read captured records into a window, and say what was read.

    Raises
    ------
    CaptureError
        They cannot be read.
    """
    tally = ReadCounts()
    for record in captures.read(source, bounds, tally):
        window.add(record)
        if progress:
            progress(tally.read)
    return tally


type Progress = Callable[[int], None]


def measure(window: Window, classifier: Classifier | None, most_seen: int) -> Sample:
    """Measure the sampled photos: how they look and, where there is a model, its features of some.

    Parameters
    ----------
    window
        Holds the sample.
    classifier
        The model that sees them.
    most_seen
        How many photos it is shown, at most: it takes far longer than all else.
    """
    measured = [(answer, found) for answer in window.sample if (found := image_properties(answer.photo))]
    names = measured[0][1] if measured else {}
    look = {name: np.array([found[name] for _, found in measured]) for name in names}
    answers = [answer for answer, _ in measured]
    features = see(classifier, answers[:most_seen]) if classifier and answers else None
    return Sample(answers, look, features)


def see(classifier: Classifier, answers: Sequence[Answer]) -> Floats:
    """Return the model's features of photos that can be read, float [N, D]."""
    from model.photo import read_pixels  # noqa: PLC0415  HEIC's decoder, which nothing else here needs

    size = classifier.description.input_size
    batches = (answers[start : start + AT_A_TIME] for start in range(0, len(answers), AT_A_TIME))
    pixels = (np.stack([read_pixels(answer.photo, size) for answer in batch]) for batch in batches)
    return np.concatenate([classifier.features(batch) for batch in pixels])


def monitor(
    source: str,
    bounds: TimeWindow,
    window: Window,
    tally: ReadCounts,
    sample: Sample,
    *,
    baseline: Baseline | None = None,
    truth: Mapping[str, str] | None = None,
) -> Monitoring:
    """Compute everything that is reported.

    Parameters
    ----------
    source, bounds
        Where the records are from, and of which time.
    window, tally, sample
        What `gather` and `measure` found.
    baseline
        To compare with.
    truth
        What photos show, by their inferences' ids: a label, or its number.
    """
    if baseline and sample.features is not None and (space := FeatureSpace.from_baseline(baseline)):
        sample = Sample(sample.answers, sample.look, sample.features, space.distance(sample.features))
    compared = drift.features(window, {name: values.tolist() for name, values in sample.numbers.items()})
    at, confidence, label = np.array(window.at), np.array(window.confidence), np.array(window.label)
    slices = list(_sliced(window, at, confidence, label, sample=sample, baseline=baseline))
    known = at[np.isfinite(at)]
    return Monitoring(
        source=source,
        tally=tally,
        start=bounds.start or (_time(known.min()) if len(known) else None),
        end=bounds.end or (_time(known.max()) if len(known) else None),
        model=baseline.model if baseline else None,
        labels=window.labels,
        threshold=window.threshold,
        window=window,
        features=compared,
        sampled=len(sample.answers),
        seen=0 if sample.distance is None else len(sample.distance),
        drift=_compare(compared, baseline) if baseline else {},
        since=_since(slices),
        estimated_accuracy=(baseline.estimated_accuracy if baseline else estimated_accuracy)(
            window.confidence
        ),
        labelled=_labelled(window, truth) if truth else None,
        slices=slices,
        least_confident=[_shown(window, answer, "") for answer in window.least_confident],
        farthest=list(_farthest(window, sample, baseline)) if baseline else [],
    )


def metrics(report: Monitoring) -> dict[str, Any]:
    """Put everything but the photos in terms of JSON."""
    confidence = np.array(report.window.confidence)
    return {
        "source": report.source,
        "from": _iso(report.start),
        "to": _iso(report.end),
        "files": report.tally.files,
        "records_read": report.tally.read,
        "records": report.tally.records,
        "duplicates": report.tally.duplicates,
        "broken": report.tally.broken,
        "skipped": report.tally.skipped,
        "without": dict(report.window.unusable),
        "answers": len(confidence),
        "model": report.model,
        "labels": list(report.labels),
        "threshold": report.threshold,
        "mean_confidence": float(confidence.mean()) if len(confidence) else None,
        "class_mix": report.window.by_label(),
        "under_threshold": _plain(report.under_threshold),
        "other": _plain(report.others),
        "accepted": _plain(report.accepted),
        "estimated_accuracy": _plain(report.estimated_accuracy),
        "labelled": _plain(report.labelled),
        "photos_sampled": report.sampled,
        "photos_seen_by_the_model": report.seen,
        "features": {name: _feature(report, name) for name in _names(report.features)},
        "drifted": report.drifted,
        "since": {name: _iso(at) for name, at in report.since.items()},
        "slices": [_plain(one) for one in report.slices],
    }


def _names(features: Features) -> list[str]:
    return [*(name for name, values in features.numbers.items() if len(values)), *features.counts]


def _feature(report: Monitoring, name: str) -> dict[str, Any]:
    """Say how a feature is distributed and, where there is a baseline, how far from it."""
    if name in report.features.numbers:
        measured = _spread(report.features.numbers[name])
    else:
        counts = report.features.counts[name]
        measured = {"n": sum(counts.values()), "counts": dict(counts)}
    return measured | (vars(report.drift[name]) if name in report.drift else {})


def _spread(values: Sequence[float]) -> dict[str, Any]:
    low, middle, high = np.quantile(np.asarray(values), (0.1, 0.5, 0.9)).tolist()
    return {"n": len(values), "mean": float(np.mean(values)), "p10": low, "p50": middle, "p90": high}


def _compare(window: Features, baseline: Baseline, significance: float = SIGNIFICANCE) -> dict[str, Drift]:
    return drift.compare(window, baseline, number_test, count_test, significance)


def number_test(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Return the two-sample Kolmogorov-Smirnov distance and its p-value, by SciPy."""
    found = stats.ks_2samp(a, b, method="asymp" if len(a) + len(b) > FEW else "exact")
    return float(found.statistic), float(found.pvalue)


def count_test(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the p-value of Pearson's chi-squared test of two lists of counts, by SciPy."""
    table = np.array([a, b])
    table = table[:, table.any(axis=0)]
    return float(stats.chi2_contingency(table, correction=False).pvalue) if table.shape[1] > 1 else 1.0


def _sliced(
    window: Window,
    at: Floats,
    confidence: Floats,
    label: Integers,
    *,
    sample: Sample,
    baseline: Baseline | None,
) -> Iterator[Slice]:
    """Cut the answers into parts of equal time, with enough in the sample of each to compare them."""
    known = at[np.isfinite(at)]
    if not len(known):
        return
    parts = max(1, min(SLICES, len(known) * 2 // (3 * ENOUGH)))  # some parts have fewer than others
    edges = np.linspace(known.min(), np.nextafter(known.max(), np.inf), parts + 1)
    sampled_at = sample.at
    for start, end in itertools.pairwise(edges):
        inside = (at >= start) & (at < end)
        if not (n := int(inside.sum())):
            continue
        by_label = np.bincount(label[inside], minlength=len(window.labels)).tolist()
        mix = dict(zip(window.labels, by_label, strict=True))
        drawn = (sampled_at >= start) & (sampled_at < end)
        numbers = {name: values[drawn[: len(values)]] for name, values in sample.numbers.items()}
        compared = Features(
            {
                name: values
                for name, values in (numbers | {"confidence": confidence[inside]}).items()
                if len(values) >= ENOUGH
            },
            drift.categories(mix, int((confidence[inside] < window.threshold).sum())) if n >= ENOUGH else {},
        )
        low, middle, high = np.quantile(confidence[inside], (0.1, 0.5, 0.9)).tolist()
        yield Slice(
            start=_time(start),
            end=_time(end),
            accepted=sum(map(window.accepts, label[inside].tolist(), confidence[inside].tolist())),
            n=n,
            confidence=(low, middle, high),
            by_label=mix,
            drift=_compare(compared, baseline, SIGNIFICANCE / parts) if baseline else {},
        )


def _since(slices: Sequence[Slice]) -> dict[str, datetime]:
    since: dict[str, datetime] = {}
    for one in slices:
        for name, found in one.drift.items():
            if found.drifted:
                since.setdefault(name, one.start)
    return since


def _labelled(window: Window, truth: Mapping[str, str]) -> Labelled | None:
    """Judge the answers to photos of which `truth` says what they show."""
    numbers = {label: number for number, label in enumerate(window.labels)}
    shown = [numbers.get(told, _number(told)) if (told := truth.get(name)) else None for name in window.names]
    known = np.array([one is not None for one in shown], np.bool_)
    if not known.any():
        return None
    confidence, label = np.array(window.confidence)[known], np.array(window.label)[known]
    right: Bools = label == np.array([one for one in shown if one is not None])
    accepted: Bools = np.array(list(map(window.accepts, label.tolist(), confidence.tolist())))
    bins = statistics.equal_width_bins(confidence, right)
    accuracy = statistics.share(int(right.sum()), len(right))
    assert accuracy is not None  # noqa: S101  there is an answer
    return Labelled(
        accuracy=accuracy,
        of_accepted=statistics.share(int((right & accepted).sum()), int(accepted.sum())),
        ece=statistics.calibration_error(bins) or 0.0,
        bins=bins,
    )


def _number(label: str) -> int:
    """Return the number that stands for a label, -1 for a label that the model does not have."""
    return int(label) if label.isdecimal() else -1


def _farthest(window: Window, sample: Sample, baseline: Baseline) -> Iterator[Photo]:
    """Yield the sampled photos that are farthest from the baseline, and say in what.

    By the distance in the model's feature space; where it was not measured, by the property of the photo's
    that lies farthest out, in interquartile ranges from the baseline's median.
    """
    if sample.distance is not None:
        for index in np.argsort(-sample.distance)[:SHOWN]:
            yield _shown(window, sample.answers[index], f"distance {sample.distance[index]:.2f}")
        return
    out: dict[str, Floats] = {}
    for name, values in sample.look.items():
        if known := baseline.numbers.get(name):
            low, middle, high = np.quantile(known.sample, (0.25, 0.5, 0.75))
            out[name] = np.abs(values - middle) / max(high - low, abs(middle) / 100, 1e-9)
    if not out:
        return
    names, scores = list(out), np.stack(list(out.values()))
    for index in np.argsort(-scores.max(axis=0))[:SHOWN]:
        name = names[int(scores[:, index].argmax())]
        yield _shown(window, sample.answers[index], f"{name} {sample.look[name][index]:.2f}")


def _shown(window: Window, answer: Answer, note: str) -> Photo:
    return Photo(
        name=answer.name,
        label=window.labels[answer.label],
        confidence=answer.confidence,
        accepted=window.accepts(answer.label, answer.confidence),
        note=note,
        file=answer.photo,
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:  # noqa: ANN401  whatever JSON has no word for becomes what it has one for
    if isinstance(value, datetime):
        return _iso(value)
    if isinstance(value, Interval):
        return value._asdict()
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(one) for name, one in vars(value).items()}
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load(model: Path, baseline: Baseline | None) -> Classifier:
    """Load the model whose feature space the baseline's distances are in.

    Raises
    ------
    ArtifactError
        It cannot be loaded.
    BaselineError
        It is another one.
    """
    from functions.monitor.capture_analysis.drift import BaselineError  # noqa: PLC0415  as above
    from model.network.classifier import Classifier  # noqa: PLC0415
    from model.training.baseline import FeatureSpace  # noqa: PLC0415

    classifier = Classifier.load(model)
    space = FeatureSpace.from_baseline(baseline) if baseline else None
    if space and space.graph_sha256 != classifier.description.graph_sha256:
        raise BaselineError(
            f"the baseline is of another model than {model}: give its own, or leave --model out"
        )
    return classifier


def as_baseline(report: Monitoring, sample: Sample, classifier: Classifier | None) -> Baseline:
    """Make a baseline of what was reported.

    Raises
    ------
    BaselineError
        There were no answers.
    """
    import numpy as np  # noqa: PLC0415  as above

    from model.training import baseline  # noqa: PLC0415

    described = classifier.description if classifier else None
    return baseline.make(
        model=f"{described.name} {described.version}" if described else report.model or "captured answers",
        labels=report.labels,
        threshold=report.threshold,
        confidence=np.array(report.window.confidence),
        predicted=np.array(report.window.label),
        properties=sample.look,
        features=sample.features,
        graph_sha256=described.graph_sha256 if described else "",
    )
