"""Write the monitoring report: an HTML page that works offline, its plots, and metrics.json."""

from datetime import datetime
from pathlib import Path

from functions.monitor.capture_analysis.drift import LIMIT, MODERATE
from functions.monitor.capture_analysis.intervals import Interval
from model import charts, html_page, storage
from model.evaluation.statistics import Share
from model.photo import PhotoError
from pipeline import PAGES
from pipeline.monitoring import plots
from pipeline.monitoring.analysis import MonitoringReport
from pipeline.monitoring.metrics import metrics

MAX_SKIPPED = 20
"""Maximum number of skipped lines on the page; metrics.json lists more."""


def write(out: Path, report: MonitoringReport) -> None:
    """Write all files, and remove the plots of an earlier report."""
    figures = plots.draw(report)
    page = html_page.page("monitor.html", PAGES).render(
        report=report,
        window=report.window,
        figures=figures,
        svg=charts.svg,
        spelled=plots.spelled,
        moment=_moment,
        thumbnail=_thumbnail,
        limit=LIMIT,
        moderate=MODERATE,
        max_skipped=MAX_SKIPPED,
    )
    files = html_page.report_files(page, metrics(report))
    files |= {f"{name}.png": charts.png(figure) for name, figure in figures.items()}
    storage.write_files(out, files, stale=[f"{name}.png" for name in plots.NAMES])


def summary(report: MonitoringReport) -> list[str]:
    """Return the main results as lines of text."""
    counts = report.counts
    lines = [
        f"{counts.read:,} records read from {counts.files:,} files: {counts.records:,} events, "
        f"{counts.duplicates:,} duplicates, {counts.broken:,} broken lines"
    ]
    if report.under_threshold and report.accepted:
        lines.append(
            f"{report.accepted.value:.1%} accepted, {report.under_threshold.value:.1%} below the threshold"
        )
    if report.estimated_accuracy:
        lines.append(f"estimated accuracy: {_estimate(report.estimated_accuracy)}, from the confidence")
    elif report.drifted:
        lines.append("estimated accuracy: none, because drift makes the confidence unreliable; use --truth")
    if report.labelled:
        accuracy = report.labelled.accuracy
        lines.append(f"accuracy: {_estimate(accuracy)} on {accuracy.of:,} labels")
    if report.drift:
        drifted = ", ".join(f"{name} {report.drift[name].statistic:.2f}" for name in report.drifted)
        lines.append(f"drifted: {drifted}" if drifted else "no drift")
    return lines


def _estimate(share: Share | Interval) -> str:
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else "–"


def _thumbnail(photo: bytes) -> str | None:
    try:
        return html_page.thumbnail(photo)
    except PhotoError:
        return None
