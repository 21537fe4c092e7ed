"""How right a classifier is, how well it knows it, and what a threshold makes of it: the formulas.

In all of them N is the number of photos and K that of labels. ``confidence`` is the probability of the label
answered, float [N]; ``right`` says whether the answer was right, bool [N].
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from functions.monitor.capture_analysis.intervals import wilson

type Floats = npt.NDArray[np.floating]
type Integers = npt.NDArray[np.integer]
type Bools = npt.NDArray[np.bool_]

BINS = 15
"""As in the tables of Guo et al. 2017."""


@dataclass(frozen=True)
class Share:
    """A part of a whole as measured, with its 95% confidence interval.

    Attributes
    ----------
    value, low, high
        The share and its interval's bounds, each from 0 to 1.
    count, of
        The numbers behind it: `count` of `of`.
    """

    value: float
    low: float
    high: float
    count: int
    of: int


@dataclass(frozen=True)
class Bin:
    """Some answers of like confidence.

    Attributes
    ----------
    low, high
        The bin's bounds: low < confidence <= high.
    n
        How many answers are in it.
    confidence, accuracy
        Their mean confidence, and how many of them were right, from 0 to 1.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def share(count: int, of: int, level: float = 0.95) -> Share | None:
    """Put Wilson's score interval around a share, as `intervals.wilson` does it; ``None`` of nothing."""
    return Share(*wilson(count, of, level), count, of) if of else None


def f1(both: int, either: int) -> Share | None:
    """Put an interval around F1, the harmonic mean of precision and recall; ``None`` of nothing.

    F1 is no share of anything, but J = `both` / `either` is one, and F1 = 2 J / (1 + J) rises with it: so the
    interval is that of J, sent through the same formula.

    Parameters
    ----------
    both
        How many photos have the label and were given it.
    either
        How many have it, or were given it, or both.
    """
    if not (jaccard := share(both, either)):
        return None
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))
    return Share(value, low, high, both, either)


def confusion(truth: Integers, answered: Integers, truths: int, answers: int) -> Integers:
    """Count answers by what they should have been: int [truths, answers]."""
    counts = np.zeros((truths, answers), np.int64)
    np.add.at(counts, (truth, answered), 1)
    return counts


def roc_auc(score: Floats, positive: Bools) -> float | None:
    """Return the area under the ROC curve; ``None`` if either kind is missing.

    It is the probability that a positive has a higher score than a negative, ties counting half (Hanley and
    McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC) curve", Radiology
    143, 1982).

    Parameters
    ----------
    score
        Float [N].
    positive
        Which are positives, bool [N].
    """
    positives, negatives = score[positive], np.sort(score[~positive])
    if not len(positives) or not len(negatives):
        return None
    below = np.searchsorted(negatives, positives, "left")
    not_above = np.searchsorted(negatives, positives, "right")
    return float((below + not_above).mean() / 2 / len(negatives))


def equal_width_bins(confidence: Floats, right: Bools, bins: int = BINS) -> list[Bin]:
    """Sort answers into bins of equal width from 0 to 1, and return those that are not empty.

    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks" (ICML 2017),
    section 2: bin m holds the confidences in ((m - 1) / M, m / M].
    """
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, confidence, "left") - 1, 0, bins - 1)
    return [
        _bin(float(edges[m]), float(edges[m + 1]), confidence[which == m], right[which == m])
        for m in np.unique(which)
    ]


def equal_mass_bins(confidence: Floats, right: Bools, bins: int = BINS) -> list[Bin]:
    """Sort answers into bins that hold the same number of them, or one more.

    K. Nguyen, B. O'Connor, "Posterior calibration and exploratory analysis for natural language processing
    models" (EMNLP 2015), section 3.2. A good model's confidences crowd near 1, in one bin of equal width;
    these bins tell them apart.
    """
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [
        _bin(float(confidence[part[0]]), float(confidence[part[-1]]), confidence[part], right[part])
        for part in parts
    ]


def _bin(low: float, high: float, confidence: Floats, right: Bools) -> Bin:
    return Bin(low, high, len(right), float(confidence.mean()), float(right.mean()))


def calibration_error(bins: list[Bin]) -> float | None:
    """Return the expected calibration error; ``None`` of no answers.

    Guo et al. 2017, equation 3: the mean over all answers of the distance between their bin's accuracy and
    its mean confidence.
    """
    if not bins:
        return None
    distances = [abs(one.accuracy - one.confidence) for one in bins]
    return float(np.average(distances, weights=[one.n for one in bins]))


def brier(probabilities: Floats, truth: Integers) -> float | None:
    """Return the Brier score, from 0 for sure and right to 2 for sure and wrong; ``None`` of no answers.

    G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78
    (1950): the mean over answers of the squared distance between the probabilities and 1 for the true label,
    0 for the others.

    Parameters
    ----------
    probabilities
        Float [N, K].
    truth
        The true label's number, int [N].
    """
    if not len(truth):
        return None
    certain = np.eye(probabilities.shape[1])[truth]
    return float(((probabilities - certain) ** 2).sum(axis=1).mean())


def risk_by_coverage(confidence: Floats, right: Bools) -> Floats:
    """Return the share of wrong answers among the 1, 2, … N most confident, float [N].

    R. El-Yaniv, Y. Wiener, "On the foundations of noise-free selective classification", Journal of Machine
    Learning Research 11 (2010). Answers of equal confidence, which no threshold tells apart, each count as
    their mean. The mean of it all is the area under the curve, AURC (Y. Geifman, G. Uziel, R. El-Yaniv,
    "Bias-reduced uncertainty estimation for deep neural classifiers", ICLR 2019).
    """
    _, group = np.unique(-confidence, return_inverse=True)
    sizes = np.bincount(group)
    wrong = np.bincount(group, weights=~right) / sizes if len(group) else np.zeros(0)
    return np.cumsum(np.repeat(wrong, sizes)) / np.arange(1, len(group) + 1)
