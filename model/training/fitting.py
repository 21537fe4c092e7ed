"""Fit a head to labelled photos, and tell from photos that it was not fitted to how right it is."""

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
from model.network import embedding
from model.network.fusion import Expert, Floats, Head, Integers, Scale, Seen, Weighing, Witnesses

FOLDS = 10
SEED = 0
"""Of the folds: the same photos make the same head."""
SPAN = 64
"""Directions in which training photos of vehicles differ most: they say what is usual."""
PENALTIES = (0.1, 0.3, 1.0, 3.0)
"""Strengths of regularisation, of which cross-validation chooses one; the squared length of a photo's scaled
descriptor is 2 on average."""
DETAILED_PHOTOS = 100
"""So many training photos with detail it takes to learn from them how much ImageNet's expert counts."""
IMAGENET_COUNTS = 4.0
"""Beta where the training photos cannot tell: the network was trained with smoothed labels, and is more often
right than it says. Like the next three chosen on a few dozen photos (docs/decisions.md)."""
COUNTED_TWICE, ASKED_BEYOND = 0.2, 4.2
"""The e and f of the head's formulas where the training photos cannot tell."""
VEHICLES_KEPT = 0.998
"""Of training photos of vehicles, are taken for vehicles, if none show what something else looks like."""

type Names = npt.NDArray[np.str_]
type Bools = npt.NDArray[np.bool_]

UNWEIGHED = Weighing(alpha=1, beta=IMAGENET_COUNTS, a=0, b=0, c=0, d=0, e=0, f=0)


class FitError(Exception):
    """No head can be fitted to these photos; the message says why."""


@dataclass(frozen=True)
class Fit:
    """A head, and what heads like it said of photos that they had never seen.

    Attributes
    ----------
    head
        Fitted to all photos.
    held_out
        For each photo the probabilities that a head gave which was fitted without it, float [N, labels].
    penalty
        The strength of regularisation chosen.
    folds
        In how many parts the photos were held out.
    """

    head: Head
    held_out: Floats
    penalty: float
    folds: int


# numpy and scipy bring an OpenBLAS each; their threads, spinning while they wait, take the cores from each
# other: on two cores 1,000 photos take twice as long, 24 photos twenty times
@threadpool_limits.wrap(limits=1)  # type: ignore[untyped-decorator]  # threadpoolctl has no types
def fit(
    seen: Seen, targets: Integers, labels: Sequence[str], advance: Callable[[], None] = lambda: None
) -> Fit:
    """Fit a head.

    In each of `FOLDS` folds the expert is fitted without the fold's photos and then asked about them; how the
    experts are to be weighed, and how sure to be, comes from these answers. Then the expert is fitted to all.

    Parameters
    ----------
    seen
        What the model sees of N photos.
    targets
        The number of each one's label, int [N].
    labels
        The labels' names, at least two, or one and `OTHER`.
    advance
        Is called `FOLDS` + 1 times, as the work goes on.

    Raises
    ------
    FitError
        A label has fewer than two photos, none is a vehicle's, or there is but one label.
    """
    counts = np.bincount(targets, minlength=len(labels))
    if few := [f"{label} ({n})" for label, n in zip(labels, counts, strict=True) if n < 2]:  # noqa: PLR2004
        raise FitError(f"each label needs at least two photos to learn from; too few of {', '.join(few)}")
    if not set(labels) - {OTHER}:
        raise FitError(f"there are no photos of anything but {OTHER}")
    if len(labels) < 2:  # noqa: PLR2004
        raise FitError(f"photos of at least two labels are needed, to tell {labels[0]} from something")
    folds = min(FOLDS, int(counts.min()))
    shown = np.array(labels)[targets]
    by_penalty, distance = _held_out_logits(seen, targets, labels, folds, advance)
    penalty = min(PENALTIES, key=lambda one: least_log_loss(by_penalty[one], targets))
    complete = (*labels, *([OTHER] if OTHER not in labels else []))
    expert = fit_experts(seen.descriptor, targets, labels, [penalty])[penalty]
    advance()
    head = Head(complete, tuple(labels), expert, UNWEIGHED)
    witnesses = replace(head.witnesses(seen), trained=by_penalty[penalty], distance=distance)
    head = replace(head, weighing=_weigh(head, witnesses, shown))
    return Fit(head, head.weigh(witnesses), penalty, folds)


