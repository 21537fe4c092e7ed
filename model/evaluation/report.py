"""Write an evaluation as metrics.json and as one HTML page that works offline and runs no scripts."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from model import charts
from model.evaluation import plots
from model.evaluation.evaluator import EvaluationError
from model.evaluation.metrics import Evaluation
from model.html_page import page, thumbnail

METRICS = "metrics.json"
REPORT = "report.html"


def render(evaluation: Evaluation, about: Mapping[str, str | None], folder: Path) -> str:
    """Render the page.

    Parameters
    ----------
    about
        ``model`` and ``data``; ``split`` and ``manifest_sha256``, which are ``None`` for a plain folder.
    folder
        The folder that the names of the photos are relative to.
    """
    reliability = charts.draw(plots.reliability, evaluation.calibration.bins)
    drawn = {
        "reliability": charts.svg(reliability, "reliability", "Reliability diagram: accuracy by confidence")
    }
    if evaluation.selection.risk:
        curve = charts.draw(plots.risk_coverage, evaluation)
        drawn["risk"] = charts.svg(curve, "risk", "Risk-coverage curve: share of wrong answers by coverage")
    return page("evaluation.html").render(
        about=about,
        evaluation=evaluation,
        plots={name: Markup(plot) for name, plot in drawn.items()},  # noqa: S704  Matplotlib escapes its text
        thumbnails=[thumbnail((folder / mistake.file).read_bytes()) for mistake in evaluation.mistakes],
    )


def write(out: Path, metrics: Mapping[str, Any], html: str) -> None:
    """Write both files; neither is ever there half-written.

    Raises
    ------
    EvaluationError
        The folder cannot be written.
    """
    files = {METRICS: json.dumps(metrics, indent=2) + "\n", REPORT: html}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out) as draft:
            for name, text in files.items():
                Path(draft, name).write_text(text, encoding="utf-8")
            for name in files:
                Path(draft, name).replace(out / name)
    except OSError as error:
        raise EvaluationError(f"{out} cannot be written ({error.strerror})") from error
