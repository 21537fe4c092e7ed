"""What monitoring found as one HTML page that needs nothing else: no network, no scripts, plots inside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from markupsafe import Markup

from functions.monitor.capture_analysis.drift import LIMIT, MODERATE
from model import html_page, storage
from model.photo import PhotoError
from pipeline import PAGES
from pipeline.monitoring.plots import CAPTIONS, spelled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from pipeline.monitoring.metrics import Monitoring, Photo


NAMED = 20
"""Skipped lines that the page names; metrics.json names more."""


def render(report: Monitoring, plots: Mapping[str, str]) -> str:
    """Write the page.

    Parameters
    ----------
    report
        What to show.
    plots
        SVG elements, by the plot's name.
    """
    return html_page.page("monitor.html", PAGES).render(
        report=report,
        plots={name: Markup(plot) for name, plot in plots.items()},  # noqa: S704  drawn by plots.py, which escapes
        captions=CAPTIONS,
        spelled=spelled,
        moment=moment,
        thumbnail=thumbnail,
        limit=LIMIT,
        moderate=MODERATE,
        named=NAMED,
    )


def moment(at: datetime | None) -> str:
    """Put a time in words: ``2026-11-25 14:00:05``."""
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else "–"


def thumbnail(photo: Photo) -> str | None:
    """Return a photo, small, as a data URI; ``None`` if it cannot be read."""
    try:
        return html_page.thumbnail(photo.file)
    except PhotoError:
        return None


METRICS = "metrics.json"

REPORT = "report.html"


def write(out: Path, report: Monitoring) -> None:
    """Write metrics, page and plots, and delete the plots of an earlier report."""
    from pipeline.monitoring import plots  # noqa: PLC0415  as above
    from pipeline.monitoring.metrics import metrics  # noqa: PLC0415

    drawn = plots.draw(report)
    files: Mapping[str, bytes] = {
        METRICS: (json.dumps(metrics(report), indent=2) + "\n").encode(),
        **{f"{name}.png": plots.png(figure) for name, figure in drawn.items()},
        REPORT: render(report, {name: plots.svg(figure, name) for name, figure in drawn.items()}).encode(),
    }
    storage.write_files(out, files, stale=[f"{name}.png" for name in plots.CAPTIONS])
