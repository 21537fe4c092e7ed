"""The head: from what a model sees of a photo (`model.network.features`) to a probability for each label.

Which vehicle it is, two experts say together. One was trained, on the photo as if it were small; the other
knows ImageNet's classes, sees the photo as it is, and is heard as far as there is detail in it:

    p(k | a vehicle) = softmax over vehicles k of  alpha s_k + beta g z_k

with s the trained logits, z those of ImageNet's classes (`model.network.zero_shot`), and g the photo's
detail, from 0 to 1. Whether it is a vehicle at all, three witnesses say:

    p(a vehicle) = sigmoid( (1 - e g) (a m - b n + c t + d - f g) )

with m ImageNet's log-odds of a vehicle, n the photo's novelty, which is its distance from the subspace that
the training photos of vehicles span, in standard deviations (as in H. Hoffmann, "Kernel PCA for novelty
detection", Pattern Recognition 40, 2007, here linear), and t the trained log-odds of a vehicle, by alpha s,
where training photos of something else taught any. (Where ImageNet's expert and the span look at the same
detail, they are no independent witnesses: e takes back what adding them up counts twice. And what is usual
among small pictures is a weak witness for a large one: f is what the others must say beyond it.)

All parameters beyond s come from predictions for photos that took no part in the training
(`model.training.fitting`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logsumexp, softmax

from model.labels import OTHER
from model.network import embedding, zero_shot
from model.network.onnx_graph import Graph

POOLED_SHARE = 0.2
"""Of what the trained expert goes by; the rest is how channels go together."""

type Floats = npt.NDArray[np.floating]
type Integers = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Seen:
    """What the model sees of N photos: `features.OUTPUTS`, each float32 [N, …]."""

    logits: Floats
    features: Floats
    descriptor: Floats
    detail: Floats

    def __getitem__(self, which: Integers | npt.NDArray[np.bool_]) -> Self:
        """Take some of the photos."""
        return type(self)(*(getattr(self, field.name)[which] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.detail)


@dataclass(frozen=True)
class Scale:
    """Brings a descriptor's two parts to the weights they are to have: (x - mean) * weight, per number.

    The pooled numbers vary alike; the pairs, already of one length, vary as they do. Of the variance of both,
    which is 2 together, the pooled ones have `POOLED_SHARE`.
    """

    mean: Floats
    weight: Floats

    @classmethod
    def fit(cls, descriptor: Floats) -> Self:
        """Take means and deviations from float [N, D]."""
        mean, deviation = descriptor.mean(axis=0), descriptor.std(axis=0)
        pooled, pairs = np.split(deviation, [embedding.POOLED])
        each = np.sqrt(2 * POOLED_SHARE / len(pooled)) * _inverse(pooled)
        together = np.full(len(pairs), np.sqrt(2 * (1 - POOLED_SHARE)) * _inverse(np.linalg.norm(pairs)))
        return cls(mean, np.concatenate([each, together]).astype(descriptor.dtype))

    def __call__(self, descriptor: Floats) -> Floats:
        """Scale float [N, D]."""
        scaled: Floats = (descriptor - self.mean) * self.weight
        return scaled


def _inverse(deviation: Floats | np.floating) -> Floats:
    """Return 1 / deviation, and 0 for what never varies, which says nothing."""
    return np.divide(1, deviation, out=np.zeros_like(deviation), where=np.asarray(deviation) > 0)


@dataclass(frozen=True)
class Expert:
    """What is learned from the training photos' descriptors, D numbers each.

    Attributes
    ----------
    scale
        How descriptors are scaled first.
    weights, bias
        Of the logits s = x W + b, float [D, T] and [T]: one for each label trained.
    span
        An orthonormal basis of what training photos of vehicles look like by the first network's pooled
        activations (which tell what is none better than the second's or both), float
        [S, `features.POOLED_FIRST`].
    """

    scale: Scale
    weights: Floats
    bias: Floats
    span: Floats

    def __call__(self, descriptor: Floats) -> tuple[Floats, Floats]:
        """Give the logits, float [N, T], and the distances from the span, float [N]."""
        scaled = self.scale(descriptor)
        pooled = scaled[:, : embedding.POOLED_FIRST]
        outside = (pooled**2).sum(axis=1) - ((pooled @ self.span.T) ** 2).sum(axis=1)
        return scaled @ self.weights + self.bias, np.sqrt(np.maximum(outside, 0))


@dataclass(frozen=True)
class Witnesses:
    """What is known of N photos before it is weighed.

    Attributes
    ----------
    trained
        Logits of the labels trained, float [N, T].
    distance
        From the training photos' span, float [N].
    imagenet
        Log-probabilities of each vehicle's ImageNet classes, float [N, K], and of all others', [N]; ``None``
        if some vehicle has no such class.
    other_classes
        See `imagenet`.
    detail
        The photos', 0 to 1, float [N].
    """

    trained: Floats
    distance: Floats
    imagenet: Floats | None
    other_classes: Floats | None
    detail: Floats


@dataclass(frozen=True)
class Weighing:
    """How much each expert and witness counts; the names are those of the module's formulas."""

    alpha: float
    beta: float
    a: float
    b: float
    c: float
    d: float
    e: float
    f: float


@dataclass(frozen=True)
class Head:
    """A trained head.

    Attributes
    ----------
    labels
        What it gives probabilities of, in their order; `OTHER` is among them.
    trained
        The labels that training photos taught, in the order of the expert's logits.
    expert, weighing
        Its parameters.
    """

    labels: tuple[str, ...]
    trained: tuple[str, ...]
    expert: Expert
    weighing: Weighing

    @property
    def vehicles(self) -> list[str]:
        """The labels but `OTHER`, in their order."""
        return [label for label in self.labels if label != OTHER]

    def probabilities(self, seen: Seen) -> Floats:
        """Give the probability of each label, float [N, labels]."""
        return self.weigh(self.witnesses(seen))

    def witnesses(self, seen: Seen) -> Witnesses:
        """Ask the experts, before anything is weighed."""
        trained, distance = self.expert(seen.descriptor)
        detail = seen.detail[:, 0]
        if not zero_shot.knows(self.vehicles):
            return Witnesses(trained, distance, None, None, detail)
        classes = [zero_shot.IMAGENET_CLASSES[label] for label in self.vehicles]
        imagenet = np.stack([logsumexp(seen.logits[:, one], axis=1) for one in classes], axis=1)
        rest = np.delete(seen.logits, np.concatenate(classes), axis=1)
        return Witnesses(trained, distance, imagenet, logsumexp(rest, axis=1), detail)

    def weigh(self, witnesses: Witnesses) -> Floats:
        """Make probabilities of what the witnesses say, float [N, labels]."""
        which = softmax(self.which_vehicle(witnesses), axis=1)
        vehicle = expit(self.whether_vehicle(witnesses))
        columns = {label: which[:, k] * vehicle for k, label in enumerate(self.vehicles)}
        return np.stack([columns.get(label, 1 - vehicle) for label in self.labels], axis=1)

    def which_vehicle(self, witnesses: Witnesses) -> Floats:
        """Give logits of the vehicles, float [N, K]."""
        logits = self.weighing.alpha * witnesses.trained[:, self._columns(vehicles=True)]
        if witnesses.imagenet is not None:
            logits = logits + self.weighing.beta * witnesses.detail[:, None] * witnesses.imagenet
        return logits

    def whether_vehicle(self, witnesses: Witnesses) -> Floats:
        """Give the log-odds of a vehicle, float [N]."""
        w = self.weighing
        said = self.evidence(witnesses) @ np.array([w.a, w.b, w.c]) + w.d
        log_odds: Floats = (1 - w.e * witnesses.detail) * (said - w.f * witnesses.detail)
        return log_odds

    def evidence(self, witnesses: Witnesses) -> Floats:
        """Give what `a`, `b` and `c` weigh, float [N, 3]; 0 for what there is not."""
        none = np.zeros(len(witnesses.detail))
        mass, trained = none, none
        if witnesses.imagenet is not None and witnesses.other_classes is not None:
            mass = logsumexp(witnesses.imagenet, axis=1) - witnesses.other_classes
        if OTHER in self.trained:
            logits = self.weighing.alpha * witnesses.trained
            (other,) = self._columns(vehicles=False)
            trained = logsumexp(logits[:, self._columns(vehicles=True)], axis=1) - logits[:, other]
        return np.stack([mass, -witnesses.distance, trained], axis=1)

    def _columns(self, *, vehicles: bool) -> list[int]:
        wanted = self.vehicles if vehicles else [OTHER]
        return [self.trained.index(label) for label in wanted]


def add_head(graph: Graph, head: Head) -> None:
    """Add the head's layers to a graph that has `features.OUTPUTS`; they end in ``probabilities``."""
    w, vehicles = head.weighing, head.vehicles
    trained, distance = _add_expert(graph, head.expert)
    trained = graph.add("Mul", trained, w.alpha)
    columns = {label: _column(graph, trained, k) for k, label in enumerate(head.trained)}
    of_vehicles = graph.add("Concat", *(columns[label] for label in vehicles), axis=1)
    which = of_vehicles
    said = graph.add("Add", graph.add("Mul", distance, -w.b), w.d)
    if zero_shot.knows(vehicles):
        imagenet, mass = _add_imagenet(graph, vehicles)
        heard = graph.add("Mul", imagenet, graph.add("Mul", "detail", w.beta))
        which = graph.add("Add", which, heard)
        said = graph.add("Add", said, graph.add("Mul", mass, w.a))
    if OTHER in columns:
        vehicle = graph.add("ReduceLogSumExp", of_vehicles, np.array([1]))
        said = graph.add("Add", said, graph.add("Mul", graph.add("Sub", vehicle, columns[OTHER]), w.c))
    slope = graph.add("Sub", 1.0, graph.add("Mul", "detail", w.e))
    said = graph.add("Sub", said, graph.add("Mul", "detail", w.f))
    whether = graph.add("Mul", slope, said)
    shares = graph.add("Mul", graph.add("Softmax", which, axis=1), graph.add("Sigmoid", whether))
    given = {label: _column(graph, shares, k) for k, label in enumerate(vehicles)}
    given[OTHER] = graph.add("Sigmoid", graph.add("Neg", whether))
    graph.add("Concat", *(given[label] for label in head.labels), axis=1, output="probabilities")


def _add_expert(graph: Graph, expert: Expert) -> tuple[str, str]:
    """Add what `Expert` computes, the scale multiplied into the weights."""
    mean, weight = expert.scale.mean, expert.scale.weight
    weights = weight[:, None] * expert.weights
    logits = graph.add("Add", graph.add("MatMul", "descriptor", weights), expert.bias - mean @ weights)
    first = embedding.POOLED_FIRST
    start, end, axis = np.array([0]), np.array([first]), np.array([1])
    pooled = graph.add("Slice", "descriptor", start, end, axis)
    scaled = graph.add("Mul", graph.add("Sub", pooled, mean[:first]), weight[:first])
    inside = graph.add("MatMul", scaled, expert.span.T)
    outside = graph.add(
        "Sub", graph.add("ReduceSumSquare", scaled, axis), graph.add("ReduceSumSquare", inside, axis)
    )
    return logits, graph.add("Sqrt", graph.add("Relu", outside))


def _add_imagenet(graph: Graph, vehicles: Sequence[str]) -> tuple[str, str]:
    """Add the log-probabilities of the vehicles' classes, [N, K], and the log-odds of any, [N, 1]."""
    classes = [np.array(zero_shot.IMAGENET_CLASSES[label]) for label in vehicles]
    others = np.setdiff1d(np.arange(embedding.OUTPUTS["logits"]), np.concatenate(classes))
    sums = [_log_sum(graph, one) for one in (*classes, others)]
    imagenet = graph.add("Concat", *sums[:-1], axis=1)
    return imagenet, graph.add("Sub", graph.add("ReduceLogSumExp", imagenet, np.array([1])), sums[-1])


def _log_sum(graph: Graph, classes: Integers) -> str:
    return graph.add("ReduceLogSumExp", graph.add("Gather", "logits", classes, axis=1), np.array([1]))


def _column(graph: Graph, table: str, column: int) -> str:
    return graph.add("Gather", table, np.array([column]), axis=1)
