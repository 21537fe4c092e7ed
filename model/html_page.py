"""Render an HTML report that needs no network: templates, number formats and thumbnails."""

import base64
import io
from pathlib import Path
from typing import Protocol

import jinja2
from PIL import Image

from model.photo import read_pixels

PAGES = Path(__file__).parent / "pages"
THUMBNAIL = 160
"""Pixels, shown at no more than that."""


class Bounds(Protocol):
    """A figure's confidence interval, as shares from 0 to 1."""

    @property
    def low(self) -> float:
        """The lower bound."""

    @property
    def high(self) -> float:
        """The upper bound."""


def page(template: str, folder: Path = PAGES) -> jinja2.Template:
    """Return a page's template from a folder; it may extend and include those of `PAGES`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, PAGES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval}
    return environment.get_template(template)


def percent(value: float) -> str:
    """Put a share in words: 0.9651 is ``96.5%``."""
    return f"{value:.1%}"


def interval(share: Bounds) -> str:
    """Put its interval in words: ``93.0 to 98.3%``."""
    return f"{share.low * 100:.1f} to {share.high:.1%}"


def thumbnail(photo: bytes) -> str:
    """Return a photo as the model is given it, small, as a data URI."""
    file = io.BytesIO()
    Image.fromarray(read_pixels(photo, THUMBNAIL)).save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
