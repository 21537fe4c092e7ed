"""Rehearse drift detection: send a stack photos that get worse, and check that monitoring notices."""

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import ImageEnhance, ImageFilter
from rich.table import Table

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import ReadCounts, TimeWindow
from functions.monitor.capture_analysis.drift import LIMIT
from local import LocalError, capture_report
from local.demo import empty_table
from local.stack import Progress, Stack, parameters
from model import html_page
from model.network.artifact import Description
from model.storage import write_file
from model.training import baseline
from pipeline import sample_images
from pipeline.monitoring import report
from pipeline.monitoring.analysis import MonitoringReport, make_baseline

DIRTY_LENS = ImageFilter.GaussianBlur(4)

YESTERDAY, TODAY = 120, 240
"""Photos on the rehearsal's two days."""
DAY = 60.0
"""Duration of the second day in seconds."""
WINDOWS = 6
"""Time windows of the second day that the monitor function analyses, one after the other."""
SILENCE = 60.0
"""Seconds without a new capture after which the photos in flight count as lost."""
DIFFERENT = 40
"""Pictures that are drawn; each day repeats them."""
SUBJECTS = (sample_images.bicycle, sample_images.bicycle, sample_images.motorcycle)
FEATURES = ("confidence", "brightness", "contrast", "sharpness", "class_mix", "under_threshold")


@dataclass(frozen=True)
class WindowMetrics:
    """The metrics in CloudWatch of one window; `drifted` and `beyond_limit` are about its features."""

    end: datetime
    records: int
    estimated_accuracy: float | None
    drifted: int
    beyond_limit: list[str]


@dataclass(frozen=True)
class Rehearsal:
    """The result: the metrics of each window, and the report on the second day with the path of its page."""

    windows: list[WindowMetrics]
    found: MonitoringReport
    page: Path


def rehearse(stack: Stack, model: Description, progress: Progress) -> Rehearsal:
    """Send a good day, make it the baseline, then send a day, compressed into a minute, that gets worse.

    In the third quarter of the second day the lens is dirty, in the last quarter it is night.
    """
    home = stack.home / "drift"
    progress(f"Drawing {DIFFERENT} pictures")
    pictures = [sample_images.picture(SUBJECTS[seed % len(SUBJECTS)], seed) for seed in range(DIFFERENT)]
    good = [sample_images.encoded(picture) for picture in pictures]
    blurred = [sample_images.encoded(picture.filter(DIRTY_LENS)) for picture in pictures]
    dark = [sample_images.encoded(ImageEnhance.Brightness(picture).enhance(0.3)) for picture in pictures]

    progress(f"Yesterday: {YESTERDAY} good photos")
    yesterday = _send(stack, "yesterday", _repeated(good, YESTERDAY), 0)
    known = make_baseline(capture_report.analyse(stack, model, TimeWindow(yesterday[0], yesterday[-1])))
    write_file(home / baseline.FILE, known.text().encode())
    progress("Deploying yesterday as the baseline")
    stack.deploy(parameters(model) | stack.place_baseline(home / baseline.FILE))

    progress(f"Today: {TODAY} photos in {DAY:.0f} s; from the middle on a dirty lens, then night")
    quarter = TODAY // 4
    photos = [*_repeated(good, 2 * quarter), *_repeated(blurred, quarter), *_repeated(dark, quarter)]
    today = _send(stack, "today", photos, DAY / TODAY)

    progress(f"Monitoring {WINDOWS} windows of today")
    windows = [_monitor(stack, *bounds) for bounds in itertools.pairwise(today)]
    found = capture_report.analyse(stack, model, TimeWindow(today[0], today[-1]), known)
    report.write(home, found)
    return Rehearsal(windows, found, home / html_page.REPORT)


def _repeated(photos: Sequence[bytes], count: int) -> list[bytes]:
    return list(itertools.islice(itertools.cycle(photos), count))


