"""Everything an evaluation reports about predictions for labelled photos."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score

from functions.filter.decision import decide
from model.evaluation import statistics
from model.evaluation.statistics import Bin, Bools, Floats, Integers, Share
from model.labels import OTHER

MAX_MISTAKES = 24
MAX_CURVE_POINTS = 200


@dataclass(frozen=True)
class Predictions:
    """A model's answers to N photos: `probabilities` [N, K] of K labels.

    A true label is one of the labels or ``other``; `threshold` is the minimum confidence that is accepted;
    `seconds` [N] include the decoding.
    """

    labels: Sequence[str]
    threshold: float
    probabilities: Floats
    seconds: Floats
    files: Sequence[str]
    true_labels: Sequence[str]


@dataclass(frozen=True)
class ForLabel:
    """Metrics of one label; `auc` is that of its probability, this label against all others."""

    precision: Share | None
    recall: Share | None
    f1: Share | None
    auc: float | None


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix: a row of `counts` for each true label, a column for each predicted one."""

    shown: list[str]
    answered: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class Calibration:
    """Calibration over the `n` photos whose label the model has; `ece` is computed from the `bins`."""

    n: int
    ece: float | None
    ece_equal_mass: float | None
    brier: float | None
    bins: list[Bin]


@dataclass(frozen=True)
class Selection:
    """The risk-coverage curve of the photos of vehicles, ordered by the probability of the likeliest vehicle.

    `risk` is the share of wrong answers if only the share `coverage` is answered; `aurc` is the area
    under the curve.
    """

    aurc: float | None
    coverage: list[float]
    risk: list[float]


