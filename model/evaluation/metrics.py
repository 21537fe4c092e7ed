"""What an evaluation says: every figure about a model's answers to photos whose labels are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from functions.filter.decision import decide
from model.evaluation import statistics
from model.evaluation.statistics import Bin, Bools, Floats, Integers, Share
from model.labels import OTHER

MISTAKES = 24
"""How many are kept."""
POINTS = 200
"""At most about so many make a curve."""


@dataclass(frozen=True)
class Answers:
    """What a model answered to N photos.

    Attributes
    ----------
    labels
        What the probabilities are of, in their order: K labels.
    threshold
        The least confidence, 0 to 1, at which an answer is accepted.
    probabilities
        Float [N, K].
    seconds
        What each photo took, float [N].
    files
        The photos' names, N of them.
    shown
        What they show, N of them: each one of the labels, or ``other``.
    """

    labels: Sequence[str]
    threshold: float
    probabilities: Floats
    seconds: Floats
    files: Sequence[str]
    shown: Sequence[str]


@dataclass(frozen=True)
class ForLabel:
    """How right the answers are for one label.

    `auc` tells photos of this label from all others by its probability.
    """

    precision: Share | None
    recall: Share | None
    f1: Share | None
    auc: float | None


@dataclass(frozen=True)
class Confusion:
    """Photos counted by what they show (`counts`' rows) and what was answered (its columns)."""

    shown: list[str]
    answered: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class Calibration:
    """How near the confidence is to the share of right answers.

    Over the photos of labels that the model has. `ece` and `bins` are of equal width, `ece_equal_mass` is of
    bins with equally many answers.
    """

    n: int
    ece: float | None
    ece_equal_mass: float | None
    brier: float | None
    bins: list[Bin]


@dataclass(frozen=True)
class Selection:
    """What a threshold does: answer fewer vehicles, and more of these rightly.

    Over photos of vehicles, by the probability of the likeliest vehicle: `risk` is the share of wrong answers
    when only a share `coverage` is answered, `aurc` the area under that curve.
    """

    aurc: float | None
    coverage: list[float]
    risk: list[float]


@dataclass(frozen=True)
class AtThreshold:
    """What the pipeline would make of the photos.

    Attributes
    ----------
    threshold
        The least confidence at which it accepts.
    coverage
        The share of vehicles that is accepted, rightly or not.
    precision
        The share of accepted photos that is right; something else than a vehicle never is.
    precision_of_vehicles
        The same among vehicles alone, since how many others there are is up to who chose the photos.
    others_accepted
        The share of photos of something else that is accepted as a vehicle.
    """

    threshold: float
    coverage: Share | None
    precision: Share | None
    precision_of_vehicles: Share | None
    others_accepted: Share | None


@dataclass(frozen=True)
class Mistake:
    """A wrong answer."""

    file: str
    shown: str
    answered: str
    confidence: float
    accepted: bool


@dataclass(frozen=True)
class Seconds:
    """How long a photo takes, decoding included."""

    mean: float
    median: float
    p95: float


@dataclass(frozen=True)
class Evaluation:
    """All that is reported; what there are no photos for is ``None``.

    Attributes
    ----------
    n
        How many photos.
    photos
        How many of each label.
    accuracy
        The share of right answers to photos of vehicles.
    labels
        By label.
    confusion, calibration, selection, at_threshold, seconds_per_photo
        As their classes say.
    auc_of_pairs
        For two vehicles, how well their photos are told apart.
    mistakes
        The most confident ones, the worst first.
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
    seconds_per_photo: Seconds
    mistakes: list[Mistake]


def evaluate(answers: Answers) -> Evaluation:
    """Compute everything that is reported.

    Raises
    ------
    InferencesError
        An answer is not made of probabilities.
    """
    labels, probabilities = answers.labels, answers.probabilities
    # other has a number too where the model has no such label
    names = [*labels, *({OTHER} - set(labels))]
    truth = np.array([names.index(name) for name in answers.shown], np.int64)
    accepted = _accepted(answers)
    answered = probabilities.argmax(axis=1)
    right = truth == answered
    vehicle = truth != names.index(OTHER)
    counts = statistics.confusion(truth, answered, len(names), len(labels))
    return Evaluation(
        n=len(truth),
        photos={name: int(n) for name, n in zip(names, counts.sum(axis=1), strict=True) if n},
        accuracy=_share(right, among=vehicle),
        labels={label: _for_label(k, counts, truth, probabilities) for k, label in enumerate(labels)},
        confusion=Confusion(names, list(labels), counts.tolist()),
        auc_of_pairs=_auc_of_pairs(labels, truth, probabilities),
        calibration=_calibration(truth, probabilities),
        selection=_selection(labels, truth, probabilities),
        at_threshold=AtThreshold(
            threshold=answers.threshold,
            coverage=_share(accepted, among=vehicle),
            precision=_share(right, among=accepted),
            precision_of_vehicles=_share(right, among=accepted & vehicle),
            others_accepted=_share(accepted, among=~vehicle),
        ),
        seconds_per_photo=Seconds(
            mean=float(answers.seconds.mean()),
            median=float(np.median(answers.seconds)),
            p95=float(np.quantile(answers.seconds, 0.95)),
        ),
        mistakes=_mistakes(answers, accepted),
    )


def _accepted(answers: Answers) -> Bools:
    """Decide as the pipeline does."""
    decisions = (decide(row, answers.labels, answers.threshold) for row in answers.probabilities.tolist())
    return np.array([decision["decision"] == "accepted" for decision in decisions])


def _share(which: Bools, among: Bools) -> Share | None:
    return statistics.share(int((which & among).sum()), int(among.sum()))


def _for_label(k: int, counts: Integers, truth: Integers, probabilities: Floats) -> ForLabel:
    both, shown, answered = int(counts[k, k]), int(counts[k].sum()), int(counts[:, k].sum())
    known = truth < probabilities.shape[1]
    return ForLabel(
        precision=statistics.share(both, answered),
        recall=statistics.share(both, shown),
        f1=statistics.f1(both, shown + answered - both),
        auc=statistics.roc_auc(probabilities[known, k], truth[known] == k),
    )


def _auc_of_pairs(labels: Sequence[str], truth: Integers, probabilities: Floats) -> dict[str, float | None]:
    areas = {}
    for i, j in combinations([k for k, label in enumerate(labels) if label != OTHER], 2):
        pair = (truth == i) | (truth == j)
        # the same order as p_i / (p_i + p_j), which may be 0 / 0
        score = np.arctan2(probabilities[pair, i], probabilities[pair, j])
        areas[f"{labels[i]} against {labels[j]}"] = statistics.roc_auc(score, truth[pair] == i)
    return areas


def _calibration(truth: Integers, probabilities: Floats) -> Calibration:
    known = truth < probabilities.shape[1]
    truth, probabilities = truth[known], probabilities[known]
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = statistics.equal_width_bins(confidence, right)
    return Calibration(
        n=len(truth),
        ece=statistics.calibration_error(bins),
        ece_equal_mass=statistics.calibration_error(statistics.equal_mass_bins(confidence, right)),
        brier=statistics.brier(probabilities, truth),
        bins=bins,
    )


def _selection(labels: Sequence[str], truth: Integers, probabilities: Floats) -> Selection:
    vehicles = [k for k, label in enumerate(labels) if label != OTHER]
    shows_vehicle = np.isin(truth, vehicles)
    of_vehicles = probabilities[np.ix_(shows_vehicle, vehicles)]
    right = np.array(vehicles)[of_vehicles.argmax(axis=1)] == truth[shows_vehicle]
    risk = statistics.risk_by_coverage(of_vehicles.max(axis=1), right)
    n = len(risk)
    some = np.unique(np.linspace(0, n - 1, min(n, POINTS)).round().astype(int))
    return Selection(
        aurc=float(risk.mean()) if n else None,
        coverage=((some + 1) / max(n, 1)).tolist(),
        risk=risk[some].tolist(),
    )


def _mistakes(answers: Answers, accepted: Bools) -> list[Mistake]:
    confidence, answered = answers.probabilities.max(axis=1), answers.probabilities.argmax(axis=1)
    mistakes = [
        Mistake(
            file=answers.files[i],
            shown=answers.shown[i],
            answered=answers.labels[answered[i]],
            confidence=float(confidence[i]),
            accepted=bool(accepted[i]),
        )
        for i in np.argsort(-confidence, kind="stable")
        if answers.labels[answered[i]] != answers.shown[i]
    ]
    return mistakes[:MISTAKES]
