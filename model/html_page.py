"""Render HTML reports that work offline: templates, colours, number formats and thumbnails."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from model.foreign_text import printable
from model.photo import read_pixels

PAGES = Path(__file__).parent / "pages"
PALETTE = {
    "ink": ("#1d2733", "#e6ebf0"),
    "soft": ("#5a6775", "#9aa7b4"),
    "line": ("#d9dfe5", "#33404d"),
    "paper": ("#ffffff", "#12181f"),
    "card": ("#f5f7f9", "#1b232c"),
    "blue": ("#1f6fb5", "#6bb3f0"),
    "red": ("#b3372b", "#f08a7e"),
    "amber": ("#a86a00", "#e0a84a"),
    "teal": ("#2a8c82", "#5cc4b8"),
}
"""The colours of pages and charts, for light and dark mode; ``var(--ink)`` and so on in CSS."""
THUMBNAIL = 160
"""Pixels of a thumbnail's side."""
REPORT = "report.html"


def page(template: str, folder: Path = PAGES) -> jinja2.Template:
    """Load a page's template from a folder; it may extend or include the templates in `PAGES`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, PAGES]),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = "{:.1%}".format
    environment.globals |= {"palette": PALETTE, "interval": interval}
    return environment.get_template(template)


def _printable(value: object) -> object:
    """Escape what autoescaping leaves: a bidirectional override reverses what follows it on the page."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, limit=None)
    return value


def interval(low: float, high: float) -> str:
    """Format the confidence interval of a share: ``93.0 to 98.3%``."""
    return f"{low * 100:.1f} to {high:.1%}"


def thumbnail(photo: bytes) -> str:
    """Return a photo, upright and padded as for the model, as a small JPEG in a data URI."""
    file = io.BytesIO()
    Image.fromarray(read_pixels(photo, THUMBNAIL)).save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def report_files(page: str, metrics: Mapping[str, Any]) -> dict[str, bytes]:
    """Return a report's files by name: the page and, for programs, ``metrics.json``."""
    return {REPORT: page.encode(), "metrics.json": (json.dumps(metrics, indent=2) + "\n").encode()}
