"""Formulas: proportions with confidence intervals, calibration and selective classification.

In all of them N is the number of photos; ``confidence`` is the probability of the predicted label, float [N];
``correct`` says whether the prediction is correct, bool [N].
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from functions.monitor.capture_analysis.intervals import wilson

type Floats = npt.NDArray[np.floating]
type Integers = npt.NDArray[np.integer]
type Bools = npt.NDArray[np.bool_]

BINS = 15
"""The number of bins in the tables of Guo et al. 2017."""


@dataclass(frozen=True)
class Share:
    """A measured proportion, `count` of `of`, with the bounds of its 95% confidence interval."""

    value: float
    low: float
    high: float
    count: int
    of: int


@dataclass(frozen=True)
class Bin:
    """Answers with low < confidence <= high: how many, their mean confidence and their accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def share(count: int, of: int, level: float = 0.95) -> Share | None:
    """Return a proportion with Wilson's score interval; ``None`` if `of` is 0."""
    return Share(*wilson(count, of, level), count, of) if of else None


def share_of(which: Bools, among: Bools) -> Share | None:
    """Return the proportion of photos for which `which` holds, among those for which `among` holds."""
    return share(int(which[among].sum()), int(among.sum()))


def f1(both: int, either: int) -> Share | None:
    """Return F1, the harmonic mean of precision and recall, with an interval; ``None`` if `either` is 0.

    `both` photos have the label and were given it; `either` have it, were given it, or both. F1 is not a
    proportion, but J = `both` / `either` is one, and F1 = 2 J / (1 + J) increases with it. The same formula
    turns the bounds of J's interval into those of F1.
    """
    if not (jaccard := share(both, either)):
        return None
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))
    return Share(value, low, high, both, either)


def equal_width_bins(confidence: Floats, correct: Bools, bins: int = BINS) -> list[Bin]:
    """Group answers into bins of equal width from 0 to 1, and return the bins that are not empty.

    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks" (ICML 2017),
    section 2: bin m holds the confidences in ((m - 1) / M, m / M].
    """
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, "left") - 1, 0, bins - 1)
    return [
        _bin(float(edges[m]), float(edges[m + 1]), confidence[index == m], correct[index == m])
        for m in np.unique(index)
    ]


def equal_mass_bins(confidence: Floats, correct: Bools, bins: int = BINS) -> list[Bin]:
    """Group answers into bins whose sizes differ by at most one.

    K. Nguyen, B. O'Connor, "Posterior calibration and exploratory analysis for natural language processing
    models" (EMNLP 2015), section 3.2. Most confidences of a good model are close to 1 and share one bin of
    equal width; these bins resolve them.
    """
    order = np.argsort(confidence, kind="stable")
    return [
        _bin(float(confidence[part[0]]), float(confidence[part[-1]]), confidence[part], correct[part])
        for part in np.array_split(order, bins)
        if len(part)
    ]


def _bin(low: float, high: float, confidence: Floats, correct: Bools) -> Bin:
    return Bin(low, high, len(correct), float(confidence.mean()), float(correct.mean()))


def calibration_error(bins: list[Bin]) -> float | None:
    """Return the expected calibration error (ECE); ``None`` if there are no bins.

    Guo et al. 2017, equation 3: the mean, over all answers, of the difference between their bin's accuracy
    and its mean confidence.
    """
    if not bins:
        return None
    differences = [abs(one.accuracy - one.confidence) for one in bins]
    return float(np.average(differences, weights=[one.n for one in bins]))


def risk_by_coverage(confidence: Floats, correct: Bools) -> Floats:
    """Return the share of wrong answers among the 1, 2, … N most confident ones, float [N].

    R. El-Yaniv, Y. Wiener, "On the foundations of noise-free selective classification", Journal of Machine
    Learning Research 11 (2010). No threshold separates answers of equal confidence, so each of them counts
    as their mean. The mean of the result is the area under the risk-coverage curve, AURC (Y. Geifman, G.
    Uziel, R. El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", ICLR 2019).
    """
    _, group = np.unique(-confidence, return_inverse=True)
    sizes = np.bincount(group)
    wrong = np.bincount(group, weights=~correct) / sizes if len(group) else np.zeros(0)
    return np.cumsum(np.repeat(wrong, sizes)) / np.arange(1, len(group) + 1)
