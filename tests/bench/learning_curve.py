"""Learning curve, accuracy by the number of training photos: ``python -m tests.bench learning_curve``.

The whole training, with cross-validation, calibration and threshold, is repeated on a part of the photos and
evaluated on the rest.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich.progress import track
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedShuffleSplit

from model.charts import AMBER, BLUE, SOFT, STYLE, TEAL, svg_file
from model.data import dataset
from model.evaluation import statistics
from model.labels import OTHER
from model.network.embedding import Embedding
from model.training import fitting, trainer
from tests import measurements
from tests.conftest import ROOT

EACH = (10, 20, 40, 80, 160, 320)
"""Training photos of each label; the last point is 10-fold cross-validation on all photos."""
PRECISION = 0.99
COLOURS = {"accuracy": BLUE, "coverage": AMBER, "precision": TEAL}
NAMES = {"accuracy": "accuracy", "coverage": "coverage", "precision": "precision of accepted answers"}
PLOT = ROOT / "docs" / "learning-curve.svg"


@dataclass(frozen=True)
class Evaluation:
    """Results of trainings on equally many photos, pooled: shares of the photos evaluated on."""

    trained_on: int
    evaluated_on: int
    accuracy: float
    coverage: float
    precision: float
    calibration_error: float


type Split = tuple[np.ndarray, np.ndarray]
"""Indices of the photos to train on and of those to evaluate on."""


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    envvar="DATA",
    required=True,
    help="What `scones data` wrote, or folder/<label>/*. Only its training photos are used.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=6, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).with_suffix(".json"), show_default=True
)
def bench(data: Path, repeats: int, out: Path) -> None:
    """Train on 10 photos of each label, on 20 and so on, and evaluate on the other photos."""
    photos = trainer.sample(dataset.read(data), most=2000)
    if np.bincount(photos.targets).min() < 2 * EACH[0]:
        raise click.UsageError(f"{data} has too few photos: at least {2 * EACH[0]} of each label are needed")
    embeddings = trainer.embed_photos(photos)
    found = []
    for splits in splittings(photos.targets, repeats):
        rounds = track(splits, f"{len(splits[0][0][0])} photos")
        found.append([asdict(evaluate(photos, embeddings, together)) for together in rounds])
    measurements.write(out, found, "learning_curve")
    PLOT.write_bytes(draw(found))
    for size in found:
        means = {name: np.mean([row[name] for row in size]) for name in size[0]}
        click.echo("  ".join(f"{name} {value:.4g}" for name, value in means.items()))


def splittings(targets: np.ndarray, repeats: int) -> Iterator[list[list[Split]]]:
    """Yield, for each number of photos, the splits of each repeat, which are evaluated together."""
    labels = int(targets.max()) + 1
    for each in EACH:
        if each < np.bincount(targets).min() * 0.9:
            draws = StratifiedShuffleSplit(repeats, train_size=each * labels, random_state=0)
            yield [[split] for split in draws.split(targets, targets)]
    tenths = RepeatedStratifiedKFold(n_splits=10, n_repeats=repeats, random_state=0).split(targets, targets)
    yield [[next(tenths) for _ in range(10)] for _ in range(repeats)]


def evaluate(photos: dataset.Dataset, embeddings: Embedding, splits: Sequence[Split]) -> Evaluation:
    """Train on each split, and evaluate each model with its threshold on the rest."""

    def answer(split: Split) -> tuple[np.ndarray, ...]:
        train, test = split
        shown = photos.select(train)
        fit = fitting.fit(embeddings[train], shown.targets, shown.labels)
        threshold = trainer.evaluate("learning-curve", shown, fit, PRECISION).threshold.value
        probabilities = fit.head.predict_proba(embeddings[test])
        predicted = np.array(fit.head.labels)[probabilities.argmax(axis=1)]
        confidence = probabilities.max(axis=1)
        right = predicted == np.array(photos.labels)[photos.targets[test]]
        return right, confidence, (predicted != OTHER) & (confidence >= threshold)

    with ThreadPoolExecutor(os.process_cpu_count()) as pool:
        right, confidence, accepted = map(np.concatenate, zip(*pool.map(answer, splits), strict=True))
    return Evaluation(
        trained_on=len(splits[0][0]),
        evaluated_on=len(right),
        accuracy=float(right.mean()),
        coverage=float(accepted.mean()),
        precision=float(right[accepted].mean()) if accepted.any() else 1.0,
        calibration_error=statistics.calibration_error(statistics.equal_width_bins(confidence, right)) or 0.0,
    )


def draw(found: Sequence[Sequence[dict[str, Any]]]) -> bytes:
    """Draw the means by number of training photos, with bands from minimum to maximum, as SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.0))
        axes = figure.add_subplot()
        across = [size[0]["trained_on"] for size in found]
        for name, colour in COLOURS.items():
            shares = [[100 * row[name] for row in size] for size in found]
            axes.fill_between(
                across, list(map(min, shares)), list(map(max, shares)), color=colour, alpha=0.15, lw=0
            )
            axes.plot(across, list(map(np.mean, shares)), color=colour, marker="o", label=NAMES[name])
        axes.axhline(100 * PRECISION, color=SOFT, ls="--", lw=0.8)
        axes.set_xscale("log")
        axes.set_xticks(across, [f"{number:,}" for number in across])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("training photos of both labels")
        axes.set_ylabel("% of held-out photos")
        axes.legend(frameon=False, loc="lower right")
    return svg_file(figure)
