"""Does a window look as the photos did that the model is known on? The baseline, and the comparison with it.

Plain Python, since SciPy and NumPy weigh 160 MB unpacked. What it computes is tested against SciPy's.
"""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from .intervals import Interval, estimated_accuracy
from .window import OTHER, Window

FORMAT = 1
"""Of the baseline's file. Raised by whatever makes an old file unreadable or wrong."""
MODERATE, LIMIT = 0.1, 0.2
"""From where a statistic tells of some, and of much, change: the limits in use for PSI (N. Siddiqi, "Credit
risk scorecards", 2006), which are for ten bins or so, and here for distances as well. Two or three categories
differ by less however much they change (of 60:40 turned into 40:60 PSI is 0.16): of these, some is much."""
SIGNIFICANCE = 0.01
"""The chance, in a window without drift, that any one feature passes for changed."""
DIGITS = 6
"""Significant ones, of each number in the baseline, and of those that are compared with it: a value that has
many photos, such as an aspect of 4:3, must not lie beside itself."""
BINS = 10
"""Of a number's values, for PSI: the baseline's deciles."""

type Level = Literal["none", "moderate", "drifted"]


class BaselineError(Exception):
    """A baseline cannot be used; the message says why."""


@dataclass(frozen=True)
class Numbers:
    """How a number is distributed: `sample`, in order, stands for the `n` values there were."""

    n: int
    sample: list[float]


@dataclass(frozen=True)
class Baseline:
    """How photos and answers looked where the model is known; nothing of it is a photo.

    Attributes
    ----------
    model
        The model's name and version.
    labels
        What its answers are of, in their order.
    threshold
        The least confidence, 0 to 1, at which an answer is accepted.
    n
        How many answers it was made from.
    mean_confidence
        Their mean confidence.
    accuracy
        How many of them were right, from 0 to 1; ``None`` where nobody knew.
    numbers
        By feature, of those that are numbers.
    counts
        By feature, of those that are categories: how many answers were of each.
    feature_space
        What measures a photo's distance in the model's feature space, where it is measured.
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
        """Read what `text` wrote.

        Raises
        ------
        BaselineError
            It is no baseline, or one of another format.
        """
        try:
            value = json.loads(text)
            if value["format"] != FORMAT:
                raise BaselineError(
                    f"the baseline is of format {value['format']}, this version reads {FORMAT}: write it anew"
                )
            value["numbers"] = {name: Numbers(**numbers) for name, numbers in value["numbers"].items()}
            return cls(**value)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BaselineError(f"it is no baseline: {type(error).__name__} {error}") from error

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"

    def estimated_accuracy(self, confidence: Sequence[float]) -> Interval | None:
        """Estimate how many answers of these confidences are right: see `intervals.estimated_accuracy`."""
        return estimated_accuracy(confidence, self.accuracy, self.mean_confidence, self.n)


@dataclass(frozen=True)
class Drift:
    """How far a feature is from the baseline.

    Attributes
    ----------
    psi
        The population stability index.
    ks
        The Kolmogorov-Smirnov distance, of a feature that is a number.
    variation
        The total variation distance, of one that has categories: what share of answers has moved.
    p_value
        The chance to be this far apart, or farther, if nothing had changed.
    n
        From how many values of the window.
    statistic
        The larger of `psi` and the distance, to hold against `limit`.
    limit
        Beyond which a feature has drifted, if that is not chance: 0.2, of categories 0.1.
    level
        ``drifted``, or beyond 0.1 ``moderate``, or ``none``; never more than ``none`` if it may be chance.
    drifted
        Whether it has.
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
    """What of a window is compared, by feature: values of numbers, and counts of categories."""

    numbers: Mapping[str, Sequence[float]]
    counts: Mapping[str, Mapping[str, int]]


def features(window: Window, photos: Mapping[str, Sequence[float]]) -> Features:
    """Take the features from a window and from what was measured of its photos."""
    counts = categories(window.by_label(), window.under_threshold())
    return Features({"confidence": window.confidence, **photos}, counts)


def categories(by_label: Mapping[str, int], under_threshold: int) -> dict[str, dict[str, int]]:
    """Count answers by category, for each feature that has categories."""
    answers = sum(by_label.values())
    counts = {
        "class_mix": dict(by_label),
        "under_threshold": {"under": under_threshold, "over": answers - under_threshold},
    }
    if OTHER in by_label:
        counts[OTHER] = {OTHER: by_label[OTHER], "vehicle": answers - by_label[OTHER]}
    return counts


def rounded(values: Iterable[float]) -> list[float]:
    """Return values to `DIGITS` significant digits."""
    return [float(f"{value:.{DIGITS}g}") for value in values]


