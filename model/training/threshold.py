"""Where the threshold belongs: from what confidence on enough of the answers are right."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from model.evaluation.statistics import Bools, Floats

CONFIDENCE = 0.95
"""With which the precision wanted is reached: the lowest threshold to reach it by count alone is one that was
lucky, and every other time the photos to come miss it (docs/decisions.md)."""


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it does to the answers it was chosen on.

    Attributes
    ----------
    value
        The least confidence at which an answer is accepted, 0 to 1.
    accepted, right
        How many of these answers it accepts, and how many of those are right.
    reached, assured
        Whether these answers have the precision wanted, and whether they are enough to expect it of others.
    """

    value: float
    accepted: int
    right: int
    reached: bool
    assured: bool


def choose(confidence: Floats, right: Bools, precision: float) -> Threshold:
    """Choose the lowest threshold from which the accepted answers are right often enough.

    The largest coverage at a risk that holds with a confidence, `CONFIDENCE`: Y. Geifman, R. El-Yaniv,
    "Selective classification for deep neural networks" (NIPS 2017); the bound on the share of wrong answers
    is C. J. Clopper's and E. S. Pearson's, "The use of confidence or fiducial limits" (Biometrika 26, 1934).
    Where there are too few answers for that, the share itself decides; and where no threshold reaches it, the
    one that the most confident answer has.

    Parameters
    ----------
    confidence
        Of answers that can be accepted (of a vehicle), to photos that the model was not trained on, float
        [N], N at least 1.
    right
        Whether each is right, bool [N].
    precision
        The least share of right ones among the accepted, 0 to 1.
    """
    order = np.argsort(-confidence, kind="stable")
    sure, good = confidence[order], np.cumsum(right[order])
    # of equally confident answers a threshold accepts all or none
    whole = np.append(sure[1:] < sure[:-1], True)
    answers = np.arange(1, len(sure) + 1)
    wrong_at_most = beta.ppf(CONFIDENCE, answers - good + 1, good)
    assured = whole & (wrong_at_most <= 1 - precision)
    reached = assured if assured.any() else whole & (good >= precision * answers)
    last = int(np.flatnonzero(reached)[-1]) if reached.any() else int(np.flatnonzero(whole)[0])
    return Threshold(
        _rounded_down(sure[last]), last + 1, int(good[last]), bool(reached.any()), bool(assured.any())
    )


def _rounded_down(confidence: float) -> float:
    """Cut after four digits, which accepts no fewer answers."""
    return int(confidence * 10_000) / 10_000
