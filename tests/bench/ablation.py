"""What each component of the model is worth: ``python -m tests.bench ablation``.

The whole training is repeated without one component at a time, and its predictions are compared, photo by
photo, with those of the full model.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import click
import numpy as np
from rich.progress import track
from sklearn.model_selection import GroupKFold, StratifiedShuffleSplit

from model.data import dataset
from model.data.dataset import Dataset
from model.evaluation import statistics
from model.labels import OTHER
from model.network import embedding, fusion, zero_shot
from model.network.backbone import LITE0, LITE2
from model.network.embedding import Embedding
from model.network.onnx_graph import Graph
from model.training import fitting, trainer
from pipeline.markdown import update_section
from tests import measurements
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "model.md"
BEGIN = "<!-- ablation -->"
RESULTS = Path(__file__).with_suffix(".json")

REPEATS = 5
"""Cross-validations on CIFAR, each with other folds."""
RESAMPLES = 2000
"""Bootstrap samples of the photos."""
PRECISION = 0.99
FEW_EACH, FEW_REPEATS = 20, 10
"""Pictures of each label to train on, and how many such trainings."""
SOURCE_GROUPS = 4
"""Groups of sources, each of which is left out of training in turn."""

METRICS = {
    "accuracy": ("accuracy, %", 100, 1),
    "negative_log_likelihood": ("negative log-likelihood", 1, 3),
    "aurc": ("area under risk-coverage, × 10,000", 10_000, 0),
    "coverage": ("coverage at 99% precision, %", 100, 1),
}
"""Each metric's heading, and its factor and digits in the table."""

LABELS = ("bicycle", "motorcycle", OTHER)
FULL = "full model"
CIFAR = "CIFAR, cross-validated"
FEW = "CIFAR, trained on 20 pictures of each label"
PHOTOS = "photos, trained on CIFAR"
SOURCES = "photos, other sources trained on too"

REDUCE_DETAIL = embedding.reduce_detail

type Patch = tuple[object, str, object]


@dataclass(frozen=True)
class Ablation:
    """How one component is taken out.

    Attributes
    ----------
    graph
        What to patch while the photos are embedded.
    fit
        What to patch while the head is fitted and used.
    kept
        Which numbers of the descriptor remain.
    """

    graph: Sequence[Patch] = ()
    fit: Sequence[Patch] = ()
    kept: slice | np.ndarray = slice(None)


def one_view(add: Callable[[Graph, str], None]) -> Callable[[Graph, str], None]:
    """Make a branch see the photo itself in all its views."""

    def add_one_view(graph: Graph, image: str) -> None:
        same = {"_mirror": lambda _, pixels: pixels, "_center_crop": lambda _, pixels: pixels}
        with patch.multiple(embedding, **same):
            add(graph, image)

    return add_one_view


def keep_resolution(graph: Graph, image: str) -> str:
    """Measure the detail, but leave it in the photo."""
    REDUCE_DETAIL(graph, image)
    return image


def matrix_itself(graph: Graph, matrix: str) -> str:
    """Return XX' instead of its square root."""
    return graph.add("MatMul", matrix, graph.add("Transpose", matrix, perm=[0, 2, 1]))


def of_single_channels() -> np.ndarray:
    """Index the numbers of the descriptor that concern one channel, not a pair of two."""
    pairs = [np.triu_indices(network.feature_maps["stage6"]) for network in (LITE0, LITE2)]
    return np.flatnonzero(np.concatenate([rows == columns for rows, columns in pairs]))


