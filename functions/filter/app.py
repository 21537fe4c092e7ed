"""Decide whether an answer of the model can be acted on, or a person should look at the photo."""

import math
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, TypedDict

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

OTHER = "other"
"""The label of a photo that shows no vehicle: however sure the model is, nobody can be routed by it."""

logger = Logger()
metrics = Metrics()


class Decision(TypedDict):
    """What the routing team can do with a photo, and why."""

    decision: Literal["accepted", "needs_review"]
    label: str
    confidence: float
    reason: Literal["confident", "low_confidence", "not_a_vehicle"]


class SettingsError(Exception):
    """The function's environment is not usable: ``CLASS_LABELS`` or ``CONFIDENCE_THRESHOLD``."""


class InferencesError(Exception):
    """The endpoint's answer does not fit the labels: it serves another model than the stack expects."""


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context(correlation_id_path="execution")
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> Decision:
    """Handle ``{"inferences": [p, …], "execution"?}`` and return a :class:`Decision`.

    Raises
    ------
    SettingsError, InferencesError
        Faults, not outcomes: they fail the execution.
    """
    labels, threshold = settings()
    decision = decide(event["inferences"], labels, threshold)
    record(decision, threshold)
    return decision


@cache
def settings() -> tuple[tuple[str, ...], float]:
    """Return the labels, in the order of the model's answer, and the threshold (0 to 1)."""
    labels = tuple(label.strip() for label in os.environ["CLASS_LABELS"].split(","))
    if "" in labels or len(set(labels)) != len(labels):
        raise SettingsError(f"CLASS_LABELS must be distinct names, separated by commas: {labels}")
    threshold = float(os.environ["CONFIDENCE_THRESHOLD"])
    if not 0 <= threshold <= 1:
        raise SettingsError(f"CONFIDENCE_THRESHOLD must lie between 0 and 1: {threshold}")
    return labels, threshold


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


def record(decision: Decision, threshold: float) -> None:
    """Log the decision, and count it: how many were accepted or not, and how confident the model was."""
    accepted = decision["decision"] == "accepted"
    metrics.add_metric("PhotosAccepted" if accepted else "PhotosNeedingReview", MetricUnit.Count, 1)
    metrics.add_metric("Confidence", MetricUnit.NoUnit, decision["confidence"])
    logger.info("decided", extra={**decision, "threshold": threshold})
