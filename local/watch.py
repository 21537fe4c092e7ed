"""What `scones monitor` makes of a local stack's captures, and a rehearsal in which something goes wrong."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter
from rich import box
from rich.table import Table

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import ReadCounts, TimeWindow
from functions.monitor.capture_analysis.drift import LIMIT, Baseline
from functions.monitor.capture_analysis.window import Window
from local import LocalError
from local.stack import Stack, parameters
from model import storage
from model.network.artifact import Description
from model.network.classifier import Classifier
from model.training import baseline
from pipeline import sample_images
from pipeline.monitoring import metrics
from pipeline.monitoring import report as monitoring_report
from pipeline.monitoring.metrics import Monitoring

YESTERDAY, TODAY = 120, 240
"""Photos of the rehearsal's two days."""
DAY = 60.0
"""Seconds that its second day lasts."""
PARTS = 6
"""Windows of that day that monitoring looks at."""
SILENCE = 60.0
"""Seconds without a new record after which those still out are given up."""
DIFFERENT = 40
"""Pictures that are drawn; a day shows them again and again."""
SUBJECTS = (sample_images.bicycle, sample_images.bicycle, sample_images.motorcycle)

type Change = Callable[[Image.Image], Image.Image]
type Report = Callable[[str], None]


def report(
    stack: Stack, model: Description, out: Path, known: Baseline | None, bounds: TimeWindow
) -> Monitoring:
    """Write the monitoring report of what the local endpoint captured.

    Parameters
    ----------
    stack
        Whose captures.
    model
        What the endpoint serves.
    out
        The folder to write to.
    known
        What to compare with, if there is something.
    bounds
        Of which time.
    """
    window, tally = read(stack, model, bounds)
    sample = metrics.measure(window, None, 0)
    found = metrics.monitor(str(stack.captures), bounds, window, tally, sample, baseline=known)
    monitoring_report.write(out, found)
    return found


def read(stack: Stack, model: Description, bounds: TimeWindow) -> tuple[Window, ReadCounts]:
    """Read what the local endpoint captured."""
    window = Window(model.threshold, model.labels, sample_size=2000, least_confident_size=metrics.SHOWN)
    return window, metrics.gather(str(stack.captures), bounds, window)


@dataclass(frozen=True)
class Told:
    """What CloudWatch was told of a part of the day."""

    start: datetime
    end: datetime
    records: int
    estimated_accuracy: float | None
    drifted: int
    far: list[str]


@dataclass(frozen=True)
class Rehearsal:
    """How it went: what CloudWatch was told, and the report with where it was written."""

    told: list[Told]
    found: Monitoring
    page: Path


def rehearse(stack: Stack, model: Description, tell: Report) -> Rehearsal:
    """Send a good day, make it the baseline, then a day compressed into a minute that goes wrong half-way.

    From its middle on the lens is dirty, from its last quarter on it is night.

    Raises
    ------
    LocalError
        Photos got lost on their way to the endpoint's captures.
    """
    home = stack.home / "drift"
    tell(f"Drawing {DIFFERENT} pictures")
    drawn = [sample_images.picture(SUBJECTS[seed % len(SUBJECTS)], seed) for seed in range(DIFFERENT)]
    good, blurred, dark = (
        [sample_images.encoded(change(one)) for one in drawn] for change in (as_it_is, dirty_lens, night)
    )

    tell(f"Yesterday: {YESTERDAY} good photos")
    yesterday = sent(stack, "yesterday", itertools.islice(itertools.cycle(good), YESTERDAY), 0)
    known = baseline_of(stack, model, yesterday)
    storage.write_file(home / baseline.FILE, known.text().encode())
    tell("Deploying yesterday as the baseline")
    stack.deploy(parameters(model) | stack.place_baseline(home / baseline.FILE))

    tell(f"Today: {TODAY} photos in {DAY:.0f} s, a dirty lens from the middle on, then night")
    quarter = TODAY // 4
    photos = [*itertools.islice(itertools.cycle(good), 2 * quarter)]
    photos += itertools.islice(itertools.cycle(blurred), quarter)
    photos += itertools.islice(itertools.cycle(dark), quarter)
    today = sent(stack, "today", iter(photos), DAY / TODAY)

    tell(f"Monitoring {PARTS} parts of today")
    told = [watched(stack, part) for part in parts(today, PARTS)]
    found = report(stack, model, home, known, today)
    return Rehearsal(told, found, home / monitoring_report.REPORT)


def as_it_is(picture: Image.Image) -> Image.Image:
    """Leave a picture alone."""
    return picture


def dirty_lens(picture: Image.Image) -> Image.Image:
    """Blur a picture."""
    return picture.filter(ImageFilter.GaussianBlur(4))


def night(picture: Image.Image) -> Image.Image:
    """Take most of a picture's light."""
    return ImageEnhance.Brightness(picture).enhance(0.3)


