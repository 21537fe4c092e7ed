"""Choose the confidence threshold by held-out predictions."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from model.evaluation.statistics import Bools, Floats

CONFIDENCE = 0.95
"""Confidence level of the precision bound; without it the threshold overfits, and new photos miss the target
precision every other time (docs/decisions.md)."""


@dataclass(frozen=True)
class Threshold:
    """A threshold, and its effect on the predictions on which it was chosen.

    Predictions with a confidence of at least `value` (0 to 1) are accepted; `correct` of the `accepted` ones
    are correct. `meets_target` says whether these have the target precision, and `guaranteed` whether they
    are enough to guarantee it for new photos with `CONFIDENCE`.
    """

    value: float
    accepted: int
    correct: int
    meets_target: bool
    guaranteed: bool


def choose_threshold(confidence: Floats, correct: Bools, precision: float) -> Threshold:
    """Choose the lowest threshold that guarantees a target precision (0 to 1) of accepted predictions.

    The N >= 1 predictions are of vehicles, for photos that the model was not trained on. If no threshold
    guarantees the precision, the lowest one with that precision among the given predictions is chosen, and if
    there is none, the confidence of the most confident prediction.

    This is selective classification with guaranteed risk: Y. Geifman, R. El-Yaniv, "Selective classification
    for deep neural networks" (NIPS 2017). The bound on the share of errors is C. J. Clopper's and E. S.
    Pearson's: "The use of confidence or fiducial limits" (Biometrika 26, 1934).
    """
    order = np.argsort(-confidence, kind="stable")
    descending, hits = confidence[order], np.cumsum(correct[order])
    # a threshold accepts either all or none of the predictions of equal confidence
    last_of_equals = np.append(descending[1:] < descending[:-1], True)
    accepted = np.arange(1, len(descending) + 1)
    max_error = beta.ppf(CONFIDENCE, accepted - hits + 1, hits)
    guaranteed = last_of_equals & (max_error <= 1 - precision)
    meets_target = guaranteed if guaranteed.any() else last_of_equals & (hits >= precision * accepted)
    chosen = np.flatnonzero(meets_target)[-1] if meets_target.any() else np.flatnonzero(last_of_equals)[0]
    return Threshold(
        value=int(descending[chosen] * 10_000) / 10_000,  # rounded down, which accepts no fewer
        accepted=int(accepted[chosen]),
        correct=int(hits[chosen]),
        meets_target=bool(meets_target.any()),
        guaranteed=bool(guaranteed.any()),
    )
