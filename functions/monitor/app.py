"""Read what the endpoint captured in the last hours, and publish whether it can still be trusted."""

import os
from collections.abc import Mapping, Sequence
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
    from functions.monitor.capture_analysis.captures import Tally, TimeWindow
    from functions.monitor.capture_analysis.drift import Baseline, Drift
    from functions.monitor.capture_analysis.window import OTHER, PROPERTIES, Window, properties
else:  # in Lambda, this folder is where everything begins
    from capture_analysis import captures, drift, intervals
    from capture_analysis.captures import Tally, TimeWindow
    from capture_analysis.drift import Baseline, Drift
    from capture_analysis.window import OTHER, PROPERTIES, Window, properties

SAMPLE = 1000
"""Photos whose look is measured, each in a few milliseconds."""

logger = Logger()
metrics = Metrics()


class Summary(TypedDict):
    """What was found; ``from`` and ``to`` are ISO 8601, UTC. Figures are ``None`` where there is nothing."""

    window: dict[str, str]
    records: int
    duplicates: int
    broken: int
    estimated_accuracy: float | None
    share_under_threshold: float | None
    drifted: list[str]


@dataclass(frozen=True)
class Settings:
    """The function's environment.

    Attributes
    ----------
    source
        Where the captures of the endpoint are, ``s3://bucket/prefix``.
    baseline
        ``s3://bucket/key`` of the baseline, empty for none.
    labels, threshold
        What the answers are of, in their order; from which confidence, 0 to 1, they are accepted.
    hours
        How long a window is.
    """

    source: str
    baseline: str
    labels: tuple[str, ...]
    threshold: float
    hours: int


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> Summary:
    """Handle a schedule's event (``time``), or ``from`` and ``to``, ISO 8601, to look at a window once more.

    Raises
    ------
    CaptureError, BaselineError
        Captures or baseline cannot be read: a fault, which the function's alarm tells.
    """
    setup = settings()
    bounds = time_window(event, setup.hours)
    window = Window(setup.threshold, setup.labels, SAMPLE)
    tally = read(setup.source, bounds, window)
    baseline = read_baseline(setup.baseline) if setup.baseline else None
    found = compare(window, baseline) if baseline else {}
    return publish(bounds, tally, window, baseline, found)


@cache
def settings() -> Settings:
    """Return the function's environment, read once."""
    return Settings(
        source=os.environ["CAPTURE_URI"],
        baseline=os.environ.get("BASELINE_URI", ""),
        labels=tuple(label.strip() for label in os.environ["CLASS_LABELS"].split(",")),
        threshold=float(os.environ["CONFIDENCE_THRESHOLD"]),
        hours=int(os.environ["WINDOW_HOURS"]),
    )


def time_window(event: Mapping[str, Any], hours: int) -> TimeWindow:
    """Return the window that an event asks for: the last full hours before its time, or from when to when."""
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


def read(source: str, bounds: TimeWindow, window: Window) -> Tally:
    """Read the records of a time window into `window`, and say what was read."""
    tally = Tally()
    for record in captures.read(source, bounds, tally):
        window.add(record)
    for line in tally.skipped:
        logger.warning("skipped", extra={"line": line})
    return tally


def read_baseline(uri: str) -> Baseline:
    """Read the baseline from S3; it may change between two windows, without a deployment."""
    bucket, key = captures.split_uri(uri)
    with captures.failing_as_captures(uri):
        return Baseline.parse(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())


def compare(window: Window, baseline: Baseline) -> dict[str, Drift]:
    """Say how far the window is from the baseline; in the model's feature space only the command can."""
    looks = [look for answer in window.sample if (look := properties(answer.photo))]
    photos = {name: [look[name] for look in looks] for name in PROPERTIES}
    return drift.compare(drift.features(window, photos), baseline)


def publish(
    bounds: TimeWindow,
    tally: Tally,
    window: Window,
    baseline: Baseline | None,
    found: Mapping[str, Drift],
) -> Summary:
    """Publish everything as metrics at the window's end, log it, and return the gist of it.

    The alarms watch bounds of 95% intervals, so that a few photos do not raise one.
    """
    answers = len(window.confidence)
    accuracy = estimate(window.confidence, baseline)
    at = bounds.end or datetime.now(UTC)
    metrics.set_timestamp(at)
    for name, count in (
        ("CapturedRecords", tally.records),
        ("CapturedDuplicates", tally.duplicates),
        ("CapturedBrokenLines", tally.broken),
        ("UnusableRecords", window.without.total()),
    ):
        metrics.add_metric(name, MetricUnit.Count, count)
    under = intervals.wilson(window.under_threshold(), answers) if answers else None
    shares: dict[str, float] = {}
    if accuracy and under:
        shares |= {"EstimatedAccuracy": accuracy.value, "EstimatedAccuracyUpperBound": accuracy.high}
        shares |= {"ShareUnderThreshold": under.value, "ShareUnderThresholdLowerBound": under.low}
        shares |= {"ShareOther": window.by_label().get(OTHER, 0) / answers}
    drifted = [name for name, one in found.items() if one.drifted]
    if found:
        shares |= {"DriftedFeatures": len(drifted)}
    for name, share in shares.items():
        metrics.add_metric(name, MetricUnit.NoUnit, share)
    for name, one in found.items():
        with single_metric("Drift", MetricUnit.NoUnit, one.statistic) as metric:
            metric.add_dimension("service", os.environ["POWERTOOLS_SERVICE_NAME"])
            metric.add_dimension("feature", name)
            metric.set_timestamp(at)
    summary = Summary(
        window={"from": _iso(bounds.start), "to": _iso(bounds.end)},
        records=tally.records,
        duplicates=tally.duplicates,
        broken=tally.broken,
        estimated_accuracy=accuracy.value if accuracy else None,
        share_under_threshold=under.value if under else None,
        drifted=drifted,
    )
    logger.info("monitored", extra={**summary})
    return summary


def estimate(confidence: Sequence[float], baseline: Baseline | None) -> intervals.Interval | None:
    """Estimate how many answers are right."""
    return baseline.estimated_accuracy(confidence) if baseline else intervals.estimated_accuracy(confidence)