@dataclass(frozen=True)
class AtThreshold:
    """The pipeline's decisions: the shares of vehicles and of other photos that it accepts, right or wrong.

    To accept anything but a vehicle lowers `precision`, which thus depends on how many other photos the data
    set has; `precision_of_vehicles` does not. Both are of accepted answers (selective precision).
    """

    threshold: float
    coverage: Share | None
    precision: Share | None
    precision_of_vehicles: Share | None
    others_accepted: Share | None


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the true label is `shown`, the predicted one `answered`."""

    file: str
    shown: str
    answered: str
    confidence: float
    accepted: bool


@dataclass(frozen=True)
class Evaluation:
    """The content of metrics.json; a metric without any photos to measure it on is ``None``.

    `accuracy` is that on photos of vehicles, `auc_of_pairs` the AUC over the photos of only two vehicles.
    """

    n: int
    photos: dict[str, int]
    accuracy: Share | None
    labels: dict[str, ForLabel]
    confusion: Confusion
    auc_of_pairs: dict[str, float | None]
    calibration: Calibration
    selection: Selection
    at_threshold: AtThreshold
    seconds_per_photo: dict[str, float]
    mistakes: list[Mistake]


def evaluate(predictions: Predictions) -> Evaluation:
    """Compute all metrics; raise `InferencesError` if an answer does not consist of probabilities."""
    labels, probabilities = predictions.labels, predictions.probabilities
    # a model without the label other is still evaluated on photos of it
    names = [*labels, *({OTHER} - set(labels))]
    truth = np.array([names.index(name) for name in predictions.true_labels], np.int64)
    # decided as the pipeline's filter does
    decisions = (decide(answer, labels, predictions.threshold) for answer in probabilities.tolist())
    accepted = np.array([decision["decision"] == "accepted" for decision in decisions])
    predicted = probabilities.argmax(axis=1)
    correct = truth == predicted
    vehicle = truth != names.index(OTHER)
    counts = confusion_matrix(truth, predicted, labels=range(len(names)))[:, : len(labels)]
    return Evaluation(
        n=len(truth),
        photos={name: int(n) for name, n in zip(names, counts.sum(axis=1), strict=True) if n},
        accuracy=statistics.share_of(correct, vehicle),
        labels={label: _for_label(k, counts, truth, probabilities) for k, label in enumerate(labels)},
        confusion=Confusion(names, list(labels), counts.tolist()),
        auc_of_pairs=_auc_of_pairs(labels, truth, probabilities),
        calibration=_calibration(truth, probabilities),
        selection=_selection(labels, truth, probabilities),
        at_threshold=AtThreshold(
            threshold=predictions.threshold,
            coverage=statistics.share_of(accepted, vehicle),
            precision=statistics.share_of(correct, accepted),
            precision_of_vehicles=statistics.share_of(correct, accepted & vehicle),
            others_accepted=statistics.share_of(accepted, ~vehicle),
        ),
        seconds_per_photo={
            "mean": float(predictions.seconds.mean()),
            "median": float(np.median(predictions.seconds)),
            "p95": float(np.quantile(predictions.seconds, 0.95)),
        },
        mistakes=_mistakes(predictions, accepted),
    )


def roc_auc(score: Floats, positive: Bools) -> float | None:
    """Return the area under the ROC curve; ``None`` if all photos, or none, are positive."""
    return float(roc_auc_score(positive, score)) if positive.any() and not positive.all() else None


def brier(probabilities: Floats, truth: Integers) -> float | None:
    """Return the multi-class Brier score, 0 (best) to 2, of probabilities [N, K]; ``None`` if N is 0."""
    if not len(truth):
        return None
    with warnings.catch_warnings():
        # an endpoint may round its answer, so that the sum is not quite 1
        warnings.filterwarnings("ignore", "The y_prob values do not sum to one")
        labels = range(probabilities.shape[1])
        return float(brier_score_loss(truth, probabilities, labels=labels, scale_by_half=False))


def _for_label(k: int, counts: Integers, truth: Integers, probabilities: Floats) -> ForLabel:
    both, actual, predicted = int(counts[k, k]), int(counts[k].sum()), int(counts[:, k].sum())
    has_label = truth < probabilities.shape[1]
    return ForLabel(
        precision=statistics.share(both, predicted),
        recall=statistics.share(both, actual),
        f1=statistics.f1(both, actual + predicted - both),
        auc=roc_auc(probabilities[has_label, k], truth[has_label] == k),
    )


def _auc_of_pairs(labels: Sequence[str], truth: Integers, probabilities: Floats) -> dict[str, float | None]:
    areas = {}
    for i, j in combinations([k for k, label in enumerate(labels) if label != OTHER], 2):
        pair = (truth == i) | (truth == j)
        # sorts like p_i / (p_i + p_j), which may be 0 / 0
        score = np.arctan2(probabilities[pair, i], probabilities[pair, j])
        areas[f"{labels[i]} against {labels[j]}"] = roc_auc(score, truth[pair] == i)
    return areas


def _calibration(truth: Integers, probabilities: Floats) -> Calibration:
    has_label = truth < probabilities.shape[1]
    truth, probabilities = truth[has_label], probabilities[has_label]
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = statistics.equal_width_bins(confidence, correct)
    return Calibration(
        n=len(truth),
        ece=statistics.calibration_error(bins),
        ece_equal_mass=statistics.calibration_error(statistics.equal_mass_bins(confidence, correct)),
        brier=brier(probabilities, truth),
        bins=bins,
    )


def _selection(labels: Sequence[str], truth: Integers, probabilities: Floats) -> Selection:
    vehicles = [k for k, label in enumerate(labels) if label != OTHER]
    shows_vehicle = np.isin(truth, vehicles)
    of_vehicles = probabilities[np.ix_(shows_vehicle, vehicles)]
    correct = np.array(vehicles)[of_vehicles.argmax(axis=1)] == truth[shows_vehicle]
    risk = statistics.risk_by_coverage(of_vehicles.max(axis=1), correct)
    n = len(risk)
    points = np.unique(np.linspace(0, n - 1, min(n, MAX_CURVE_POINTS)).round().astype(int))
    return Selection(
        aurc=float(risk.mean()) if n else None,
        coverage=((points + 1) / max(n, 1)).tolist(),
        risk=risk[points].tolist(),
    )


def _mistakes(predictions: Predictions, accepted: Bools) -> list[Mistake]:
    confidence = predictions.probabilities.max(axis=1).tolist()
    predicted = [predictions.labels[k] for k in predictions.probabilities.argmax(axis=1)]
    answers = map(
        Mistake, predictions.files, predictions.true_labels, predicted, confidence, accepted.tolist()
    )
    mistakes = [answer for answer in answers if answer.answered != answer.shown]
    return sorted(mistakes, key=lambda mistake: -mistake.confidence)[:MAX_MISTAKES]