ABLATIONS: Mapping[str, Ablation] = {
    FULL: Ablation(),
    "second network (EfficientNet-Lite2)": Ablation(
        kept=slice(len(np.triu_indices(LITE0.feature_maps["stage6"])[0]))
    ),
    "low-resolution branch": Ablation(graph=[(embedding, "reduce_detail", keep_resolution)]),
    "its mirrored center crop": Ablation(
        graph=[(embedding, "add_low_resolution", one_view(embedding.add_low_resolution))]
    ),
    "views of the full-resolution branch": Ablation(
        graph=[(embedding, "add_full_resolution", one_view(embedding.add_full_resolution))]
    ),
    "bilinear pooling (single channels remain)": Ablation(kept=of_single_channels()),
    "matrix square root": Ablation(graph=[(embedding, "_matrix_square_root", matrix_itself)]),
    "detail gate": Ablation(graph=[(embedding, "NO_DETAIL", -2.0), (embedding, "FULL_DETAIL", -1.0)]),
    "detail discount": Ablation(fit=[(fitting, "DEFAULT_DETAIL_DISCOUNT", 0.0)]),
    "detail offset": Ablation(fit=[(fitting, "DEFAULT_DETAIL_OFFSET", 0.0)]),
    "ImageNet classes": Ablation(fit=[(zero_shot, "knows", lambda _: False)]),
    "novelty": Ablation(fit=[(fusion.NoveltyDetector, "novelty", lambda _, pooled: np.zeros(len(pooled)))]),
}
"""By component. A descriptor's first numbers are `LITE0`'s. With these bounds the detail is always 1."""


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    envvar="DATA",
    required=True,
    help="What `scones data` wrote. Only its training photos are used.",
)
@click.option(
    "--photos",
    type=click.Path(exists=True, path_type=Path),
    help="Large photos to evaluate on as well: folder/<label>/<source>-*.",
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def bench(data: Path, photos: Path | None, out: Path) -> None:
    """Train without one component at a time, and compare with the full model."""
    sets = [dataset.read(folder) for folder in (data, photos) if folder]
    full: dict[str, Evaluation] = {}
    found = []
    for name, ablation in track(ABLATIONS.items(), "Components"):
        evaluations = evaluate(ablation, sets)
        full = full or evaluations
        found += [
            {"component": name, "data": where, "photos": len(one.truth), **compare(full[where], one)}
            for where, one in evaluations.items()
        ]
    measurements.write(out, found, "ablation")
    if out == RESULTS:
        update_section(PAGE, BEGIN, table(found))
    click.echo(table(found))


class Evaluation(NamedTuple):
    """Predictions for photos that took no part in the training.

    Attributes
    ----------
    labels, truth
        The labels of the probabilities, and the index of each photo's, int [N].
    predictions
        Probabilities, one array for each repeat, float [N, labels]; NaN for photos that were trained on.
    """

    labels: tuple[str, ...]
    truth: np.ndarray
    predictions: list[np.ndarray]


def evaluate(ablation: Ablation, sets: Sequence[Dataset]) -> dict[str, Evaluation]:
    """Train without a component, and predict the photos held out, by data set."""
    with patched(ablation.graph):
        parts = rotated([trainer.embed_photos(photos) for photos in sets], ablation)
    with patched(ablation.fit):
        cifar, *rest = zip(sets, parts, strict=True)
        evaluations = {CIFAR: cross_validated(*cifar), FEW: trained_on_few(*cifar)}
        for photos, embeddings in rest:
            labels, truth = LABELS, np.array([LABELS.index(one) for one in photos.labels])[photos.targets]
            head = fitting.fit(cifar[1], cifar[0].targets, cifar[0].labels).head
            evaluations[PHOTOS] = Evaluation(labels, truth, [head.predict_proba(embeddings)])
            evaluations[SOURCES] = Evaluation(labels, truth, [by_source(*cifar, photos, embeddings)])
    return evaluations


@contextmanager
def patched(patches: Iterable[Patch]) -> Iterator[None]:
    """Patch attributes while in the context."""
    with ExitStack() as stack:
        for target, name, value in patches:
            stack.enter_context(patch.object(target, name, value))
        yield


def rotated(parts: Sequence[Embedding], ablation: Ablation) -> list[Embedding]:
    """Take out what is ablated of the descriptors, and rotate the rest.

    Descriptors are longer than there are photos. In a basis of the photos' own subspace they are shorter, and
    their products, all that a ridge regression depends on, are the same.
    """
    descriptor = np.concatenate([one.descriptor[:, ablation.kept] for one in parts]).astype(np.float64)
    variances, directions = np.linalg.eigh(descriptor @ descriptor.T)
    descriptor = (directions * np.sqrt(np.maximum(variances, 0))).astype(np.float32)
    ends = np.cumsum([len(one) for one in parts])[:-1]
    return [
        replace(one, descriptor=rows) for one, rows in zip(parts, np.split(descriptor, ends), strict=True)
    ]


def cross_validated(photos: Dataset, embeddings: Embedding) -> Evaluation:
    """Cross-validate repeatedly, with other folds each time."""
    predictions = []
    for repeat in range(REPEATS):
        with patch.object(fitting, "SEED", repeat):
            fit = fitting.fit(embeddings, photos.targets, photos.labels)
        predictions.append(fit.held_out)
    return Evaluation(fit.head.labels, photos.targets, predictions)


def trained_on_few(photos: Dataset, embeddings: Embedding) -> Evaluation:
    """Train on a few photos, and predict all others; those trained on have no prediction, NaN."""
    predictions = []
    draws = StratifiedShuffleSplit(FEW_REPEATS, train_size=FEW_EACH * len(photos.labels), random_state=0)
    for shown, others in draws.split(photos.targets, photos.targets):
        head = fitting.fit(embeddings[shown], photos.targets[shown], photos.labels).head
        probabilities = np.full((len(photos.targets), len(head.labels)), np.nan)
        probabilities[others] = head.predict_proba(embeddings[others])
        predictions.append(probabilities)
    return Evaluation(head.labels, photos.targets, predictions)


def by_source(cifar: Dataset, small: Embedding, photos: Dataset, large: Embedding) -> np.ndarray:
    """Predict the photos of each group of sources by training on CIFAR and all other sources."""
    sources = [path.name.partition("-")[0] for path in photos.paths]
    predictions = np.zeros((len(sources), len(LABELS)))
    embeddings = Embedding(
        *(np.concatenate([getattr(one, name) for one in (small, large)]) for name in embedding.OUTPUTS)
    )
    targets = np.array(
        [LABELS.index(cifar.labels[one]) for one in cifar.targets]
        + [LABELS.index(photos.labels[one]) for one in photos.targets]
    )
    first = len(small)
    for fitted, held_out in GroupKFold(SOURCE_GROUPS).split(photos.targets, groups=sources):
        shown = np.concatenate([np.arange(first), first + fitted])
        head = fitting.fit(embeddings[shown], targets[shown], LABELS).head
        predictions[held_out] = head.predict_proba(large[held_out])
    return predictions


def compare(full: Evaluation, without: Evaluation) -> dict[str, Any]:
    """Return each metric without a component, and its difference to the full model's with a 95% interval.

    The interval is a paired bootstrap's: both models are evaluated on the same photos drawn with replacement.
    """
    draws = np.random.default_rng(0).integers(0, len(full.truth), (RESAMPLES, len(full.truth)))
    values = metrics(without, np.arange(len(full.truth)))
    differences = values - metrics(full, np.arange(len(full.truth)))
    resampled = np.array([metrics(without, one) - metrics(full, one) for one in draws])
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    return {
        metric: {"value": value, "difference": difference, "interval": [bottom, top]}
        for metric, value, difference, bottom, top in zip(
            METRICS, *(one.round(6).tolist() for one in (values, differences, low, high)), strict=True
        )
    }


def metrics(evaluation: Evaluation, photos: np.ndarray) -> np.ndarray:
    """Return `METRICS` on some photos, by their indices, averaged over the repeats."""
    vehicles = np.array(evaluation.labels) != OTHER
    found = []
    for predictions in evaluation.predictions:
        predicted = photos[~np.isnan(predictions[photos, 0])]
        probabilities, truth = predictions[predicted], evaluation.truth[predicted]
        answers, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        right, vehicle = answers == truth, vehicles[answers]
        likelihood = probabilities[np.arange(len(truth)), truth]
        accepted = statistics.risk_by_coverage(confidence[vehicle], right[vehicle]) <= 1 - PRECISION
        found.append(
            [
                right.mean(),
                -np.log(np.maximum(likelihood, 1e-12)).mean(),
                statistics.risk_by_coverage(confidence, right).mean(),
                (np.flatnonzero(accepted).max(initial=-1) + 1) / len(truth),
            ]
        )
    return np.mean(found, axis=0)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Lay the results out in Markdown; differences whose interval, as rounded, excludes 0 are bold."""
    lines = []
    for where in dict.fromkeys(row["data"] for row in found):
        rows = [row for row in found if row["data"] == where]
        lines += ["", f"**{where}** ({rows[0]['photos']:,} photos)", ""]
        lines += [
            f"| without | {' | '.join(heading for heading, _, _ in METRICS.values())} |",
            f"|---|{'--:|' * len(METRICS)}",
        ]
        for row in rows:
            cells = [cell(row, metric) for metric in METRICS]
            name = f"*nothing ({FULL})*" if row["component"] == FULL else row["component"]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines).strip()


def cell(row: Mapping[str, Any], metric: str) -> str:
    _, factor, digits = METRICS[metric]
    if row["component"] == FULL:
        return f"{factor * row[metric]['value']:.{digits}f}"
    # adding 0 makes -0 positive
    rounded = [
        round(factor * one, digits) + 0.0 for one in (row[metric]["difference"], *row[metric]["interval"])
    ]
    difference, low, high = (f"{one:+.{digits}f}" for one in rounded)
    excludes_zero = rounded[1] > 0 or rounded[2] < 0
    return f"{f'**{difference}**' if excludes_zero else difference} ({low} to {high})"
