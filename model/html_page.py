"""Render HTML reports that work offline: templates, colours, number formats and thumbnails."""

import base64
import io
from pathlib import Path
from typing import Protocol

import jinja2
from PIL import Image

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
"""Longer side of a thumbnail in pixels."""


class Bounds(Protocol):
    """A confidence interval of a share, each bound from 0 to 1."""

    @property
    def low(self) -> float: ...  # noqa: D102

    @property
    def high(self) -> float: ...  # noqa: D102


def page(template: str, folder: Path = PAGES) -> jinja2.Template:
    """Load a page's template from a folder; it may extend and include the templates in `PAGES`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, PAGES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval}
    environment.globals |= {"palette": PALETTE}
    return environment.get_template(template)


def percent(value: float) -> str:
    """Format a share: 0.9651 becomes ``96.5%``."""
    return f"{value:.1%}"


def interval(share: Bounds) -> str:
    """Format a confidence interval: ``93.0 to 98.3%``."""
    return f"{share.low * 100:.1f} to {share.high:.1%}"


def thumbnail(photo: bytes) -> str:
    """Return a photo, oriented as the model sees it, as a small JPEG in a data URI."""
    file = io.BytesIO()
    Image.fromarray(read_pixels(photo, THUMBNAIL)).save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
