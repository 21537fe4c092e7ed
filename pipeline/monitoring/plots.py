"""The plots of `scones monitor`, drawn once: as PNG files, and as SVG in the page's own colours."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from functions.monitor.capture_analysis.drift import LIMIT, MODERATE
from functions.monitor.capture_analysis.window import OTHER
from model.evaluation import statistics as statistics_module
from pipeline.monitoring.metrics import RECENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from pipeline.monitoring.metrics import Monitoring

INK, SOFT, LINE, PAPER = "#1d2733", "#5a6775", "#d9dfe5", "#ffffff"
BLUE, RED, AMBER, TEAL = "#1f6fb5", "#b3372b", "#a86a00", "#2a8c82"
NAMES = {
    INK: "ink",
    SOFT: "soft",
    LINE: "line",
    PAPER: "paper",
    BLUE: "blue",
    RED: "red",
    AMBER: "amber",
    TEAL: "teal",
}
"""The page's names of these colours, which are others where the reader prefers dark."""
LEVELS = {"none": BLUE, "moderate": AMBER, "drifted": RED}
LEVEL_WORDS = {"none": "as before, or chance", "moderate": "moderate", "drifted": "drifted"}
LABELS = (BLUE, TEAL, AMBER, RED)
CAPTIONS = {
    "volume": (
        "Answers over time",
        "How many there were, and how many of them were acted on without a person.",
    ),
    "confidence": (
        "Confidence over time",
        "The median, and the range of all but the highest and the lowest tenth.",
    ),
    "class_mix": ("Class mix over time", "What share of the answers has each label."),
    "recent": ("The latest answers one by one", f"At most {RECENT}; under the threshold a person looks."),
    "drift": (
        "Distance from the baseline",
        "Each feature's statistic for the whole time; red has drifted, blue beyond a line may be chance.",
    ),
    "drift_over_time": (
        "Drift over time",
        "When each feature was how far from the baseline; parts with too few photos to tell are blank.",
    ),
    "calibration": (
        "Is the confidence to be believed?",
        "On the dashed line it is the share of right answers; below it the model is too sure of itself.",
    ),
}
"""Each plot's title and what to see in it."""
SECONDS = 86400
"""In a day, the unit of Matplotlib's time axes, which count from 1970."""
SIZE = (5.2, 3.4)
"""Inches, of which 400 pixels show all without making the text too small to read."""
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "scones",
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": SOFT,
    "xtick.labelcolor": SOFT,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "figure.constrained_layout.use": True,
}


def draw(report: Monitoring) -> dict[str, Figure]:
    """Draw every plot there is something for, by name."""
    plots: dict[str, Callable[[Axes, Monitoring], None]] = {}
    if report.slices:
        plots |= {"volume": volume, "confidence": confidence, "class_mix": class_mix, "recent": recent}
    if report.drift:
        plots["drift"] = drift
    if any(one.drift for one in report.slices):
        plots["drift_over_time"] = drift_over_time
    if report.labelled:
        plots["calibration"] = calibration
    with mpl.rc_context(STYLE):
        return {name: _drawn(plot, report) for name, plot in plots.items()}


def _drawn(plot: Callable[[Axes, Monitoring], None], report: Monitoring) -> Figure:
    figure = Figure(figsize=SIZE)
    plot(figure.subplots(), report)
    return figure


def png(figure: Figure) -> bytes:
    """Return a plot as a PNG file."""
    return _saved(figure, "png", dpi=144)


def svg(figure: Figure, name: str) -> str:
    """Return a plot as an SVG element of an HTML page, in the page's colours and with names of its own."""
    figure.patch.set_visible(False)
    text = _saved(figure, "svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))).decode()
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :])
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in NAMES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


