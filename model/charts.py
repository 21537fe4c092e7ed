"""The look of every chart, and its formats: PNG, SVG inside an HTML page, and SVG as a file.

A figure is drawn once, in the light colours of `html_page.PALETTE`. SVG refers to them as CSS variables, so
that it follows the reader's light or dark mode.
"""

import html
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.html_page import PALETTE

INK, SOFT, LINE, PAPER, _, BLUE, RED, AMBER, TEAL = (light for light, _ in PALETTE.values())
SIZE = (5.2, 3.4)
"""Inches; at a width of 400 pixels the text is still legible."""
WIDE = (7.6, 4.4)
"""Inches, for a chart across the whole page."""
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
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": SOFT,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "legend.columnspacing": 1.1,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.5,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "figure.constrained_layout.use": True,
}


def draw(plot: Callable[..., None], *data: object, size: tuple[float, float] = SIZE) -> Figure:
    """Call ``plot(axes, *data)`` with the axes of a new figure; `size` is in inches."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        plot(figure.subplots(), *data)
    return figure


def legend_above(axes: Axes) -> None:
    """Put the legend in a row above the axes, where it hides no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4)


def png(figure: Figure) -> bytes:
    """Render a PNG file."""
    return _saved(figure, "png", dpi=144)


def svg(figure: Figure, name: str, description: str) -> Markup:
    """Render an SVG element for a page made from ``page.html``, which defines the colours.

    `name` prefixes the element's ids and must be unique in the page; `description` is its alternative text.
    """
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", _svg(figure))
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'\b(id="|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
    return Markup(text)  # noqa: S704  Matplotlib has escaped its text


def svg_file(figure: Figure) -> bytes:
    """Render an SVG file with a transparent background, legible in light and in dark mode."""
    light, dark = (
        " ".join(f"--{name}: {colours[mode]};" for name, colours in PALETTE.items()) for mode in (0, 1)
    )
    style = f"<style>:root {{ {light} }} @media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>"
    text = re.sub(r"(<svg[^>]*>)", rf"\1\n {style}", _svg(figure), count=1)
    return f'<?xml version="1.0" encoding="utf-8" standalone="no"?>\n{text}'.encode()


def _svg(figure: Figure) -> str:
    for artist in figure.findobj():
        artist.set_clip_on(False)  # nothing lies outside the axes; a clip path would be one more id
    without_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    text = _saved(figure, "svg", transparent=True, metadata=without_metadata).decode()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    for name, (light, _) in PALETTE.items():
        text = text.replace(light, f"var(--{name})")
    return text


def _saved(figure: Figure, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format=kind, **options)  # type: ignore[arg-type]
    return file.getvalue()
