"""Write an evaluation as metrics.json and as one HTML page that works offline and runs no scripts."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from model import charts, html_page, storage
from model.evaluation import plots
from model.evaluation.metrics import Evaluation


def write(out: Path, evaluation: Evaluation, about: Mapping[str, str | None], folder: Path) -> None:
    """Write metrics.json and report.html.

    The names of the photos are relative to `folder`. The page needs the keys ``model``, ``data``, ``split``
    and ``manifest_sha256`` in `about`; the last two are ``None`` for a plain folder.
    """
    page = html_page.page("evaluation.html").render(
        about=about,
        evaluation=evaluation,
        figures=plots.draw(evaluation),
        svg=charts.svg,
        thumbnail=lambda file: html_page.thumbnail((folder / file).read_bytes()),
    )
    storage.write_files(out, html_page.report_files(page, {**about, **asdict(evaluation)}))
