"""Accept the model's answer if it can be acted on, or send the photo to review."""

import json
import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

if TYPE_CHECKING or __package__:
    from functions.filter.decision import Decision, decide
else:  # in Lambda, this folder is the root of all imports
    from decision import Decision, decide

# In ASCII, because errors may quote control characters of Unicode, and logs are read in terminals.
logger = Logger(json_serializer=partial(json.dumps, default=str))
metrics = Metrics()


class SettingsError(Exception):
    """``CLASS_LABELS`` or ``CONFIDENCE_THRESHOLD`` has an unusable value."""


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context(correlation_id_path="execution")
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> Decision:
    """Handle ``{"inferences": [p, …], "execution"?}``.

    Raises `SettingsError` if the environment is unusable, and `InferencesError` if the inferences do not fit
    the labels. Both fail the execution.
    """
    labels, threshold = settings()
    decision = decide(event["inferences"], labels, threshold)
    accepted = decision["decision"] == "accepted"
    metrics.add_metric("PhotosAccepted" if accepted else "PhotosNeedingReview", MetricUnit.Count, 1)
    metrics.add_metric("Confidence", MetricUnit.NoUnit, decision["confidence"])
    logger.info("decided", extra={**decision, "threshold": threshold})
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