def _held_out_logits(
    seen: Seen, targets: Integers, labels: Sequence[str], folds: int, advance: Callable[[], None]
) -> tuple[dict[float, Floats], Floats]:
    """Ask each photo's expert that was fitted without it: the logits for each penalty, and the distance."""
    logits: dict[float, Floats] = {one: np.zeros((len(targets), len(labels))) for one in PENALTIES}
    distance: Floats = np.zeros(len(targets))
    splits = StratifiedKFold(folds, shuffle=True, random_state=SEED)
    for fitted, held_out in splits.split(targets, targets):
        experts = fit_experts(seen.descriptor[fitted], targets[fitted], labels, PENALTIES)
        for penalty, expert in experts.items():
            logits[penalty][held_out], distance[held_out] = expert(seen.descriptor[held_out])
        advance()
    return logits, distance


def fit_experts(
    descriptor: Floats, targets: Integers, labels: Sequence[str], penalties: Sequence[float]
) -> dict[float, Expert]:
    """Fit an expert for each strength of regularisation.

    It is a ridge regression of each label, 1 where it is shown and -1 where not, every label with the same
    weight: a least-squares classifier, which is as often right here as a logistic regression and orders its
    answers far better by how right they are (docs/decisions.md). There are fewer photos than numbers of each,
    so it is solved for the photos' products: C. Saunders, A. Gammerman, V. Vovk, "Ridge regression learning
    algorithm in dual variables" (ICML 1998). The 1 added to each product is the bias.

    Parameters
    ----------
    descriptor
        Float [N, D].
    targets, labels
        As of `fit`.
    penalties
        The strengths wanted.
    """
    shows_vehicle = np.array([label != OTHER for label in labels])[targets]
    scale = Scale.fit(descriptor[shows_vehicle])
    scaled = scale(descriptor)
    span = principal_components(scaled[shows_vehicle, : embedding.POOLED_FIRST], SPAN)
    products = scaled @ scaled.T + 1
    shown = np.where(targets[:, None] == np.arange(len(labels)), 1.0, -1.0)
    weight = compute_sample_weight("balanced", targets)
    experts = {}
    for penalty in penalties:
        ridge = KernelRidge(alpha=penalty, kernel="precomputed").fit(products, shown, weight)
        dual = ridge.dual_coef_.astype(scaled.dtype)
        experts[penalty] = Expert(scale, scaled.T @ dual, dual.sum(axis=0), span)
    return experts


def principal_components(rows: Floats, most: int) -> Floats:
    """Find the directions in which float [N, D] varies most around 0, as float [at most `most`, D].

    Through the products of rows, of which there are fewer than columns: M. Turk, A. Pentland, "Eigenfaces for
    recognition" (Journal of Cognitive Neuroscience 3, 1991), "Calculating eigenfaces".
    """
    few = min(most, len(rows) - 1)
    if not few:
        return rows[:0]
    variances, directions = scipy.linalg.eigh(rows @ rows.T, subset_by_index=[len(rows) - few, len(rows) - 1])
    components = directions[:, ::-1].T @ rows
    lengths = np.sqrt(np.maximum(variances[::-1, None], 1e-12))
    found: Floats = components / lengths
    return found


def _weigh(head: Head, witnesses: Witnesses, shown: Names) -> Weighing:
    """Weigh the experts and witnesses by what they said of photos that they had not seen.

    Parameters
    ----------
    head
        Whose weighing it is to be.
    witnesses
        What they said of N photos.
    shown
        The label of each, [N].
    """
    vehicle = shown != OTHER
    alpha, beta = _weigh_experts(head, witnesses, shown)
    e, f = (0, 0) if _detailed(witnesses, ~vehicle) else (COUNTED_TWICE, ASKED_BEYOND)
    weighing = replace(UNWEIGHED, alpha=alpha, beta=beta, e=e, f=f)
    if not vehicle.all():
        return _weigh_witnesses(replace(head, weighing=weighing), witnesses, vehicle)
    # nothing shows how novel something else is: each witness speaks in its own units, log-odds and deviations
    b = 1 / max(float(witnesses.distance.std()), 1e-9)
    a = 0.0 if witnesses.imagenet is None else 1.0
    said = head.evidence(witnesses) @ np.array([a, b, 0]) - f * witnesses.detail
    return replace(weighing, a=a, b=b, d=-float(np.quantile(said, 1 - VEHICLES_KEPT)))


