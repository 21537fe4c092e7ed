"""Plot the monthly bill by the number of photos."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from model import charts
from model.charts import AMBER, BLUE, RED, SOFT, TEAL
from pipeline.costs import bill

COLOURS = dict(zip(map(str, bill.SETTINGS), (AMBER, RED, BLUE, TEAL), strict=True))


def draw(photo: str, marked: Sequence[int]) -> bytes:
    """Return an SVG file; a dot marks the recommended setting at each number of photos in `marked`."""
    return charts.svg_file(charts.draw(_plot, photo, marked, size=charts.WIDE))


def _plot(axes: Axes, photo: str, marked: Sequence[int]) -> None:
    photos = np.geomspace(min(marked) / 3, max(marked) * 1.5, 60)
    baseline = [bill.baseline_design(n, photo).month for n in photos]
    axes.loglog(photos, baseline, color=SOFT, ls="--", lw=2, label=bill.BASELINE_DESIGN)
    for setting in bill.SETTINGS:
        months = [bill.project(setting, n, photo).month for n in photos]
        axes.loglog(photos, months, color=COLOURS[str(setting)], lw=2.2, label=str(setting))
    best = [bill.recommended(n, photo) for n in marked]
    axes.scatter(marked, [one.month for one in best], s=70, zorder=3, c=[COLOURS[one.design] for one in best])
    axes.set_xlabel("photos a month")
    axes.set_ylabel("dollars a month")
    axes.set_xticks(marked, [f"{n:,}" for n in marked])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.legend(loc="upper left")
