"""Write an evaluation as metrics.json and as one HTML page that works offline and runs no scripts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model import charts, html_page, storage
from model.evaluation import plots
from model.evaluation.metrics import Evaluation


def render(evaluation: Evaluation, about: Mapping[str, str | None], folder: Path) -> str:
    """Render the page.

    Parameters
    ----------
    about
        ``model`` and ``data``; ``split`` and ``manifest_sha256``, which are ``None`` for a plain folder.
    folder
        The folder that the names of the photos are relative to.
    """
    return html_page.page("evaluation.html").render(
        about=about,
        evaluation=evaluation,
        figures=plots.draw(evaluation),
        svg=charts.svg,
        thumbnail=lambda file: html_page.thumbnail((folder / file).read_bytes()),
    )


def write(out: Path, metrics: Mapping[str, Any], html: str) -> None:
    """Write metrics.json and report.html."""
    metrics_json = json.dumps(metrics, indent=2) + "\n"
    storage.write_files(out, {"metrics.json": metrics_json.encode(), "report.html": html.encode()})
