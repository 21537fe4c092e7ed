"""The plot of what a month costs, by the number of photos in it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from pipeline.costs import bill

if TYPE_CHECKING:
    from collections.abc import Sequence

INK = "#74808d"
"""Text and axes: to be read on white and on black, as are the lines' colours."""
COLOURS = {
    "Standard, real-time": "#c98a1b",
    "Standard, serverless": "#d0574c",
    "Express, real-time": "#3f8fd2",
    "Express, serverless": "#27a08f",
}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "scones",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
}


def draw(photo: str, marked: Sequence[int]) -> bytes:
    """Draw dollars a month against photos a month, both on a logarithmic scale, as SVG.

    Parameters
    ----------
    photo
        Which of the measured photos they are like.
    marked
        Photos a month at which the recommended setting has a dot.
    """
    photos = np.geomspace(min(marked) / 3, max(marked) * 1.5, 60)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.4))
        axes = figure.add_subplot()
        axes.loglog(
            photos,
            [bill.original(n, photo).month for n in photos],
            color=INK,
            ls="--",
            lw=2,
            label="the original",
        )
        for setting in bill.SETTINGS:
            month = [bill.project(setting, n, photo).month for n in photos]
            axes.loglog(photos, month, color=COLOURS[str(setting)], lw=2.2, label=str(setting))
        best = [bill.recommended(number, photo) for number in marked]
        axes.scatter(
            marked, [one.month for one in best], s=70, zorder=3, c=[COLOURS[one.design] for one in best]
        )
        axes.set_xlabel("photos a month")
        axes.set_ylabel("dollars a month")
        axes.set_xticks(marked, [f"{number:,}" for number in marked])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.legend(frameon=False, loc="upper left")
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