def _send(stack: Stack, day: str, photos: Sequence[bytes], pause: float) -> list[datetime]:
    """Upload photos, `pause` seconds apart, and wait until the endpoint has captured them all.

    Return the edges of `WINDOWS` windows with equally many captures each, to the second. Windows of equal
    duration would mix good and bad photos on a busy machine, where uploads lag behind.
    """
    s3, start = stack.client("s3"), datetime.now(UTC).replace(microsecond=0)
    for number, photo in enumerate(photos, 1):
        due = start + timedelta(seconds=1 + pause * number)
        time.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds() if pause else 0.0))
        key = f"uploads/{day}/{start:%H%M%S}-{number:04}.jpg"
        s3.put_object(Bucket=stack.outputs["UploadBucketName"], Key=key, Body=photo)
    captured, last_capture_at = list[datetime](), time.monotonic()
    while len(captured) < len(photos):
        time.sleep(1)
        records = captures.read(str(stack.captures), TimeWindow(start), ReadCounts())
        before, captured = len(captured), sorted(record.at for record in records if record.at)
        if len(captured) > before:
            last_capture_at = time.monotonic()
        elif time.monotonic() - last_capture_at > SILENCE:
            lost = len(photos) - len(captured)
            raise LocalError(f"{lost} of {len(photos)} photos never reached the endpoint. Logs: .local/logs")
    inner = [captured[len(captured) * part // WINDOWS] for part in range(1, WINDOWS)]
    end = datetime.now(UTC) + timedelta(seconds=1)
    return [at.replace(microsecond=0) for at in (start, *inner, end)]


def _monitor(stack: Stack, start: datetime, end: datetime) -> WindowMetrics:
    """Invoke the monitor function for a window, and read from CloudWatch what it published."""
    response = stack.client("lambda").invoke(
        FunctionName=stack.outputs["MonitorFunctionName"],
        Payload=json.dumps({"from": start.isoformat(), "to": end.isoformat()}),
    )
    if "FunctionError" in response:
        raise LocalError(f"The monitor function failed: {response['Payload'].read().decode()[:300]}")
    drift = {name: _published(stack, "Drift", end, feature=name) or 0.0 for name in FEATURES}
    return WindowMetrics(
        end=end,
        records=int(_published(stack, "CapturedRecords", end) or 0),
        estimated_accuracy=_published(stack, "EstimatedAccuracy", end),
        drifted=int(_published(stack, "DriftedFeatures", end) or 0),
        beyond_limit=[name for name in sorted(drift, key=lambda name: -drift[name]) if drift[name] > LIMIT],
    )


def _published(stack: Stack, metric: str, at: datetime, **dimensions: str) -> float | None:
    """Return a metric's value in CloudWatch at a time, to the second; ``None`` if there is none."""
    dimensions = {"service": "vehicle-classifier"} | dimensions
    found = stack.client("cloudwatch").get_metric_statistics(
        Namespace=f"SconesUnlimited/{stack.name}",
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        StartTime=at,
        EndTime=at + timedelta(seconds=1),
        Period=1,
        Statistics=["Maximum"],
    )["Datapoints"]
    return found[0]["Maximum"] if found else None


def table(windows: Sequence[WindowMetrics]) -> Table:
    """Lay the metrics of a day's windows out for the terminal."""
    layout = empty_table()
    layout.add_column("until", no_wrap=True)
    for name in ("time of day", "photos", "estimated accuracy", "drifted features"):
        layout.add_column(name, no_wrap=True, justify="right")
    layout.add_column(f"beyond {LIMIT}", no_wrap=True)
    for number, window in enumerate(windows, 1):
        layout.add_row(
            f"{window.end:%H:%M:%S}",
            f"{24 * number / len(windows):02.0f}:00",
            str(window.records),
            "" if window.estimated_accuracy is None else f"{window.estimated_accuracy:.3f}",
            f"[red]{window.drifted}[/]" if window.drifted else "0",
            ", ".join(window.beyond_limit[:3]),
        )
    return layout