def _saved(figure: Figure, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format=kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def volume(axes: Axes, report: Monitoring) -> None:
    """Draw how many answers there were, and how many of them the pipeline acts on."""
    start, width = _spans(report)
    accepted = np.array([one.accepted for one in report.slices])
    rest = np.array([one.n for one in report.slices]) - accepted
    axes.bar(
        start, accepted, width, align="edge", color=BLUE, label="accepted", edgecolor=PAPER, linewidth=0.6
    )
    axes.bar(
        start,
        rest,
        width,
        accepted,
        align="edge",
        color=AMBER,
        label="needs review",
        edgecolor=PAPER,
        linewidth=0.6,
    )
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    _along_time(axes, "answers")
    _legend(axes)


def confidence(axes: Axes, report: Monitoring) -> None:
    """Draw how sure the answers are over time, with the threshold."""
    start, width = _spans(report)
    low, middle, high = np.array([one.confidence for one in report.slices]).T
    edges = np.append(start, start[-1] + width[-1])
    axes.stairs(high, edges, baseline=low, fill=True, color=BLUE, alpha=0.18, label="10% to 90%")
    axes.stairs(middle, edges, color=BLUE, linewidth=2, baseline=None, label="median")
    _threshold(axes, report)
    axes.set_ylim(min(0.5, low.min() - 0.05), 1.01)
    _along_time(axes, "confidence")
    _legend(axes)


def recent(axes: Axes, report: Monitoring) -> None:
    """Draw the latest answers one by one, those under the threshold in red."""
    at, sure = np.array(report.window.at), np.array(report.window.confidence)
    latest = np.argsort(at)[: np.isfinite(at).sum()][-RECENT:]
    at, sure = at[latest] / SECONDS, sure[latest]
    under = sure < report.threshold
    axes.scatter(at[~under], sure[~under], 12, BLUE, alpha=0.75, linewidths=0, label="at or over it")
    axes.scatter(at[under], sure[under], 14, RED, alpha=0.85, linewidths=0, label="under it")
    _threshold(axes, report)
    axes.set_ylim(min(0.5, sure.min() - 0.05), 1.01)
    _along_time(axes, "confidence")
    _legend(axes)


def class_mix(axes: Axes, report: Monitoring) -> None:
    """Draw what share of the answers has each label, over time."""
    start, width = _spans(report)
    below = np.zeros(len(start))
    others = iter([*LABELS, *mpl.color_sequences["tab20"]] * (1 + len(report.labels) // 20))
    for label in report.labels:
        share = np.array([one.by_label[label] / one.n for one in report.slices])
        colour = SOFT if label == OTHER else next(others)
        axes.bar(
            start,
            share,
            width,
            below,
            align="edge",
            color=colour,
            label=label,
            edgecolor=PAPER,
            linewidth=0.6,
        )
        below += share
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _along_time(axes, "share of answers")
    _legend(axes)


def drift(axes: Axes, report: Monitoring) -> None:
    """Draw how far each feature is from the baseline, with the limits."""
    names = sorted(report.drift, key=lambda name: report.drift[name].statistic)
    statistics = [report.drift[name].statistic for name in names]
    axes.barh(
        [spelled(name) for name in names],
        statistics,
        color=[LEVELS[report.drift[name].level] for name in names],
        height=0.65,
    )
    axes.axvline(MODERATE, color=AMBER, linestyle="--", linewidth=1.2)
    axes.axvline(LIMIT, color=RED, linestyle="--", linewidth=1.5)
    axes.text(
        LIMIT, 1.0, f" limit {LIMIT}", color=RED, transform=axes.get_xaxis_transform(), va="bottom", ha="left"
    )
    axes.set_xscale("symlog", linthresh=LIMIT, linscale=1.2)
    axes.set_xlim(0, max(0.4, 1.15 * max(statistics)))
    ticks = [tick for tick in (0, 0.1, 0.2, 0.5, 1, 2, 5, 10) if tick <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.set_xlabel("PSI or distance, the larger")


def drift_over_time(axes: Axes, report: Monitoring) -> None:
    """Draw when each feature was how far from the baseline."""
    start, width = _spans(report)
    names = list(reversed(report.drift))
    for row, name in enumerate(names):
        for one, left, wide in zip(report.slices, start, width, strict=True):
            if found := one.drift.get(name):
                axes.broken_barh(
                    [(left, wide)],
                    (row - 0.42, 0.84),
                    color=LEVELS[found.level],
                    alpha=0.25 if found.level == "none" else 0.95,
                )
    axes.set_yticks(range(len(names)), [spelled(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.set_xlim(start[0], start[-1] + width[-1])
    _along_time(axes, "")
    for level, colour in LEVELS.items():
        axes.barh([0], [0], color=colour, alpha=0.25 if level == "none" else 0.95, label=LEVEL_WORDS[level])
    _legend(axes)


def calibration(axes: Axes, report: Monitoring) -> None:
    """Draw whether the confidence is to be believed, where somebody knows what the photos show."""
    assert report.labelled  # noqa: S101  or draw would not have asked
    bins = report.labelled.bins
    axes.plot((0, 1), (0, 1), color=SOFT, linestyle="--", linewidth=1, label="ideal")
    shares = [statistics_module.share(round(one.accuracy * one.n), one.n) for one in bins]
    around = [(share.value - share.low, share.high - share.value) for share in shares if share]
    axes.errorbar(
        [one.confidence for one in bins],
        [one.accuracy for one in bins],
        np.array(around).T,
        fmt="o",
        color=BLUE,
        markersize=5,
        elinewidth=1.2,
        label="answers, with 95% interval",
    )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of right answers")
    _legend(axes)


def spelled(name: str) -> str:
    """Put a feature's name in words."""
    return name.replace("_", " ")


def _spans(report: Monitoring) -> tuple[statistics_module.Floats, statistics_module.Floats]:
    """Return where on the time axis each slice begins, and how wide it is, in days."""
    start = np.array([one.start.timestamp() for one in report.slices]) / SECONDS
    end = np.array([one.end.timestamp() for one in report.slices]) / SECONDS
    return start, np.maximum(end - start, 1 / SECONDS)


def _threshold(axes: Axes, report: Monitoring) -> None:
    axes.axhline(
        report.threshold, color=RED, linestyle="--", linewidth=1.3, label=f"threshold {report.threshold:.3g}"
    )


def _along_time(axes: Axes, up: str) -> None:
    # with fewer ticks it finds none for 2 h 50
    locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_ylabel(up)


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        borderaxespad=0.2,
        handlelength=1.2,
        columnspacing=1.1,
        handletextpad=0.5,
    )
