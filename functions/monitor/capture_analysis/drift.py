"""Compare a time window's answers and photos with a baseline, to detect drift.

This is plain Python, because SciPy and NumPy take 160 MB unpacked; tests compare its results with SciPy's.
"""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from . import intervals
from .intervals import Interval
from .window import OTHER, Window

FORMAT = 1
"""The version of the baseline's file format. Increase it if old files become unreadable or wrong."""
MODERATE, LIMIT = 0.1, 0.2
"""Beyond these, a change is moderate or large: the usual limits for PSI (N. Siddiqi, "Credit risk
scorecards", 2006), here also used for distances. They assume about ten bins: with two or three categories
even a large change gives a small PSI (0.16 if 60:40 becomes 40:60), so for categories `MODERATE` counts as
drift."""
SIGNIFICANCE = 0.01
"""The probability that any feature of a window without drift is reported as drifted."""
DIGITS = 6
"""Significant digits of the baseline's numbers and of those compared with them, so that a value that many
photos share, such as an aspect ratio of 4:3, equals itself after it was written and read."""
BINS = 10
"""The number of PSI's bins for numeric features, bounded by the baseline's deciles."""

type Level = Literal["none", "moderate", "drifted"]


class BaselineError(Exception):
    """A baseline cannot be used."""


@dataclass(frozen=True)
class Numbers:
    """The distribution of a numeric feature: a sorted `sample` that represents `n` values."""

    n: int
    sample: list[float]


@dataclass(frozen=True)
class Baseline:
    """Statistics of ``n`` photos and answers, with which later ones are compared. It contains no photos.

    ``accuracy`` is the share of correct answers, or ``None`` without correct labels; ``feature_space`` holds
    the parameters for measuring a photo's distance in the model's feature space.
    """

    model: str
    labels: list[str]
    threshold: float
    n: int
    mean_confidence: float
    accuracy: float | None
    numbers: dict[str, Numbers]
    counts: dict[str, dict[str, int]]
    feature_space: dict[str, Any] | None = None
    format: int = FORMAT

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Parse what `text` returns; raise `BaselineError` if it is something else or of another version."""
        try:
            value = json.loads(text)
            if value["format"] != FORMAT:
                raise BaselineError(
                    f"The baseline has format {value['format']}; this version reads format {FORMAT}. "
                    "Write it again with: scones monitor --write-baseline."
                )
            value["numbers"] = {name: Numbers(**numbers) for name, numbers in value["numbers"].items()}
            return cls(**value)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BaselineError(f"not a baseline: {type(error).__name__} {error}") from error

    def text(self) -> str:
        """Return the baseline as JSON."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"


@dataclass(frozen=True)
class Drift:
    """How far a feature's ``n`` values are from the baseline.

    ``psi`` is the population stability index; ``ks`` a numeric feature's Kolmogorov-Smirnov distance;
    ``variation`` a categorical feature's total variation distance, the share of answers that changed
    category; ``p_value`` the probability of a distance at least this large without drift. ``level`` is
    ``drifted`` if the statistic is significant and beyond ``limit``, ``moderate`` if beyond `MODERATE`.
    """

    psi: float
    ks: float | None
    variation: float | None
    p_value: float
    n: int
    statistic: float = field(init=False)
    limit: float = LIMIT
    level: Level = "none"
    drifted: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "statistic", max(self.psi, self.ks or self.variation or 0.0))


@dataclass(frozen=True)
class Features:
    """A window's values of each numeric feature, and its counts of each categorical feature."""

    numbers: Mapping[str, Sequence[float]]
    counts: Mapping[str, Mapping[str, int]]


def features(window: Window, photos: Mapping[str, Sequence[float]]) -> Features:
    """Return the features of a window, given the image properties of its sample."""
    numbers = {"confidence": window.confidence, **photos}
    return Features(numbers, categories(window.by_label(), window.under_threshold()))


def categories(by_label: Mapping[str, int], under_threshold: int) -> dict[str, dict[str, int]]:
    """Return the counts of each categorical feature."""
    answers = sum(by_label.values())
    counts = {
        "class_mix": dict(by_label),
        "under_threshold": {"under": under_threshold, "over": answers - under_threshold},
    }
    if OTHER in by_label:
        counts[OTHER] = {OTHER: by_label[OTHER], "vehicle": answers - by_label[OTHER]}
    return counts


def rounded(values: Iterable[float]) -> list[float]:
    """Round values to `DIGITS` significant digits."""
    return [float(f"{value:.{DIGITS}g}") for value in values]


def kolmogorov_smirnov(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Return the two-sample Kolmogorov-Smirnov distance and its p-value.

    The distance is the largest difference between the two empirical distribution functions. The p-value is
    Kolmogorov's asymptotic one, with n m / (n + m) for n (N. V. Smirnov, "Table for estimating the goodness
    of fit of empirical distributions", Annals of Mathematical Statistics 19, 1948):

        p = 2 sum over j = 1, 2, … of (-1)^(j - 1) exp(-2 j^2 d^2 n m / (n + m))
    """
    a, b = sorted(a), sorted(b)
    distance = max(
        abs(bisect_right(a, value) / len(a) - bisect_right(b, value) / len(b)) for value in {*a, *b}
    )
    scaled = 2 * distance**2 * len(a) * len(b) / (len(a) + len(b))
    if scaled < 0.1:  # noqa: PLR2004  below, the p-value is 1 to four digits and the series converges slowly
        return distance, 1.0
    p_value = 2 * math.fsum((-1) ** (j - 1) * math.exp(-(j**2) * scaled) for j in range(1, 30))
    return distance, min(1.0, max(0.0, p_value))


def same_shares(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the p-value of Pearson's chi-squared test that two samples have the same shares.

    Categories that are empty in both samples are ignored.
    """
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x + y]
    if (freedom := len(pairs) - 1) < 1:
        return 1.0
    share = sum(a) / (sum(a) + sum(b))
    # In each category, the two samples differ from their expected counts by the same number.
    statistic = math.fsum((x - (x + y) * share) ** 2 / ((x + y) * share * (1 - share)) for x, y in pairs)
    return _chi_squared_tail(statistic, freedom)


