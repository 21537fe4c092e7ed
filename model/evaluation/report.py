"""An evaluation as one HTML page that needs nothing else: no network, no scripts, plots and photos inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.evaluation import statistics
from model.evaluation.metrics import Evaluation
from model.html_page import page, thumbnail

TOPS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1)
"""How far up the axis of the risk goes, divided by five without a fraction of a percent."""


@dataclass(frozen=True)
class Axis:
    """From a figure to its place in a plot.

    Attributes
    ----------
    start, end
        Where 0 and `top` are drawn, in the plot's units.
    top
        The largest figure.
    """

    start: float
    end: float
    top: float = 1

    def __call__(self, figure: float) -> float:
        """Return where a figure is drawn."""
        return round(self.start + (self.end - self.start) * figure / self.top, 2)

    @property
    def ticks(self) -> list[float]:
        """Figures to write beside it."""
        return [self.top * fifth / 5 for fifth in range(6)]


def render(evaluation: Evaluation, about: Mapping[str, str | None], folder: Path) -> str:
    """Write the page.

    Parameters
    ----------
    evaluation
        What to show.
    about
        ``model``, ``data``, and for a data set ``split`` and ``manifest_sha256``, otherwise ``None``.
    folder
        Where the photos of the mistakes are.
    """
    highest_risk = max(evaluation.selection.risk, default=0)
    return page("evaluation.html").render(
        about=about,
        evaluation=evaluation,
        x=Axis(52, 352),
        y=Axis(232, 12),
        y_risk=Axis(232, 12, top=next(top for top in TOPS if highest_risk <= top)),
        at_threshold=at_threshold(evaluation),
        whiskers=[
            statistics.share(round(one.accuracy * one.n), one.n) for one in evaluation.calibration.bins
        ],
        thumbnails=[thumbnail((folder / mistake.file).read_bytes()) for mistake in evaluation.mistakes],
    )


def at_threshold(evaluation: Evaluation) -> tuple[float, float] | None:
    """Return the coverage of vehicles and the risk at the threshold; ``None`` if no vehicle is accepted."""
    coverage = evaluation.at_threshold.coverage
    precision = evaluation.at_threshold.precision_of_vehicles
    return (coverage.value, 1 - precision.value) if coverage and precision else None
