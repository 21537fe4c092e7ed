"""An evaluation as one HTML page that needs nothing else: no network, no scripts, plots and photos inside."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
from PIL import Image

from model.evaluation import measures
from model.evaluation.figures import Evaluation
from model.evaluation.measures import Share
from model.network.photo import read_pixels

THUMBNAIL = 160
"""Pixels, shown at no more than that."""
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
        whiskers=[measures.share(round(one.accuracy * one.n), one.n) for one in evaluation.calibration.bins],
        thumbnails=[thumbnail((folder / mistake.file).read_bytes()) for mistake in evaluation.mistakes],
    )


def page(template: str) -> jinja2.Template:
    """Return a page's template, one of those in `model/pages`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval}
    return environment.get_template(template)


def at_threshold(evaluation: Evaluation) -> tuple[float, float] | None:
    """Return the coverage of vehicles and the risk at the threshold; ``None`` if no vehicle is accepted."""
    coverage = evaluation.at_threshold.coverage
    precision = evaluation.at_threshold.precision_of_vehicles
    return (coverage.value, 1 - precision.value) if coverage and precision else None


def percent(value: float) -> str:
    """Put a share in words: 0.9651 is ``96.5%``."""
    return f"{value:.1%}"


def interval(share: Share) -> str:
    """Put its interval in words: ``93.0 to 98.3%``."""
    return f"{share.low * 100:.1f} to {share.high:.1%}"


def thumbnail(photo: bytes) -> str:
    """Return a photo as the model is given it, small, as a data URI."""
    file = io.BytesIO()
    Image.fromarray(read_pixels(photo, THUMBNAIL)).save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
