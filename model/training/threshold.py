"""Where the threshold belongs: from what confidence on enough of the answers are right."""

from dataclasses import dataclass

import numpy as np

from model.evaluation.measures import Bools, Floats


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it does to the answers it was chosen on.

    Attributes
    ----------
    value
        The least confidence at which an answer is accepted, 0 to 1.
    accepted, right
        How many of these answers it accepts, and how many of those are right.
    reached
        Whether the precision wanted can be had at all.
    """

    value: float
    accepted: int
    right: int
    reached: bool


def choose(confidence: Floats, right: Bools, precision: float) -> Threshold:
    """Choose the lowest threshold from which the accepted answers are right often enough.

    The largest coverage at a given risk: Y. Geifman, R. El-Yaniv, "Selective classification for deep neural
    networks" (NIPS 2017), but by the share of wrong answers itself instead of a bound on it. Where no
    threshold reaches it, the one that the most confident answer has.

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
    enough = np.flatnonzero(whole & (good >= precision * np.arange(1, len(sure) + 1)))
    last = int(enough[-1]) if len(enough) else int(np.flatnonzero(whole)[0])
    return Threshold(_rounded_down(sure[last]), last + 1, int(good[last]), bool(len(enough)))


def _rounded_down(confidence: float) -> float:
    """Cut after four digits, which accepts no fewer answers."""
    return int(confidence * 10_000) / 10_000
