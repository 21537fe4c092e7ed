"""Analyse the endpoint's recent captures, and publish metrics of its accuracy and drift."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict

import boto3
from aws_lambda_powertools import Logger, Metrics, single_metric
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

if TYPE_CHECKING or __package__:
    from functions.monitor.capture_analysis import captures, drift, intervals
    from functions.monitor.capture_analysis.captures import ReadCounts, TimeWindow
    from functions.monitor.capture_analysis.drift import Baseline, Drift
    from functions.monitor.capture_analysis.window import IMAGE_PROPERTIES, OTHER, Window, image_properties
else:  # in Lambda, this folder is the root of all imports
    from capture_analysis import captures, drift, intervals
    from capture_analysis.captures import ReadCounts, TimeWindow
    from capture_analysis.drift import Baseline, Drift
    from capture_analysis.window import IMAGE_PROPERTIES, OTHER, Window, image_properties

SAMPLE = 1000
"""The number of photos whose image properties are measured, which takes a few milliseconds each."""

logger = Logger()
metrics = Metrics()


class Summary(TypedDict):
    """The result. ``window`` has ``from`` and ``to`` in ISO 8601, UTC; ``None`` means no answers."""

    window: dict[str, str]
    records: int
    duplicates: int
    broken: int
    estimated_accuracy: float | None
    share_under_threshold: float | None
    drifted: list[str]


@dataclass(frozen=True)
class Settings:
    """The function's environment: S3 addresses of captures and baseline (or empty), and a window's hours."""

    source: str
    baseline: str
    labels: tuple[str, ...]
    threshold: float
    hours: int


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> Summary:
    """Handle a schedule's event (``time``), or analyse the window ``from`` … ``to`` (ISO 8601) again.

    Raises `CaptureError` or `BaselineError` if the captures or the baseline cannot be read: a fault, which
    the function's alarm reports.
    """
    config = settings()
    bounds = time_window(event, config.hours)
    window = Window(config.threshold, config.labels, SAMPLE)
    counts = read(config.source, bounds, window)
    baseline = read_baseline(config.baseline) if config.baseline else None
    drift_by_feature = compare(window, baseline) if baseline else {}
    return publish(bounds, counts, window, baseline, drift_by_feature)


@cache
def settings() -> Settings:
    """Read the function's environment."""
    return Settings(
        source=os.environ["CAPTURE_URI"],
        baseline=os.environ.get("BASELINE_URI", ""),
        labels=tuple(label.strip() for label in os.environ["CLASS_LABELS"].split(",")),
        threshold=float(os.environ["CONFIDENCE_THRESHOLD"]),
        hours=int(os.environ["WINDOW_HOURS"]),
    )


def time_window(event: Mapping[str, Any], hours: int) -> TimeWindow:
    """Return the window that an event names: the last full hours before its time, or ``from`` to ``to``."""
    if "from" in event:
        return TimeWindow(_time(event["from"]), _time(event["to"]))
    now = _time(event["time"]) if "time" in event else datetime.now(UTC)
    end = now.replace(minute=0, second=0, microsecond=0)
    return TimeWindow(end - timedelta(hours=hours), end)


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def _iso(at: datetime | None) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}" if at else ""


def read(source: str, bounds: TimeWindow, window: Window) -> ReadCounts:
    """Add the records of a time window to `window`, and log the lines that are not records."""
    counts = ReadCounts()
    for record in captures.read(source, bounds, counts):
        window.add(record)
    for line in counts.skipped:
        logger.warning("skipped", extra={"line": line})
    return counts


def read_baseline(uri: str) -> Baseline:
    """Read the baseline from S3, each time, because it may change without a deployment."""
    bucket, key = captures.split_uri(uri)
    with captures.translate_s3_errors(uri):
        return Baseline.parse(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())


def compare(window: Window, baseline: Baseline) -> dict[str, Drift]:
    """Measure drift, except in the model's feature space, which takes the model and `scones monitor`."""
    measured = [found for answer in window.sample if (found := image_properties(answer.photo))]
    photos = {name: [properties[name] for properties in measured] for name in IMAGE_PROPERTIES}
    return drift.compare(drift.features(window, photos), baseline)


def publish(
    bounds: TimeWindow,
    counts: ReadCounts,
    window: Window,
    baseline: Baseline | None,
    drift_by_feature: Mapping[str, Drift],
) -> Summary:
    """Publish metrics with the time of the window's end, and log and return a summary.

    The alarms watch bounds of 95% intervals, so that a few photos do not trigger one.
    """
    answers = len(window.confidence)
    estimate = baseline.estimated_accuracy if baseline else intervals.estimated_accuracy
    accuracy = estimate(window.confidence)
    at = bounds.end or datetime.now(UTC)
    metrics.set_timestamp(at)
    for name, count in (
        ("CapturedRecords", counts.records),
        ("CapturedDuplicates", counts.duplicates),
        ("CapturedBrokenLines", counts.broken),
        ("UnusableRecords", window.unusable.total()),
    ):
        metrics.add_metric(name, MetricUnit.Count, count)
    under = intervals.wilson(window.under_threshold(), answers) if answers else None
    shares: dict[str, float] = {}
    if accuracy and under:
        shares |= {"EstimatedAccuracy": accuracy.value, "EstimatedAccuracyUpperBound": accuracy.high}
        shares |= {"ShareUnderThreshold": under.value, "ShareUnderThresholdLowerBound": under.low}
        shares |= {"ShareOther": window.by_label().get(OTHER, 0) / answers}
    drifted = [name for name, feature in drift_by_feature.items() if feature.drifted]
    if drift_by_feature:
        shares |= {"DriftedFeatures": len(drifted)}
    for name, share in shares.items():
        metrics.add_metric(name, MetricUnit.NoUnit, share)
    for name, feature in drift_by_feature.items():
        with single_metric("Drift", MetricUnit.NoUnit, feature.statistic) as metric:
            metric.add_dimension("service", os.environ["POWERTOOLS_SERVICE_NAME"])
            metric.add_dimension("feature", name)
            metric.set_timestamp(at)
    summary = Summary(
        window={"from": _iso(bounds.start), "to": _iso(bounds.end)},
        records=counts.records,
        duplicates=counts.duplicates,
        broken=counts.broken,
        estimated_accuracy=accuracy.value if accuracy else None,
        share_under_threshold=under.value if under else None,
        drifted=drifted,
    )
    logger.info("monitored", extra={**summary})
    return summary
