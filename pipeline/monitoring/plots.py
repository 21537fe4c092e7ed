"""The plots of the monitoring report."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from functions.monitor.capture_analysis.drift import LIMIT, MODERATE
from functions.monitor.capture_analysis.window import OTHER
from model import charts
from model.charts import AMBER, BLUE, PAPER, RED, SOFT, TEAL, legend_above
from model.evaluation.plots import reliability
from model.evaluation.statistics import Floats
from pipeline.monitoring.analysis import MonitoringReport

MAX_RECENT = 500
LEVELS = {"none": BLUE, "moderate": AMBER, "drifted": RED}
NAMES = ("volume", "confidence", "class_mix", "recent", "drift", "drift_over_time", "calibration")
"""All plots; a report has those for which there is data."""
DAY = 86400
"""Seconds in the unit of Matplotlib's time axes, which count days since 1970."""


def draw(report: MonitoringReport) -> dict[str, Figure]:
    """Draw every plot that the report has data for."""
    plots: dict[str, Callable[[Axes, MonitoringReport], None]] = {}
    if report.slices:
        plots |= {"volume": volume, "confidence": confidence, "class_mix": class_mix, "recent": recent}
    if report.drift:
        plots["drift"] = drift
    if any(one.drift for one in report.slices):
        plots["drift_over_time"] = drift_over_time
    figures = {name: charts.draw(plot, report) for name, plot in plots.items()}
    if report.labelled:
        figures["calibration"] = charts.draw(reliability, report.labelled.bins)
    return figures


def volume(axes: Axes, report: MonitoringReport) -> None:
    """Draw the number of answers, and how many of them were accepted."""
    accepted = np.array([one.accepted for one in report.slices])
    review = np.array([one.n for one in report.slices]) - accepted
    _stacked_bars(axes, report, {"accepted": (accepted, BLUE), "needs review": (review, AMBER)})
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    _time_axis(axes, "answers")


def confidence(axes: Axes, report: MonitoringReport) -> None:
    """Draw quantiles of the confidence."""
    start, width = _spans(report)
    low, median, high = np.array([one.confidence for one in report.slices]).T
    edges = np.append(start, start[-1] + width[-1])
    axes.stairs(high, edges, baseline=low, fill=True, color=BLUE, alpha=0.18, label="10% to 90%")
    axes.stairs(median, edges, color=BLUE, linewidth=2, baseline=None, label="median")
    _confidence_axis(axes, report, low.min())


def recent(axes: Axes, report: MonitoringReport) -> None:
    """Draw the latest answers one by one."""
    at, values = np.array(report.window.at), np.array(report.window.confidence)
    latest = np.argsort(at)[: np.isfinite(at).sum()][-MAX_RECENT:]
    at, values = at[latest] / DAY, values[latest]
    below = values < report.window.threshold
    axes.scatter(at[~below], values[~below], 12, BLUE, alpha=0.75, linewidths=0, label="not below")
    axes.scatter(at[below], values[below], 14, RED, alpha=0.85, linewidths=0, label="below")
    _confidence_axis(axes, report, values.min())


def class_mix(axes: Axes, report: MonitoringReport) -> None:
    """Draw each label's share of the answers."""
    colours = itertools.cycle((BLUE, TEAL, AMBER, RED, *mpl.color_sequences["tab20"]))
    bars = {
        label: (
            np.array([one.by_label[label] / one.n for one in report.slices]),
            SOFT if label == OTHER else next(colours),
        )
        for label in report.window.labels
    }
    _stacked_bars(axes, report, bars)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _time_axis(axes, "share of answers")


def drift(axes: Axes, report: MonitoringReport) -> None:
    """Draw each feature's drift statistic and the limits."""
    names = sorted(report.drift, key=lambda name: report.drift[name].statistic)
    values = [report.drift[name].statistic for name in names]
    colours = [LEVELS[report.drift[name].level] for name in names]
    axes.barh([spelled(name) for name in names], values, color=colours, height=0.65)
    axes.axvline(MODERATE, color=AMBER, linestyle="--", linewidth=1.2)
    axes.axvline(LIMIT, color=RED, linestyle="--", linewidth=1.5)
    above = axes.get_xaxis_transform()
    axes.text(LIMIT, 1.0, f" limit {LIMIT}", color=RED, transform=above, va="bottom", ha="left")
    axes.set_xscale("symlog", linthresh=LIMIT, linscale=1.2)
    axes.set_xlim(0, max(0.4, 1.15 * max(values)))
    ticks = [tick for tick in (0, 0.1, 0.2, 0.5, 1, 2, 5, 10) if tick <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.set_xlabel("PSI or distance, whichever is larger")


def drift_over_time(axes: Axes, report: MonitoringReport) -> None:
    """Draw each feature's level of drift by time."""
    start, width = _spans(report)
    names = list(reversed(report.drift))
    for row, name in enumerate(names):
        for one, left, wide in zip(report.slices, start, width, strict=True):
            if found := one.drift.get(name):
                axes.broken_barh([(left, wide)], (row - 0.42, 0.84), **_level_style(found.level))
    axes.set_yticks(range(len(names)), [spelled(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(start[0], start[-1] + width[-1])
    for level in LEVELS:
        label = "no drift" if level == "none" else level
        axes.barh(0, 0, left=start[0], label=label, **_level_style(level))
    _time_axis(axes, "")
    axes.grid(visible=False)


def spelled(name: str) -> str:
    """Return a feature's name in words."""
    return name.replace("_", " ")


def _level_style(level: str) -> dict[str, Any]:
    return {"color": LEVELS[level], "alpha": 0.25 if level == "none" else 0.95}


def _spans(report: MonitoringReport) -> tuple[Floats, Floats]:
    """Return the start and the width of each slice on the time axis, in days."""
    start = np.array([one.start.timestamp() for one in report.slices]) / DAY
    end = np.array([one.end.timestamp() for one in report.slices]) / DAY
    return start, np.maximum(end - start, 1 / DAY)


def _stacked_bars(axes: Axes, report: MonitoringReport, bars: Mapping[str, tuple[Floats, Any]]) -> None:
    """Draw a bar for each slice, made of the height and colour of each of `bars`, whose keys are names."""
    start, width = _spans(report)
    bottom = np.zeros(len(start))
    edge: Any = {"align": "edge", "edgecolor": PAPER, "linewidth": 0.6}
    for name, (height, colour) in bars.items():
        axes.bar(start, height, width, bottom, color=colour, label=name, **edge)
        bottom = bottom + height


def _confidence_axis(axes: Axes, report: MonitoringReport, lowest: float) -> None:
    threshold = report.window.threshold
    axes.axhline(threshold, color=RED, linestyle="--", linewidth=1.3, label=f"threshold {threshold:.3g}")
    axes.set_ylim(min(0.5, lowest - 0.05), 1.01)
    _time_axis(axes, "confidence")


def _time_axis(axes: Axes, up: str) -> None:
    # with fewer ticks, the locator finds none for a window of 2 h 50 min
    locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_ylabel(up)
    axes.grid(visible=False, axis="x")
    legend_above(axes)