def sent(stack: Stack, day: str, photos: Iterator[bytes], pause: float) -> TimeWindow:
    """Upload photos, a pause in seconds between them, and return the time in which the endpoint saw them.

    Raises
    ------
    LocalError
        Some never came to the endpoint.
    """
    s3, start = stack.client("s3"), datetime.now(UTC).replace(microsecond=0)
    count = 0
    for count, photo in enumerate(photos, 1):
        due = start + timedelta(seconds=1 + pause * count)
        time.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds() if pause else 0.0))
        key = f"uploads/{day}/{start:%H%M%S}-{count:04}.jpg"
        s3.put_object(Bucket=stack.outputs["UploadBucketName"], Key=key, Body=photo)
    heard, heard_at = 0, time.monotonic()
    while heard < count:
        time.sleep(1)
        tally = ReadCounts()
        for _ in captures.read(str(stack.captures), TimeWindow(start, None), tally):
            pass
        if tally.records > heard:
            heard, heard_at = tally.records, time.monotonic()
        elif time.monotonic() - heard_at > SILENCE:
            raise LocalError(f"{count - heard} of {count} photos never came to the endpoint: see .local/logs")
    return TimeWindow(start, datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1))


def baseline_of(stack: Stack, model: Description, bounds: TimeWindow) -> Baseline:
    """Make a baseline of what was captured in some time."""
    window, tally = read(stack, model, bounds)
    sample = metrics.measure(window, None, 0)
    found = metrics.monitor(str(stack.captures), bounds, window, tally, sample)
    return metrics.as_baseline(found, sample, None)


def parts(bounds: TimeWindow, count: int) -> Iterator[TimeWindow]:
    """Cut a time into parts, to the second."""
    assert bounds.start is not None  # noqa: S101  as `sent` returns it
    assert bounds.end is not None  # noqa: S101
    seconds = (bounds.end - bounds.start).total_seconds()
    edges = [bounds.start + timedelta(seconds=round(seconds * part / count)) for part in range(count + 1)]
    yield from itertools.starmap(TimeWindow, itertools.pairwise(edges))


def watched(stack: Stack, part: TimeWindow) -> Told:
    """Have the monitor function look at a part of the day, and read from CloudWatch what it published.

    Raises
    ------
    LocalError
        The function failed.
    """
    assert part.start is not None  # noqa: S101  as `parts` yields it
    assert part.end is not None  # noqa: S101
    event = {"from": part.start.isoformat(), "to": part.end.isoformat()}
    answer = stack.client("lambda").invoke(
        FunctionName=stack.outputs["MonitorFunctionName"], Payload=json.dumps(event)
    )
    if "FunctionError" in answer:
        raise LocalError(f"the monitor function failed: {answer['Payload'].read().decode()[:300]}")
    features = {
        feature: value
        for feature in ("confidence", "brightness", "contrast", "sharpness", "class_mix", "under_threshold")
        if (value := published(stack, "Drift", part.end, feature=feature)) is not None
    }
    far = sorted((name for name in features if features[name] > LIMIT), key=lambda name: -features[name])
    return Told(
        start=part.start,
        end=part.end,
        records=int(published(stack, "CapturedRecords", part.end) or 0),
        estimated_accuracy=published(stack, "EstimatedAccuracy", part.end),
        drifted=int(published(stack, "DriftedFeatures", part.end) or 0),
        far=far,
    )


def published(stack: Stack, metric: str, at: datetime, **dimensions: str) -> float | None:
    """Return what CloudWatch has of a metric at a time, to the second."""
    named = {"service": "vehicle-classifier"} | dimensions
    (answer,) = stack.client("cloudwatch").get_metric_data(
        MetricDataQueries=[
            {
                "Id": "asked",
                "MetricStat": {
                    "Metric": {
                        "Namespace": f"SconesUnlimited/{stack.name}",
                        "MetricName": metric,
                        "Dimensions": [{"Name": name, "Value": value} for name, value in named.items()],
                    },
                    "Period": 1,
                    "Stat": "Maximum",
                },
            }
        ],
        StartTime=at,
        EndTime=at + timedelta(seconds=1),
    )["MetricDataResults"]
    return answer["Values"][0] if answer["Values"] else None


def table(told: list[Told]) -> Table:
    """Lay out for the terminal what CloudWatch was told."""
    laid_out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in (
        "until",
        "of the day",
        "photos",
        "estimated accuracy",
        "drifted features",
        f"beyond {LIMIT}",
    ):
        laid_out.add_column(
            name, justify="right" if not name.startswith(("until", "beyond")) else "left", no_wrap=True
        )
    for number, one in enumerate(told, 1):
        laid_out.add_row(
            f"{one.end:%H:%M:%S}",
            f"{24 * number / len(told):02.0f}:00",
            str(one.records),
            "" if one.estimated_accuracy is None else f"{one.estimated_accuracy:.3f}",
            f"[red]{one.drifted}[/]" if one.drifted else "0",
            ", ".join(one.far[:3]),
        )
    return laid_out


def report_of(stack: Stack) -> Path:
    """Write the monitoring report of all that was captured, and return where its page is."""
    known = baseline.read(stack.model) if stack.model and (stack.model / baseline.FILE).exists() else None
    out = stack.home / "report"
    report(stack, Classifier.load(stack.model).description, out, known, TimeWindow())
    return out / monitoring_report.REPORT