def kolmogorov_smirnov(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Return the two-sample Kolmogorov-Smirnov distance, and the p-value of it.

    The distance is the largest gap between the two empirical distribution functions. The p-value is that of
    Kolmogorov's limit, with n m / (n + m) for n (N. V. Smirnov, "Table for estimating the goodness of fit of
    empirical distributions", Annals of Mathematical Statistics 19, 1948):

        p = 2 sum over j = 1, 2, … of (-1)^(j - 1) exp(-2 j^2 d^2 n m / (n + m))
    """
    a, b = sorted(a), sorted(b)
    distance = max(
        abs(bisect_right(a, value) / len(a) - bisect_right(b, value) / len(b)) for value in {*a, *b}
    )
    scaled = 2 * distance**2 * len(a) * len(b) / (len(a) + len(b))
    if scaled < 0.1:  # noqa: PLR2004  there the p-value is 1 to four digits, and the sum slow to settle
        return distance, 1.0
    p_value = 2 * math.fsum((-1) ** (j - 1) * math.exp(-(j**2) * scaled) for j in range(1, 30))
    return distance, min(1.0, max(0.0, p_value))


def same_shares(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the p-value of Pearson's chi-squared test that two samples have the same shares.

    Categories that neither has are left out.
    """
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x + y]
    of_a, of_b, freedom = sum(a), sum(b), len(pairs) - 1
    if freedom < 1:
        return 1.0
    statistic = math.fsum(
        (got - expected) ** 2 / expected
        for x, y in pairs
        for got, expected in (
            (x, (x + y) * of_a / (of_a + of_b)),
            (y, (x + y) * of_b / (of_a + of_b)),
        )
    )
    return chi_squared_tail(statistic, freedom)


def chi_squared_tail(statistic: float, freedom: int) -> float:
    """Return the probability that chi-squared of so many degrees of freedom is above a value.

    M. Abramowitz, I. Stegun, "Handbook of mathematical functions" (1964), 26.4.4 and 26.4.5: with h half the
    value, the sum of h^e exp(-h) / Gamma(e + 1) over e = 0, 1, … below freedom / 2, and of an odd freedom
    over e = 1/2, 3/2, … with erfc(sqrt(h)) before it.
    """
    half = statistic / 2
    if half == 0:
        return 1.0
    first, lowest = (math.erfc(math.sqrt(half)), 0.5) if freedom % 2 else (0.0, 0.0)
    exponents = (lowest + step for step in range(freedom // 2))
    return first + math.fsum(math.exp(e * math.log(half) - half - math.lgamma(e + 1)) for e in exponents)


def population_stability_index(counts: Sequence[int], reference: Sequence[int]) -> float:
    """Return the population stability index of counts against the baseline's, bin by bin.

    S. Kullback's divergence J ("Information theory and statistics", 1959) of two lists of shares a and b:

        sum of (a - b) log(a / b)

    Half an answer is added to each bin, so that an empty one makes it large and not infinite.
    """
    shares = [[(n + 0.5) / (sum(bins) + len(bins) / 2) for n in bins] for bins in (counts, reference)]
    return math.fsum((a - b) * math.log(a / b) for a, b in zip(*shares, strict=True))


def total_variation(counts: Sequence[int], reference: Sequence[int]) -> float:
    """Return the total variation distance of two lists of counts: half the sum of the shares' differences.

    For two categories it is the Kolmogorov-Smirnov distance.
    """
    of_a, of_b = sum(counts), sum(reference)
    return math.fsum(abs(x / of_a - y / of_b) for x, y in zip(counts, reference, strict=True)) / 2


def deciles(sample: Sequence[float]) -> list[float]:
    """Return the inner bounds of up to `BINS` bins that hold about equally many of a sorted sample.

    A bin holds what is at most its upper bound. A value that would fill one has one to itself.
    """
    bounds = set()
    for tenth in range(1, BINS):
        value = sample[tenth * len(sample) // BINS]
        bounds.add(value)
        if bisect_right(sample, value) - bisect_left(sample, value) > len(sample) / BINS:
            bounds.add(math.nextafter(value, -math.inf))
    return sorted(bounds)


def compare(
    window: Features,
    baseline: Baseline,
    significance: float = SIGNIFICANCE,
) -> dict[str, Drift]:
    """Compare each feature that both have, and say which have drifted.

    A feature has drifted if it is far from the baseline, PSI or the distance (Kolmogorov-Smirnov's, or of
    categories the total variation) beyond its limit, and that is not chance: its p-value is below
    `significance` divided by the number of features (Bonferroni), since one of many is sooner far by chance
    than one alone.

    Parameters
    ----------
    window, baseline
        What to compare, and with what.
    significance
        The chance that any feature of a window without drift passes for drifted.
    """
    found: dict[str, Drift] = {}
    for name, values in window.numbers.items():
        if len(values) and (known := baseline.numbers.get(name)):
            seen, bounds = rounded(values), deciles(known.sample)
            psi = population_stability_index(_binned(seen, bounds), _binned(known.sample, bounds))
            distance, p_value = kolmogorov_smirnov(seen, known.sample)
            found[name] = Drift(psi, distance, None, p_value, len(seen))
    for name, counts in window.counts.items():
        if sum(counts.values()) and (reference := baseline.counts.get(name)):
            categories = sorted({*counts, *reference})
            a, b = ([one.get(category, 0) for category in categories] for one in (counts, reference))
            psi, variation = population_stability_index(a, b), total_variation(a, b)
            found[name] = Drift(psi, None, variation, same_shares(a, b), sum(a), limit=MODERATE)
    return {name: _judged(drift, significance / len(found)) for name, drift in found.items()}


def _binned(values: Sequence[float], bounds: Sequence[float]) -> list[int]:
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    return counts


def _judged(drift: Drift, significance: float) -> Drift:
    by_chance = drift.p_value >= significance
    level: Level = "none"
    if not by_chance and drift.statistic > MODERATE:
        level = "drifted" if drift.statistic > drift.limit else "moderate"
    return replace(drift, level=level, drifted=level == "drifted")