def _chi_squared_tail(statistic: float, freedom: int) -> float:
    """Return the probability that a chi-squared variable with these degrees of freedom exceeds a value.

    M. Abramowitz, I. Stegun, "Handbook of mathematical functions" (1964), 26.4.4 and 26.4.5: with h half the
    value, sum h^e exp(-h) / Gamma(e + 1) for e below freedom / 2. If freedom is even, e = 0, 1, …; if it is
    odd, e = 1/2, 3/2, …, and erfc(sqrt(h)) is added.
    """
    half = statistic / 2
    if half == 0:
        return 1.0
    first, lowest = (math.erfc(math.sqrt(half)), 0.5) if freedom % 2 else (0.0, 0.0)
    exponents = (lowest + step for step in range(freedom // 2))
    return first + math.fsum(math.exp(e * math.log(half) - half - math.lgamma(e + 1)) for e in exponents)


def population_stability_index(counts: Sequence[int], reference: Sequence[int]) -> float:
    """Return the population stability index of a window's counts against the baseline's.

    This is S. Kullback's divergence J ("Information theory and statistics", 1959) of shares a and b:

        sum of (a - b) log(a / b)

    Half an answer is added to each bin, because an empty bin would make the index infinite.
    """
    shares = [[(n + 0.5) / (sum(bins) + len(bins) / 2) for n in bins] for bins in (counts, reference)]
    return math.fsum((a - b) * math.log(a / b) for a, b in zip(*shares, strict=True))


def total_variation(counts: Sequence[int], reference: Sequence[int]) -> float:
    """Return the total variation distance: half the sum of the absolute differences between shares.

    For two categories it equals the Kolmogorov-Smirnov distance.
    """
    of_a, of_b = sum(counts), sum(reference)
    return math.fsum(abs(x / of_a - y / of_b) for x, y in zip(counts, reference, strict=True)) / 2


def deciles(sample: Sequence[float]) -> list[float]:
    """Return the inner bounds of up to `BINS` bins, each with about the same part of a sorted sample.

    Upper bounds are inclusive. A value that is frequent enough to fill a bin gets a bin of its own.
    """
    bounds = set()
    for tenth in range(1, BINS):
        value = sample[tenth * len(sample) // BINS]
        bounds.add(value)
        if bisect_right(sample, value) - bisect_left(sample, value) > len(sample) / BINS:
            bounds.add(math.nextafter(value, -math.inf))
    return sorted(bounds)


def estimated_accuracy(
    confidence: Sequence[float], baseline: Baseline | None, drift: Iterable[Drift]
) -> Interval | None:
    """Estimate accuracy without labels: see `intervals.estimated_accuracy`.

    Return ``None`` if there are no answers, or if anything has drifted. The estimate takes the confidence to
    be as well calibrated as on the baseline, and drift breaks exactly that: at night or with a dirty lens, a
    model is wrong more often than its confidence says. Only labels then tell the accuracy.
    """
    if any(one.drifted for one in drift):
        return None
    if not baseline:
        return intervals.estimated_accuracy(confidence)
    known = baseline.accuracy, baseline.mean_confidence, baseline.n
    return intervals.estimated_accuracy(confidence, *known)


def compare(window: Features, baseline: Baseline, significance: float = SIGNIFICANCE) -> dict[str, Drift]:
    """Measure the drift of each feature that both window and baseline have.

    A feature has drifted if its PSI or its distance (Kolmogorov-Smirnov; total variation for categories) is
    beyond the limit and significant: its p-value is below `significance`, the probability of reporting any
    drift in a window without drift, divided by the number of features (Bonferroni).
    """
    found: dict[str, Drift] = {}
    for name, values in window.numbers.items():
        if len(values) and (numbers := baseline.numbers.get(name)):
            current, bounds = rounded(values), deciles(numbers.sample)
            psi = population_stability_index(_binned(current, bounds), _binned(numbers.sample, bounds))
            distance, p_value = kolmogorov_smirnov(current, numbers.sample)
            found[name] = Drift(psi, distance, None, p_value, len(current))
    for name, counts in window.counts.items():
        if sum(counts.values()) and (reference := baseline.counts.get(name)):
            names = sorted({*counts, *reference})
            a, b = ([side.get(category, 0) for category in names] for side in (counts, reference))
            psi, variation = population_stability_index(a, b), total_variation(a, b)
            found[name] = Drift(psi, None, variation, same_shares(a, b), sum(a), limit=MODERATE)
    return {name: _with_level(drift, significance / len(found)) for name, drift in found.items()}


def _binned(values: Sequence[float], bounds: Sequence[float]) -> list[int]:
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    return counts


def _with_level(drift: Drift, significance: float) -> Drift:
    level: Level = "none"
    if drift.p_value < significance and drift.statistic > MODERATE:
        level = "drifted" if drift.statistic > drift.limit else "moderate"
    return replace(drift, level=level, drifted=level == "drifted")
