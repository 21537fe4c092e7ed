"""What monitoring found as one HTML page that needs nothing else: no network, no scripts, plots inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from functions.monitor.monitoring.drift import LIMIT, MODERATE
from model.evaluation import report as evaluation_report
from model.monitoring.plots import CAPTIONS, spelled
from model.network.photo import PhotoError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from model.monitoring.figures import Monitoring, Photo

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
    page = evaluation_report.page("monitor.html")
    return page.render(
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
        return evaluation_report.thumbnail(photo.file)
    except PhotoError:
        return None
