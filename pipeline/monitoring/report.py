"""Write the monitoring report: an HTML page that works offline, its plots, and metrics.json."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from functions.monitor.capture_analysis.drift import LIMIT, MODERATE
from model import charts, html_page
from model.photo import PhotoError
from pipeline import PAGES
from pipeline.monitoring import plots
from pipeline.monitoring.analysis import MonitoringError
from pipeline.monitoring.metrics import metrics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from pipeline.monitoring.analysis import MonitoringReport, Photo

METRICS = "metrics.json"
REPORT = "report.html"
NAMED = 20
"""Maximum number of skipped lines on the page; metrics.json has more."""


def write(out: Path, report: MonitoringReport) -> None:
    """Write all files; none is ever there half-written, and plots of an earlier report are removed.

    Raises
    ------
    MonitoringError
        The folder cannot be written.
    """
    figures = plots.draw(report)
    svgs = {name: charts.svg(figure, name, plots.CAPTIONS[name][0]) for name, figure in figures.items()}
    files = {
        METRICS: (json.dumps(metrics(report), indent=2) + "\n").encode(),
        **{f"{name}.png": charts.png(figure) for name, figure in figures.items()},
        REPORT: render(report, svgs).encode(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out) as draft:
            for name, content in files.items():
                Path(draft, name).write_bytes(content)
            for name in plots.CAPTIONS:
                (out / f"{name}.png").unlink(missing_ok=True)
            for name in files:
                Path(draft, name).replace(out / name)
    except OSError as error:
        raise MonitoringError(f"{out} cannot be written ({error.strerror})") from error


def render(report: MonitoringReport, svgs: Mapping[str, str]) -> str:
    """Render the page, with the plots' SVG elements by name."""
    return html_page.page("monitor.html", PAGES).render(
        report=report,
        window=report.window,
        plots={name: Markup(plot) for name, plot in svgs.items()},  # noqa: S704  Matplotlib escapes its text
        captions=plots.CAPTIONS,
        spelled=plots.spelled,
        moment=moment,
        thumbnail=thumbnail,
        limit=LIMIT,
        moderate=MODERATE,
        named=NAMED,
    )


def summary(report: MonitoringReport) -> list[str]:
    """Return the main results as lines of text."""
    tally = report.tally
    lines = [
        f"{tally.read:,} records read from {tally.files:,} files: {tally.records:,} events, "
        f"{tally.duplicates:,} duplicates, {tally.broken:,} broken lines"
    ]
    if report.under_threshold and report.accepted:
        lines.append(
            f"{report.accepted.value:.1%} accepted, {report.under_threshold.value:.1%} below the threshold"
        )
    if report.estimated_accuracy:
        value, low, high = report.estimated_accuracy
        lines.append(f"estimated accuracy: {value:.1%} ({low:.1%} to {high:.1%}), from the confidence")
    if report.labelled:
        share = report.labelled.accuracy
        lines.append(
            f"accuracy: {share.value:.1%} ({share.low:.1%} to {share.high:.1%}) on {share.of:,} labels"
        )
    if report.drift:
        drifted = ", ".join(f"{name} {report.drift[name].statistic:.2f}" for name in report.drifted)
        lines.append(f"drifted: {drifted}" if drifted else "no drift")
    return lines


def moment(at: datetime | None) -> str:
    """Format a time: ``2026-11-25 14:00:05``."""
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else "–"


def thumbnail(photo: Photo) -> str | None:
    """Return a photo's thumbnail as a data URI; ``None`` if the photo cannot be read."""
    try:
        return html_page.thumbnail(photo.file)
    except PhotoError:
        return None
