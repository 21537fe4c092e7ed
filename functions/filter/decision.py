"""Decide whether the model's answer can be acted on. No AWS, no Powertools."""

import math
from collections.abc import Sequence
from typing import Literal, TypedDict

OTHER = "other"
"""The label of a photo that shows no vehicle. It is never accepted, because it gives no route."""


class Decision(TypedDict):
    """The routing team's answer for a photo, and the reason for it."""

    decision: Literal["accepted", "needs_review"]
    label: str
    confidence: float
    reason: Literal["confident", "low_confidence", "not_a_vehicle"]


class InferencesError(Exception):
    """The endpoint's answer does not fit the labels: it serves a different model than the stack expects."""


def decide(inferences: Sequence[float], labels: Sequence[str], threshold: float) -> Decision:
    """Choose the most probable label, and accept it if it is a vehicle and its confidence is high enough.

    Raises `InferencesError` if there is not one probability for each label.
    """
    if len(inferences) != len(labels):
        names = ", ".join(labels)
        raise InferencesError(f"{len(inferences)} inferences for the {len(labels)} labels {names}")
    if not all(math.isfinite(p) and 0 <= p <= 1 for p in inferences):
        raise InferencesError(f"inferences must be probabilities: {list(inferences)}")
    confidence = max(inferences)
    label = labels[inferences.index(confidence)]
    if label == OTHER:
        return Decision(decision="needs_review", label=label, confidence=confidence, reason="not_a_vehicle")
    if confidence < threshold:
        return Decision(decision="needs_review", label=label, confidence=confidence, reason="low_confidence")
    return Decision(decision="accepted", label=label, confidence=confidence, reason="confident")
