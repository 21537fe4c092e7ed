"""Decide whether an answer of the model can be acted on. Plain Python: no AWS, no Powertools."""

import math
from collections.abc import Sequence
from typing import Literal, TypedDict

OTHER = "other"
"""The label of a photo that shows no vehicle: however sure the model is, nobody can be routed by it."""


class Decision(TypedDict):
    """What the routing team can do with a photo, and why."""

    decision: Literal["accepted", "needs_review"]
    label: str
    confidence: float
    reason: Literal["confident", "low_confidence", "not_a_vehicle"]


class InferencesError(Exception):
    """The endpoint's answer does not fit the labels: it serves another model than the stack expects."""


def decide(inferences: Sequence[float], labels: Sequence[str], threshold: float) -> Decision:
    """Take the most probable label, and accept it if it is a vehicle's and probable enough.

    Parameters
    ----------
    inferences
        A probability for each label, in the labels' order.
    labels
        The labels; :data:`OTHER` may be among them.
    threshold
        The least confidence, 0 to 1, at which an answer is accepted; a confidence equal to it is.

    Raises
    ------
    InferencesError
        There are more or fewer inferences than labels, or one is not a probability.
    """
    if len(inferences) != len(labels):
        raise InferencesError(
            f"{len(inferences)} inferences for the {len(labels)} labels {', '.join(labels)}"
        )
    if not all(math.isfinite(p) and 0 <= p <= 1 for p in inferences):
        raise InferencesError(f"inferences must be probabilities: {list(inferences)}")
    confidence, label = max(zip(inferences, labels, strict=True), key=lambda pair: pair[0])
    if label == OTHER:
        return Decision(decision="needs_review", label=label, confidence=confidence, reason="not_a_vehicle")
    if confidence < threshold:
        return Decision(decision="needs_review", label=label, confidence=confidence, reason="low_confidence")
    return Decision(decision="accepted", label=label, confidence=confidence, reason="confident")
