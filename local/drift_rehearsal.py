"""Rehearse drift detection: send a stack photos that get worse, and check that monitoring notices."""

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL import ImageEnhance, ImageFilter

from functions.classify.capture import VARIANT
from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import TimeWindow
from functions.monitor.capture_analysis.drift import LIMIT
from local import LocalError, capture_report
from local.demo import empty_table
from local.stack import CAPTURE_URI, ENDPOINT_NAME, Progress, Stack, parameters
from model import html_page
from model.network.artifact import Description
from model.storage import Storage, write_file
from model.terminal.tables import Table, styled
from model.training import baseline
from pipeline import sample_images
from pipeline.monitoring import report
from pipeline.monitoring.analysis import MonitoringReport, make_baseline

DIRTY_LENS = ImageFilter.GaussianBlur(4)

DAY = timedelta(days=1)
GOOD_PHOTOS, PHOTOS = 120, 240
"""Photos on the first and on the second day."""
WINDOWS = 6
"""Time windows of the second day that the monitor function analyses, one after the other."""
SILENCE = 300.0
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
    """Classify the photos of a good day, make it the baseline, then those of a day that gets worse.

    In the third quarter of the second day the lens is dirty, in the last quarter it is night. The days are
    the last two, in UTC. Photos are sent as fast as the stack takes them, and each capture then gets the time
    of its photo, so that the result does not depend on this machine's speed.
    """
    home = stack.home / "drift"
    second = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - DAY
    first = second - DAY
    progress(f"Drawing {DIFFERENT} pictures")
    pictures = [sample_images.picture(SUBJECTS[seed % len(SUBJECTS)], seed) for seed in range(DIFFERENT)]
    good = [sample_images.encoded(picture) for picture in pictures]
    blurred = [sample_images.encoded(picture.filter(DIRTY_LENS)) for picture in pictures]
    dark = [sample_images.encoded(ImageEnhance.Brightness(picture).enhance(0.3)) for picture in pictures]

    progress(f"The first day: {GOOD_PHOTOS} good photos")
    _write_day(stack, first, _classify(stack, _repeated(good, GOOD_PHOTOS)))
    known = make_baseline(capture_report.analyse(stack, model, TimeWindow(first, second)))
    write_file(home / baseline.FILE, known.text().encode())
    progress("Deploying the first day as the baseline")
    stack.deploy(parameters(model) | stack.place_baseline(home / baseline.FILE))

    progress(f"The second day: {PHOTOS} photos; from noon on a dirty lens, then night")
    quarter = PHOTOS // 4
    parts = (_repeated(good, 2 * quarter), _repeated(blurred, quarter), _repeated(dark, quarter))
    _write_day(stack, second, [record for part in parts for record in _classify(stack, part)])

    progress(f"Monitoring {WINDOWS} windows of the second day")
    edges = [second + DAY * part / WINDOWS for part in range(WINDOWS + 1)]
    windows = [_monitor(stack, *bounds) for bounds in itertools.pairwise(edges)]
    found = capture_report.analyse(stack, model, TimeWindow(second, second + DAY), known)
    report.write(home, found)
    return Rehearsal(windows, found, home / html_page.REPORT)


def _repeated(photos: Sequence[bytes], count: int) -> list[bytes]:
    return list(itertools.islice(itertools.cycle(photos), count))


def _classify(stack: Stack, photos: Sequence[bytes]) -> list[dict[str, Any]]:
    """Upload photos, wait until the endpoint has captured them all, and return the captured records."""
    s3, bucket, before = stack.client("s3"), stack.outputs["UploadBucketName"], _captured(stack).keys()
    for number, photo in enumerate(photos):
        s3.put_object(Bucket=bucket, Key=f"uploads/drift/{uuid4()}-{number:04}.jpg", Body=photo)
    new: dict[str, dict[str, Any]] = {}
    last_capture_at = time.monotonic()
    while len(new) < len(photos):
        time.sleep(1)
        captured = {event: record for event, record in _captured(stack).items() if event not in before}
        if len(captured) > len(new):
            new, last_capture_at = captured, time.monotonic()
        elif time.monotonic() - last_capture_at > SILENCE:
            lost = len(photos) - len(new)
            raise LocalError(
                f"{lost} of {len(photos)} photos never reached the endpoint. Logs: {stack.home / 'logs'}"
            )
    return list(new.values())


def _captured(stack: Stack) -> dict[str, dict[str, Any]]:
    """Return all records that the endpoint has captured, by event id."""
    files = captures.read_lines(str(stack.captures), TimeWindow())
    records = (json.loads(line) for _, lines in files for line in lines)
    return {record["eventMetadata"]["eventId"]: record for record in records}


def _write_day(stack: Stack, day: datetime, records: Sequence[dict[str, Any]]) -> None:
    """Write records again as the captures of a day, evenly spaced; a repeated rehearsal overwrites them."""
    hours: dict[str, list[str]] = {}
    for number, record in enumerate(records):
        at = day + DAY * number / len(records)
        metadata = record["eventMetadata"] | {"inferenceTime": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
        file = f"{ENDPOINT_NAME}/{VARIANT}/{at:%Y/%m/%d/%H}/rehearsal{captures.SUFFIX}"
        hours.setdefault(file, []).append(json.dumps(record | {"eventMetadata": metadata}) + "\n")
    storage = Storage(stack.client("s3"))
    for destination in (stack.captures, CAPTURE_URI):
        for file, lines in hours.items():
            storage.write(f"{destination}/{file}", "".join(lines).encode())


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
    for name in ("photos", "estimated accuracy", "drifted features"):
        layout.add_column(name, no_wrap=True, justify="right")
    layout.add_column(f"beyond {LIMIT}", no_wrap=True)
    for window in windows:
        layout.add_row(
            f"{window.end:%H:%M}",
            str(window.records),
            "" if window.estimated_accuracy is None else f"{window.estimated_accuracy:.3f}",
            styled(str(window.drifted), "red" if window.drifted else ""),
            ", ".join(window.beyond_limit[:3]),
        )
    return layout
