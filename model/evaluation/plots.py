"""The plots of an evaluation: the reliability diagram and the risk-coverage curve."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from model import charts
from model.charts import BLUE, PAPER, RED, SOFT, legend_above
from model.evaluation import statistics
from model.evaluation.metrics import Evaluation
from model.evaluation.statistics import Bin


def draw(evaluation: Evaluation) -> dict[str, Figure]:
    """Draw the plots ``reliability`` and, if there are photos of vehicles, ``risk``."""
    figures = {"reliability": charts.draw(reliability, evaluation.calibration.bins)}
    if evaluation.selection.risk:
        figures["risk"] = charts.draw(risk_coverage, evaluation)
    return figures


def reliability(axes: Axes, bins: Sequence[Bin]) -> None:
    """Draw accuracy by confidence, and a histogram of the confidence behind it."""
    total = sum(one.n for one in bins)
    axes.bar(
        [one.low for one in bins],
        [one.n / total for one in bins],
        [one.high - one.low for one in bins],
        align="edge",
        color=BLUE,
        alpha=0.18,
        edgecolor=PAPER,
        label="share of answers",
    )
    axes.plot((0, 1), (0, 1), color=SOFT, linestyle="--", linewidth=1, label="ideal")
    shares = [statistics.share(round(one.accuracy * one.n), one.n) for one in bins]
    margins = [(share.value - share.low, share.high - share.value) for share in shares if share]
    axes.errorbar(
        [one.confidence for one in bins],
        [one.accuracy for one in bins],
        np.array(margins).T if margins else None,
        fmt="o",
        color=BLUE,
        markersize=5,
        elinewidth=1.2,
        label="accuracy",
    )
    axes.set_ylim(0, 1.02)
    _label_percentages(axes, "confidence", "accuracy")


def risk_coverage(axes: Axes, evaluation: Evaluation) -> None:
    """Draw the share of wrong answers by coverage, and mark the threshold."""
    selection, at = evaluation.selection, evaluation.at_threshold
    axes.plot(selection.coverage, selection.risk, color=BLUE, linewidth=2, label="vehicles by confidence")
    highest_risk = max(selection.risk)
    if at.coverage and at.precision_of_vehicles:
        coverage, risk = at.coverage.value, 1 - at.precision_of_vehicles.value
        highest_risk = max(highest_risk, risk)
        axes.axvline(coverage, color=RED, linewidth=1.5, label=f"threshold {at.threshold:.3f}")
        axes.plot(coverage, risk, "o", color=RED, markerfacecolor="none")
    axes.set_ylim(0, max(0.05, 1.05 * highest_risk))
    _label_percentages(axes, "coverage: vehicles answered", "risk: wrong answers")


def _label_percentages(axes: Axes, across: str, up: str) -> None:
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    legend_above(axes)
