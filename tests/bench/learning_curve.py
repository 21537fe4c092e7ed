"""How right, by how many photos it learned from: ``python -m tests.bench learning_curve``.

The whole training is repeated on some of the photos, with cross-validation, calibration and threshold, and
judged on the rest, which took no part in any of it.
"""

import json
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
from model.network.fusion import Seen
from model.training import fitting, trainer
from tests.conftest import ROOT

EACH = (10, 20, 40, 80, 160, 320)
"""Photos of a label to learn from; the last training of all leaves out a tenth, in turn."""
PRECISION = 0.99
COLOURS = {"right": BLUE, "accepted": AMBER, "accepted_right": TEAL}
NAMES = {"right": "accuracy", "accepted": "coverage", "accepted_right": "selective precision"}
PLOT = ROOT / "docs" / "learning-curve.svg"


@dataclass(frozen=True)
class Judged:
    """What trainings on so many photos came to, together: on how many others, and what share of them."""

    trained_on: int
    judged_on: int
    right: float
    accepted: float
    accepted_right: float
    calibration_error: float


type Split = tuple[np.ndarray, np.ndarray]
"""The photos to learn from and those to be judged on."""


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    envvar="DATA",
    required=True,
    help="What `scones data` wrote, or folder/<label>/*. Its training photos alone are looked at.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=6, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).with_suffix(".json"), show_default=True
)
def bench(data: Path, repeats: int, out: Path) -> None:
    """Train on 10 photos of a label, on 20 and so on, and judge each model on photos it never saw."""
    photos = trainer.sample(dataset.read(data), most=2000)
    if np.bincount(photos.targets).min() < 2 * EACH[0]:
        raise click.UsageError(f"{data} has too few photos: it takes {2 * EACH[0]} of each label")
    seen = trainer.embed_photos(photos)
    found = []
    for splits in splittings(photos.targets, repeats):
        rounds = track(splits, f"{len(splits[0][0][0])} photos")
        found.append([asdict(judge(photos, seen, together)) for together in rounds])
    out.write_text(json.dumps(found, indent=2) + "\n")
    PLOT.write_bytes(draw(found))
    for size in found:
        means = {name: np.mean([row[name] for row in size]) for name in size[0]}
        click.echo("  ".join(f"{name} {value:.4g}" for name, value in means.items()))


def splittings(targets: np.ndarray, repeats: int) -> Iterator[list[list[Split]]]:
    """For each number of photos, so many times, the splits that are judged together."""
    labels = int(targets.max()) + 1
    for each in EACH:
        if each < np.bincount(targets).min() * 0.9:
            draws = StratifiedShuffleSplit(repeats, train_size=each * labels, random_state=0)
            yield [[split] for split in draws.split(targets, targets)]
    tenths = RepeatedStratifiedKFold(n_splits=10, n_repeats=repeats, random_state=0).split(targets, targets)
    yield [[next(tenths) for _ in range(10)] for _ in range(repeats)]


def judge(photos: dataset.Dataset, seen: Seen, splits: Sequence[Split]) -> Judged:
    """Train on each split's photos, and judge each model, with its threshold, on the others."""

    def answer(split: Split) -> tuple[np.ndarray, ...]:
        learned, unseen = split
        shown = photos.select(learned)
        fit = fitting.fit(seen[learned], shown.targets, shown.labels)
        threshold = trainer.evaluate("learning-curve", shown, fit, PRECISION).threshold.value
        probabilities = fit.head.probabilities(seen[unseen])
        answered = np.array(fit.head.labels)[probabilities.argmax(axis=1)]
        confidence = probabilities.max(axis=1)
        right = answered == np.array(photos.labels)[photos.targets[unseen]]
        return right, confidence, (answered != OTHER) & (confidence >= threshold)

    with ThreadPoolExecutor(os.process_cpu_count()) as pool:
        right, confidence, accepted = map(np.concatenate, zip(*pool.map(answer, splits), strict=True))
    return Judged(
        trained_on=len(splits[0][0]),
        judged_on=len(right),
        right=float(right.mean()),
        accepted=float(accepted.mean()),
        accepted_right=float(right[accepted].mean()) if accepted.any() else 1.0,
        calibration_error=statistics.calibration_error(statistics.equal_width_bins(confidence, right)) or 0.0,
    )


def draw(found: Sequence[Sequence[dict[str, Any]]]) -> bytes:
    """Draw the means by the photos trained on, and the band from the least to the most, as SVG."""
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
        axes.set_xlabel("photos to learn from, of both labels")
        axes.set_ylabel("% of photos never seen")
        axes.legend(frameon=False, loc="lower right")
    return svg_file(figure)