def _weigh_witnesses(head: Head, witnesses: Witnesses, vehicle: Bools) -> Weighing:
    """Find the a, b, c and d that make most likely which photos show a vehicle, bool [N], and which do not.

    It is a logistic regression, in which what the head's formula asks of detail is fixed.
    """
    evidence = head.evidence(witnesses)
    deviation = evidence.std(axis=0)
    unit = np.append(np.where(deviation > 0, deviation, 1), 1)
    # both kinds count the same, as at the door; there are seldom as many photos of either
    balanced = compute_sample_weight("balanced", vehicle)
    wanted = balanced[:, None] * smoothed(vehicle.astype(int), 2)

    def weighed(parameters: Floats) -> Weighing:
        a, b, c, d = map(float, parameters / unit)
        return replace(head.weighing, a=a, b=b, c=c, d=d)

    def unlikeliness(parameters: Floats) -> float:
        log_odds = replace(head, weighing=weighed(parameters)).whether_vehicle(witnesses)
        return cross_entropy(np.stack([np.zeros_like(log_odds), log_odds], axis=1), wanted)

    # by default it stops where log-odds are still off in the third digit
    return weighed(minimize(unlikeliness, np.zeros(4), tol=1e-7).x)


def _detailed(witnesses: Witnesses, which: Bools) -> bool:
    """Tell whether enough of some photos have detail to learn from."""
    return int((witnesses.detail[which] > 0).sum()) >= DETAILED_PHOTOS


def _weigh_experts(head: Head, witnesses: Witnesses, shown: Names) -> tuple[float, float]:
    """Find the alpha and beta that make the vehicles' true labels as likely as so few photos can.

    For alpha alone that is temperature scaling, with alpha = 1 / T: C. Guo, G. Pleiss, Y. Sun, K. Q.
    Weinberger, "On calibration of modern neural networks" (ICML 2017), section 4.2.
    """
    vehicle = shown != OTHER
    truth = np.array([head.vehicles.index(label) for label in shown[vehicle]])
    wanted = smoothed(truth, len(head.vehicles))
    heard = _detailed(witnesses, vehicle) and witnesses.imagenet is not None

    def unlikeliness(parameters: Floats) -> float:
        alpha, *beta = np.exp(parameters)
        weighing = replace(UNWEIGHED, alpha=alpha, beta=beta[0] if beta else IMAGENET_COUNTS)
        logits = replace(head, weighing=weighing).which_vehicle(witnesses)[vehicle]
        return cross_entropy(logits, wanted)

    found = minimize(unlikeliness, np.zeros(1 + heard), method="Nelder-Mead")
    alpha, *beta = np.exp(found.x)
    return float(alpha), float(beta[0]) if beta else IMAGENET_COUNTS


def least_log_loss(logits: Floats, truth: Integers) -> float:
    """Give the log-loss of logits [N, K] at the temperature that suits them best."""
    found = minimize_scalar(lambda scale: log_loss(np.exp(scale) * logits, truth), bounds=(-7, 7))
    return float(found.fun)


def log_loss(logits: Floats, truth: Integers) -> float:
    """Give the mean negative log-likelihood of the true labels, int [N], under logits [N, K]."""
    return cross_entropy(logits, np.eye(logits.shape[1])[truth])


def cross_entropy(logits: Floats, wanted: Floats) -> float:
    """Give the mean cross-entropy of logits [N, K] with the probabilities wanted, [N, K]."""
    return -float((wanted * log_softmax(logits, axis=1)).sum(axis=1).mean())


def smoothed(truth: Integers, kinds: int) -> Floats:
    """Give the probabilities to fit confidences to, float [N, `kinds`]: as sure as so many photos can make.

    Of N photos of a kind all may be recognised, the next with probability (N + 1/2) / (N + 1):
    R. E. Krichevsky, V. K. Trofimov, "The performance of universal encoding" (IEEE Transactions on
    Information Theory 27, 1981); the other kinds share the rest. Fitted to 1, confidence grows without bound
    where the photos are told apart without a mistake, as few photos often are. The idea is J. Platt's,
    "Probabilistic outputs for support vector machines" (Advances in Large Margin Classifiers, 1999), section
    2.2, there with (N + 1) / (N + 2), which is less right here (docs/decisions.md).
    """
    counts = np.bincount(truth, minlength=kinds)
    own = ((counts + 0.5) / (counts + 1))[truth, None]
    return np.where(truth[:, None] == np.arange(kinds), own, (1 - own) / max(kinds - 1, 1))
