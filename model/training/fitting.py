"""Fit a head to labelled photos, and predict each photo with a head that was fitted without it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits

from model.labels import OTHER
from model.network.embedding import Embedding, Floats, Integers
from model.network.fusion import FusionWeights, Head, NoveltyDetector, RidgeClassifier, Scores

FOLDS = 10
SEED = 0
"""Shuffles the photos into folds; a fixed seed makes training reproducible."""
PCA_DIRECTIONS = 64
"""Principal components of the training photos of vehicles; distance from them is novelty."""
PENALTIES = (0.1, 0.3, 1.0, 3.0)
"""Ridge penalties, of which cross-validation chooses one."""
MIN_DETAILED_PHOTOS = 100
"""Training photos with detail that it takes to fit the weights that concern detail; fewer get the next three,
chosen on a few dozen photos (docs/decisions.md)."""
DEFAULT_IMAGENET_SCALE = 4.0
"""Above 1, because the network was trained with smoothed labels and is underconfident."""
DEFAULT_DETAIL_DISCOUNT, DEFAULT_DETAIL_OFFSET = 0.2, 4.2
VEHICLE_RECALL = 0.998
"""Share of the training photos of vehicles to recognize as vehicles, if none show `OTHER`."""

type Names = npt.NDArray[np.str_]
type Bools = npt.NDArray[np.bool_]

DEFAULT_WEIGHTS = FusionWeights(
    inverse_temperature=1,
    imagenet_scale=DEFAULT_IMAGENET_SCALE,
    imagenet=0,
    novelty=0,
    trained=0,
    bias=0,
    detail_discount=0,
    detail_offset=0,
)


class FitError(Exception):
    """No head can be fitted to these photos; the message says why."""


@dataclass(frozen=True)
class Fit:
    """A head fitted to all photos, and cross-validated predictions."""

    head: Head
    held_out: Floats  # each photo's probabilities by a classifier that was fitted without it, [N, labels]
    penalty: float  # the ridge penalty chosen
    folds: int


# numpy and scipy bring an OpenBLAS each, whose threads spin while they wait and take the cores from each
# other: on two cores 1,000 photos take twice as long, 24 photos twenty times
@threadpool_limits.wrap(limits=1)  # type: ignore[untyped-decorator]  # threadpoolctl has no types
def fit(
    embeddings: Embedding,
    targets: Integers,
    labels: Sequence[str],
    advance: Callable[[], None] = lambda: None,
) -> Fit:
    """Fit a head to N photos, whose `targets`, int [N], are the indices of their labels.

    The classifier is cross-validated in `FOLDS` folds; the fusion weights are fitted to the held-out scores.
    Then the classifier is fitted to all photos. `advance` is called `FOLDS` + 1 times at most, for progress.

    Raises `FitError` if a label has fewer than two photos, there are no vehicles, or there is only one
    label.
    """
    counts = np.bincount(targets, minlength=len(labels))
    _check(counts, labels)
    folds = min(FOLDS, int(counts.min()))
    by_penalty, novelty = _cross_validate(embeddings, targets, labels, folds, advance)
    penalty = min(PENALTIES, key=lambda one: calibrated_log_loss(by_penalty[one], targets))
    classifier = fit_classifiers(embeddings.descriptor, targets, labels, [penalty])[penalty]
    detector = fit_novelty(embeddings.pooled[_show_vehicle(targets, labels)])
    advance()
    all_labels = (*labels, *([OTHER] if OTHER not in labels else []))
    head = Head(all_labels, tuple(labels), classifier, detector, DEFAULT_WEIGHTS)
    scores = replace(head.scores(embeddings), trained=by_penalty[penalty], novelty=novelty)
    head = replace(head, weights=_fit_fusion(head, scores, np.array(labels)[targets]))
    return Fit(head, head.fuse(scores), penalty, folds)


def _check(counts: Integers, labels: Sequence[str]) -> None:
    if few := [f"{label} ({n})" for label, n in zip(labels, counts, strict=True) if n < 2]:  # noqa: PLR2004
        raise FitError(f"Each label needs at least two training photos. Too few of: {', '.join(few)}.")
    if not set(labels) - {OTHER}:
        raise FitError(f"All photos are labelled {OTHER}. Add photos of at least one vehicle.")
    if len(labels) < 2:  # noqa: PLR2004
        raise FitError(f"The only label is {labels[0]}. Add photos of at least one more, such as {OTHER}.")


def _cross_validate(
    embeddings: Embedding,
    targets: Integers,
    labels: Sequence[str],
    folds: int,
    advance: Callable[[], None],
) -> tuple[dict[float, Floats], Floats]:
    """Return the held-out logits for each penalty, float [N, labels], and the held-out novelty, float [N]."""
    logits: dict[float, Floats] = {one: np.zeros((len(targets), len(labels))) for one in PENALTIES}
    novelty: Floats = np.zeros(len(targets))
    splits = StratifiedKFold(folds, shuffle=True, random_state=SEED)
    for fitted, held_out in splits.split(targets, targets):
        classifiers = fit_classifiers(embeddings.descriptor[fitted], targets[fitted], labels, PENALTIES)
        for penalty, classifier in classifiers.items():
            logits[penalty][held_out] = classifier.logits(embeddings.descriptor[held_out])
        vehicles = fitted[_show_vehicle(targets[fitted], labels)]
        novelty[held_out] = fit_novelty(embeddings.pooled[vehicles]).novelty(embeddings.pooled[held_out])
        advance()
    return logits, novelty


def fit_classifiers(
    descriptor: Floats, targets: Integers, labels: Sequence[str], penalties: Sequence[float]
) -> dict[float, RidgeClassifier]:
    """Fit a classifier for each ridge penalty.

    It regresses each label's indicator, 1 or -1, with balanced classes. It is as accurate here as logistic
    regression and ranks its answers far better by confidence (docs/decisions.md). There are fewer photos than
    numbers in a descriptor, so the dual problem is solved (C. Saunders, A. Gammerman, V. Vovk, "Ridge
    regression learning algorithm in dual variables", ICML 1998). The 1 added to the kernel is the bias.
    Descriptors, float [N, D], are centered and scaled to a total variance of 2; the result includes both.
    """
    of_vehicles = descriptor[_show_vehicle(targets, labels)]
    mean, variance = of_vehicles.mean(axis=0), float(of_vehicles.var(axis=0).sum())
    scale = (2 / variance) ** 0.5 if variance else 0.0
    scaled = (descriptor - mean) * scale
    kernel = scaled @ scaled.T + 1
    indicators = np.where(targets[:, None] == np.arange(len(labels)), 1.0, -1.0)
    weight = compute_sample_weight("balanced", targets)
    classifiers = {}
    for penalty in penalties:
        ridge = KernelRidge(alpha=penalty, kernel="precomputed").fit(kernel, indicators, weight)
        dual = ridge.dual_coef_.astype(scaled.dtype)
        weights = scale * scaled.T @ dual
        classifiers[penalty] = RidgeClassifier(weights, dual.sum(axis=0) - mean @ weights)
    return classifiers


def fit_novelty(pooled: Floats) -> NoveltyDetector:
    """Fit a novelty detector to the globally pooled numbers of vehicles, float [N, P]."""
    mean, deviation = pooled.mean(axis=0), pooled.std(axis=0)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    return NoveltyDetector(mean, scale, principal_components((pooled - mean) * scale, PCA_DIRECTIONS))


def _show_vehicle(targets: Integers, labels: Sequence[str]) -> Bools:
    return np.array([label != OTHER for label in labels])[targets]


def principal_components(rows: Floats, most: int) -> Floats:
    """Find the directions in which float [N, D] varies most around 0, as float [at most `most`, D].

    Computed from the products of rows, of which there are fewer than columns: M. Turk, A. Pentland,
    "Eigenfaces for recognition" (Journal of Cognitive Neuroscience 3, 1991), "Calculating eigenfaces".
    """
    few = min(most, len(rows) - 1)
    if not few:
        return rows[:0]
    variances, directions = scipy.linalg.eigh(rows @ rows.T, subset_by_index=[len(rows) - few, len(rows) - 1])
    components = directions[:, ::-1].T @ rows
    lengths = np.sqrt(np.maximum(variances[::-1, None], 1e-12))
    found: Floats = components / lengths
    return found


def _fit_fusion(head: Head, scores: Scores, truth: Names) -> FusionWeights:
    """Fit the fusion weights to the held-out `scores` of N photos and their true labels, [N]."""
    vehicle = truth != OTHER
    weights = _fit_class_weights(head, scores, truth)
    if not _has_detail(scores, ~vehicle):
        weights = replace(
            weights, detail_discount=DEFAULT_DETAIL_DISCOUNT, detail_offset=DEFAULT_DETAIL_OFFSET
        )
    head = replace(head, weights=weights)
    if not vehicle.all():
        return _fit_vehicle_weights(head, scores, vehicle)
    # no photos show how scores of other photos vary: log-odds and novelty, standardized, count the same
    weights = replace(
        weights,
        imagenet=float(head.uses_imagenet),
        novelty=1 / max(float(scores.novelty.std()), 1e-9),
    )
    coefficients = np.array([weights.imagenet, weights.novelty, 0])
    evidence = head.evidence(scores) @ coefficients - weights.detail_offset * scores.detail
    return replace(weights, bias=-float(np.quantile(evidence, 1 - VEHICLE_RECALL)))


def _fit_vehicle_weights(head: Head, scores: Scores, vehicle: Bools) -> FusionWeights:
    """Fit imagenet, novelty, trained and bias, by logistic regression, to which photos show a vehicle, [N].

    The weights that concern detail stay as they are in `head`.
    """
    deviation = head.evidence(scores).std(axis=0)
    unit = np.append(np.where(deviation > 0, deviation, 1), 1)
    balanced = compute_sample_weight("balanced", vehicle)
    targets = balanced[:, None] * smooth_targets(vehicle.astype(int), 2)

    def weights(parameters: Floats) -> FusionWeights:
        imagenet, novelty, trained, bias = map(float, parameters / unit)
        return replace(head.weights, imagenet=imagenet, novelty=novelty, trained=trained, bias=bias)

    def negative_log_likelihood(parameters: Floats) -> float:
        logit = replace(head, weights=weights(parameters)).vehicle_logit(scores)
        return cross_entropy(np.stack([np.zeros_like(logit), logit], axis=1), targets)

    # the default tolerance stops where log-odds are still off in the third digit
    return weights(minimize(negative_log_likelihood, np.zeros(4), tol=1e-7).x)


def _has_detail(scores: Scores, which: Bools) -> bool:
    """Tell whether enough of some photos have detail to fit weights to."""
    return int((scores.detail[which] > 0).sum()) >= MIN_DETAILED_PHOTOS


def _fit_class_weights(head: Head, scores: Scores, truth: Names) -> FusionWeights:
    """Fit inverse_temperature and, where there is detail, imagenet_scale to the photos of vehicles.

    With the first alone this is temperature scaling: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On
    calibration of modern neural networks" (ICML 2017), section 4.2.
    """
    vehicle = truth != OTHER
    indices = np.array([head.vehicles.index(label) for label in truth[vehicle]])
    targets = smooth_targets(indices, len(head.vehicles))
    names = ["inverse_temperature"]
    if head.uses_imagenet and _has_detail(scores, vehicle):
        names.append("imagenet_scale")

    def weights(logarithms: Floats) -> FusionWeights:
        return replace(DEFAULT_WEIGHTS, **dict(zip(names, map(float, np.exp(logarithms)), strict=True)))

    def negative_log_likelihood(logarithms: Floats) -> float:
        logits = replace(head, weights=weights(logarithms)).class_logits(scores)[vehicle]
        return cross_entropy(logits, targets)

    return weights(minimize(negative_log_likelihood, np.zeros(len(names)), method="Nelder-Mead").x)


def calibrated_log_loss(logits: Floats, truth: Integers) -> float:
    """Return the log-loss of logits [N, K] at their best temperature."""
    found = minimize_scalar(lambda scale: log_loss(np.exp(scale) * logits, truth), bounds=(-7, 7))
    return float(found.fun)


def log_loss(logits: Floats, truth: Integers) -> float:
    """Return the mean negative log-likelihood of the true labels, int [N], under logits [N, K]."""
    return cross_entropy(logits, np.eye(logits.shape[1])[truth])


def cross_entropy(logits: Floats, targets: Floats) -> float:
    """Return the mean cross-entropy of logits [N, K] with target probabilities, [N, K]."""
    return -float((targets * log_softmax(logits, axis=1)).sum(axis=1).mean())


def smooth_targets(truth: Integers, classes: int) -> Floats:
    """Return smoothed target probabilities, float [N, `classes`].

    If all N photos of a class are recognized, the next one is with probability (N + 1/2) / (N + 1): R. E.
    Krichevsky, V. K. Trofimov, "The performance of universal encoding" (IEEE Transactions on Information
    Theory 27, 1981); the other classes share the rest. With a target of 1, confidence would grow without
    bound where the classes are separated perfectly, as few photos often are. The idea is J. Platt's,
    "Probabilistic outputs for support vector machines" (Advances in Large Margin Classifiers, 1999), section
    2.2, there with (N + 1) / (N + 2), which is less accurate here (docs/decisions.md).
    """
    counts = np.bincount(truth, minlength=classes)
    own = ((counts + 0.5) / (counts + 1))[truth, None]
    return np.where(truth[:, None] == np.arange(classes), own, (1 - own) / max(classes - 1, 1))
