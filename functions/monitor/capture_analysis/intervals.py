"""How sure a figure is: 95% confidence intervals."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

LEVEL = 0.95


class Interval(NamedTuple):
    """A figure from 0 to 1 and the bounds of its interval."""

    value: float
    low: float
    high: float


def wilson(count: int, of: int, level: float = LEVEL) -> Interval:
    """Put Wilson's score interval around the share `count` / `of`, where `of` is not 0.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927). With p = count / of and z the normal quantile:

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
    level: float = LEVEL,
) -> Interval | None:
    """Estimate without labels how many answers are right, from how sure they are; ``None`` of no answers.

    Calibrated answers of confidence p are right with probability p, so of n answers the sum of p is expected
    to be right. Where photos with labels told by how much accuracy and confidence are apart, that difference
    is taken to hold still (D. Guillory et al., "Predicting with confidence on unseen distributions", ICCV
    2021, "difference of confidences"):

        accuracy = mean p + (known accuracy - known mean confidence)

    Its variance is that of a sum of independent trials with the chances p, sum p (1 - p) / n^2, and that of
    the known accuracy a, a (1 - a) / known n; the interval is the normal one.

    Parameters
    ----------
    confidence
        Of each answer, from 0 to 1.
    known_accuracy, known_confidence, known_n
        Share of right answers and mean confidence on `known_n` photos with labels, if there were any.
    """
    n = len(confidence)
    if not n:
        return None
    value = math.fsum(confidence) / n
    variance = math.fsum(p * (1 - p) for p in confidence) / n**2
    if known_accuracy is not None and known_n:
        value += known_accuracy - known_confidence
        variance += known_accuracy * (1 - known_accuracy) / known_n
    margin = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    low, value, high = (min(1.0, max(0.0, figure)) for figure in (value - margin, value, value + margin))
    return Interval(value, low, high)
