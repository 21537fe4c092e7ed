"""Confidence intervals at the 95% level."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate from 0 to 1 with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def wilson(count: int, of: int, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval for the share `count` / `of`; `of` must not be 0.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927). With p = count / of, n = of, and z the normal quantile:

        (p + z^2 / 2n ± z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = count / of
    centre = p + z**2 / (2 * of)
    margin = z * (p * (1 - p) / of + z**2 / (4 * of**2)) ** 0.5
    low, high = ((centre + sign * margin) / (1 + z**2 / of) for sign in (-1, 1))
    return Interval(p, max(0.0, min(low, p)), min(1.0, max(high, p)))


def estimated_accuracy(
    confidence: Sequence[float],
    known_accuracy: float | None = None,
    known_confidence: float = 0.0,
    known_n: int = 0,
) -> Interval | None:
    """Estimate accuracy without labels, from confidences; return ``None`` if there are none.

    A calibrated answer with confidence p is correct with probability p, so the expected accuracy is the mean
    of p. If labelled photos are known to have an accuracy that differs from their mean confidence, the same
    difference is assumed here (D. Guillory et al., "Predicting with confidence on unseen distributions",
    ICCV 2021, "difference of confidences"):

        accuracy = mean p + (known accuracy - known mean confidence)

    The variance is the sum of two: sum p (1 - p) / n^2 for independent trials with probabilities p, and
    a (1 - a) / known n for the known accuracy a of `known_n` photos. The interval is the normal one.
    """
    n = len(confidence)
    if not n:
        return None
    value = math.fsum(confidence) / n
    variance = math.fsum(p * (1 - p) for p in confidence) / n**2
    if known_accuracy is not None and known_n:
        value += known_accuracy - known_confidence
        variance += known_accuracy * (1 - known_accuracy) / known_n
    margin = NormalDist().inv_cdf((1 + LEVEL) / 2) * math.sqrt(variance)
    low, value, high = (min(1.0, max(0.0, figure)) for figure in (value - margin, value, value + margin))
    return Interval(value, low, high)
