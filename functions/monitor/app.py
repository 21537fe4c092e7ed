"""Analyse the endpoint's recent captures, and publish metrics of its accuracy and drift."""

import functools
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

import boto3
from aws_lambda_powertools import Logger, Metrics, single_metric
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

if TYPE_CHECKING or __package__:
    from functions.monitor.capture_analysis import captures, drift, intervals
    from functions.monitor.capture_analysis.captures import ReadCounts, TimeWindow, parse_time
    from functions.monitor.capture_analysis.drift import Baseline, Drift
    from functions.monitor.capture_analysis.window import IMAGE_PROPERTIES, OTHER, Window, image_properties
else:  # in Lambda, this folder is the root of all imports
    from capture_analysis import captures, drift, intervals
    from capture_analysis.captures import ReadCounts, TimeWindow, parse_time
    from capture_analysis.drift import Baseline, Drift
    from capture_analysis.window import IMAGE_PROPERTIES, OTHER, Window, image_properties

SAMPLE = 1000
"""The number of photos whose image properties are measured, which takes a few milliseconds each."""
ISO = "%Y-%m-%dT%H:%M:%SZ"

# In ASCII, because keys may contain control characters of Unicode, and logs are read in terminals.
logger = Logger(json_serializer=functools.partial(json.dumps, default=str))
metrics = Metrics()


class Summary(TypedDict):
    """The result; ``window`` has ``from`` and ``to`` (ISO 8601, UTC), and ``None`` means no answers."""

    window: dict[str, str]
    records: int
    duplicates: int
    broken: int
    estimated_accuracy: float | None
    share_under_threshold: float | None
    drifted: list[str]


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> Summary:
    """Handle a schedule's event (``time``), or analyse the window ``from`` … ``to`` (ISO 8601) again.

    Raises `CaptureError` if the captures or the baseline cannot be read, and `BaselineError` if the baseline
    is unusable. The function's alarm reports both.
    """
    bounds = time_window(event, int(os.environ["WINDOW_HOURS"]))
    labels = [label.strip() for label in os.environ["CLASS_LABELS"].split(",")]
    window = Window(float(os.environ["CONFIDENCE_THRESHOLD"]), labels, SAMPLE)
    counts = read(os.environ["CAPTURE_URI"], bounds, window)
    baseline_uri = os.environ.get("BASELINE_URI")
    baseline = read_baseline(baseline_uri) if baseline_uri else None
    return publish(bounds, counts, window, baseline)


def time_window(event: Mapping[str, Any], hours: int) -> TimeWindow:
    """Return the window that an event names: the last full hours before its time, or ``from`` to ``to``."""
    if "from" in event:
        return TimeWindow(parse_time(event["from"]), parse_time(event["to"]))
    now = parse_time(event["time"]) if "time" in event else datetime.now(UTC)
    end = now.replace(minute=0, second=0, microsecond=0)
    return TimeWindow(end - timedelta(hours=hours), end)


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
    with captures.translate_errors(uri):
        return Baseline.parse(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())


def compare(window: Window, baseline: Baseline) -> dict[str, Drift]:
    """Measure drift, except in the model's feature space, which only `scones monitor --model` does."""
    measured = [found for answer in window.sample if (found := image_properties(answer.photo))]
    photos = {name: [properties[name] for properties in measured] for name in IMAGE_PROPERTIES}
    return drift.compare(drift.features(window, photos), baseline)


def publish(bounds: TimeWindow, counts: ReadCounts, window: Window, baseline: Baseline | None) -> Summary:
    """Analyse a window, publish metrics with the time of its end, and log and return a summary.

    The alarms watch bounds of 95% intervals, so that a few photos do not trigger one.
    """
    answers = len(window.confidence)
    drift_by_feature = compare(window, baseline) if baseline else {}
    accuracy = drift.estimated_accuracy(window.confidence, baseline, drift_by_feature.values())
    under = intervals.wilson(window.under_threshold(), answers) if answers else None
    drifted = [name for name, feature in drift_by_feature.items() if feature.drifted]
    assert bounds.end  # noqa: S101  time_window sets it
    metrics.set_timestamp(bounds.end)
    metrics.add_metric("CapturedRecords", MetricUnit.Count, counts.records)
    metrics.add_metric("CapturedDuplicates", MetricUnit.Count, counts.duplicates)
    metrics.add_metric("CapturedBrokenLines", MetricUnit.Count, counts.broken)
    metrics.add_metric("UnusableRecords", MetricUnit.Count, window.unusable.total())
    if accuracy:
        metrics.add_metric("EstimatedAccuracy", MetricUnit.NoUnit, accuracy.value)
        metrics.add_metric("EstimatedAccuracyUpperBound", MetricUnit.NoUnit, accuracy.high)
    if under:
        metrics.add_metric("ShareUnderThreshold", MetricUnit.NoUnit, under.value)
        metrics.add_metric("ShareUnderThresholdLowerBound", MetricUnit.NoUnit, under.low)
        metrics.add_metric("ShareOther", MetricUnit.NoUnit, window.by_label().get(OTHER, 0) / answers)
    if drift_by_feature:
        metrics.add_metric("DriftedFeatures", MetricUnit.NoUnit, len(drifted))
    for name, feature in drift_by_feature.items():
        with single_metric("Drift", MetricUnit.NoUnit, feature.statistic) as metric:
            metric.add_dimension("service", os.environ["POWERTOOLS_SERVICE_NAME"])
            metric.add_dimension("feature", name)
            metric.set_timestamp(bounds.end)
    summary = Summary(
        window={"from": f"{bounds.start:{ISO}}", "to": f"{bounds.end:{ISO}}"},
        records=counts.records,
        duplicates=counts.duplicates,
        broken=counts.broken,
        estimated_accuracy=accuracy.value if accuracy else None,
        share_under_threshold=under.value if under else None,
        drifted=drifted,
    )
    logger.info("monitored", extra={**summary})
    return summary
