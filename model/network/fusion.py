"""The head of a model: two classifiers and a novelty detector, fused into a probability for each label.

Which vehicle a photo shows is decided by two classifiers. One is trained, on the low-resolution branch; the
other needs no training, it sums ImageNet's classes and is weighted by image detail:

    p(k | a vehicle) = softmax over vehicles k of
        inverse_temperature * trained logit of k + imagenet_scale * detail * ImageNet logit of k

Whether it shows a vehicle at all is a logistic model of three scores:

    p(a vehicle) = sigmoid( (1 - detail_discount * detail)
        * (imagenet * I - novelty * N + trained * T + bias - detail_offset * detail) )

I is ImageNet's log-odds of a vehicle. N is the photo's novelty: its distance, in standard deviations, from
the PCA subspace of the training photos of vehicles (as in H. Hoffmann, "Kernel PCA for novelty detection",
Pattern Recognition 40, 2007, here linear). T is the trained log-odds of a vehicle, 0 where no training photos
show `OTHER`. In a sharp photo I and N look at the same detail and are not independent: `detail_discount`
takes back what their sum counts twice. And a large photo differs from small ones in any case:
`detail_offset` is the evidence it needs beyond theirs.

All weights are fitted to predictions for photos that took no part in training (`model.training.fitting`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logsumexp, softmax

from model.labels import OTHER
from model.network import embedding, zero_shot
from model.network.embedding import Embedding, Floats, Integers
from model.network.onnx_graph import Graph


@dataclass(frozen=True)
class RidgeClassifier:
    """A linear classifier of descriptors: D numbers to the logits of T labels."""

    weights: Floats  # [D, T]
    bias: Floats  # [T]

    def logits(self, descriptor: Floats) -> Floats:
        """Return the logits, float [N, T]."""
        return descriptor @ self.weights + self.bias


@dataclass(frozen=True)
class NoveltyDetector:
    """The PCA subspace of the training photos of vehicles, from the embedding's P ``pooled`` numbers.

    The numbers are standardized first: (x - mean) * scale.
    """

    mean: Floats  # [P]
    scale: Floats  # [P]
    pca_basis: Floats  # orthonormal, [directions, P]

    def novelty(self, pooled: Floats) -> Floats:
        """Return distances from the subspace, float [N]."""
        scaled = (pooled - self.mean) * self.scale
        residual = (scaled**2).sum(axis=1) - ((scaled @ self.pca_basis.T) ** 2).sum(axis=1)
        return np.sqrt(np.maximum(residual, 0))


@dataclass(frozen=True)
class Scores:
    """The scores of N photos before fusion; those of ImageNet are 0 if a vehicle has no class there."""

    trained: Floats  # logits of the T trained labels, [N, T]
    novelty: Floats  # distances from the PCA subspace, [N]
    imagenet: Floats  # logits of the K vehicles by their ImageNet classes, [N, K]
    imagenet_vehicle: Floats  # ImageNet's log-odds of any vehicle, [N]
    detail: Floats  # from 0 to 1, [N]


@dataclass(frozen=True)
class FusionWeights:
    """How much each score counts; the names are those of the module's formulas."""

    inverse_temperature: float
    imagenet_scale: float
    imagenet: float
    novelty: float
    trained: float
    bias: float
    detail_discount: float
    detail_offset: float


@dataclass(frozen=True)
class Head:
    """A fitted head."""

    labels: tuple[str, ...]  # of the probabilities, in order, with `OTHER`
    trained_labels: tuple[str, ...]  # of the classifier's logits, in order
    classifier: RidgeClassifier
    detector: NoveltyDetector
    weights: FusionWeights

    @property
    def vehicles(self) -> list[str]:
        """All labels except `OTHER`, in order."""
        return [label for label in self.labels if label != OTHER]

    @property
    def uses_imagenet(self) -> bool:
        """Whether ImageNet has classes for all vehicles."""
        return zero_shot.knows(self.vehicles)

    def predict_proba(self, embeddings: Embedding) -> Floats:
        """Return the probability of each label, float [N, labels]."""
        return self.fuse(self.scores(embeddings))

    def scores(self, embeddings: Embedding) -> Scores:
        """Return the scores to fuse; they do not depend on `weights`."""
        n = len(embeddings)
        imagenet, imagenet_vehicle = np.zeros((n, len(self.vehicles))), np.zeros(n)
        if self.uses_imagenet:
            classes = [zero_shot.IMAGENET_CLASSES[label] for label in self.vehicles]
            imagenet = np.stack([logsumexp(embeddings.logits[:, one], axis=1) for one in classes], axis=1)
            others = np.delete(embeddings.logits, np.concatenate(classes), axis=1)
            imagenet_vehicle = logsumexp(imagenet, axis=1) - logsumexp(others, axis=1)
        return Scores(
            trained=self.classifier.logits(embeddings.descriptor),
            novelty=self.detector.novelty(embeddings.pooled),
            imagenet=imagenet,
            imagenet_vehicle=imagenet_vehicle,
            detail=embeddings.detail[:, 0],
        )

    def fuse(self, scores: Scores) -> Floats:
        """Fuse scores into the probability of each label, float [N, labels]."""
        given_vehicle = softmax(self.class_logits(scores), axis=1)
        vehicle = expit(self.vehicle_logit(scores))
        columns = {label: given_vehicle[:, k] * vehicle for k, label in enumerate(self.vehicles)}
        return np.stack([columns.get(label, 1 - vehicle) for label in self.labels], axis=1)

    def class_logits(self, scores: Scores) -> Floats:
        """Return the logits of the K vehicles, float [N, K]."""
        trained = self.weights.inverse_temperature * scores.trained[:, self._trained_vehicles]
        return trained + self.weights.imagenet_scale * scores.detail[:, None] * scores.imagenet

    def vehicle_logit(self, scores: Scores) -> Floats:
        """Return the log-odds of any vehicle, float [N]."""
        w, detail = self.weights, scores.detail
        evidence = self.evidence(scores) @ np.array([w.imagenet, w.novelty, w.trained]) + w.bias
        logit: Floats = (1 - w.detail_discount * detail) * (evidence - w.detail_offset * detail)
        return logit

    def evidence(self, scores: Scores) -> Floats:
        """Return I, -N and T of the module's formula, float [N, 3]."""
        trained = np.zeros(len(scores.detail))
        if OTHER in self.trained_labels:
            logits = self.weights.inverse_temperature * scores.trained
            other = logits[:, self.trained_labels.index(OTHER)]
            trained = logsumexp(logits[:, self._trained_vehicles], axis=1) - other
        return np.stack([scores.imagenet_vehicle, -scores.novelty, trained], axis=1)

    @property
    def _trained_vehicles(self) -> list[int]:
        return [self.trained_labels.index(label) for label in self.vehicles]


def add_head(graph: Graph, head: Head) -> None:
    """Add the layers from `embedding.OUTPUTS` to ``probabilities``, which compute `Head.predict_proba`."""
    w, vehicles = head.weights, head.vehicles
    trained = graph.add("MatMul", "descriptor", head.classifier.weights)
    trained = graph.add("Mul", graph.add("Add", trained, head.classifier.bias), w.inverse_temperature)
    novelty = _add_novelty(graph, head.detector)
    columns = {label: _column(graph, trained, k) for k, label in enumerate(head.trained_labels)}
    of_vehicles = graph.add("Concat", *(columns[label] for label in vehicles), axis=1)
    class_logits = of_vehicles
    evidence = graph.add("Add", graph.add("Mul", novelty, -w.novelty), w.bias)
    if head.uses_imagenet:
        imagenet, imagenet_vehicle = _add_imagenet(graph, vehicles)
        weighted = graph.add("Mul", imagenet, graph.add("Mul", "detail", w.imagenet_scale))
        class_logits = graph.add("Add", class_logits, weighted)
        evidence = graph.add("Add", evidence, graph.add("Mul", imagenet_vehicle, w.imagenet))
    if OTHER in columns:
        vehicle = graph.add("ReduceLogSumExp", of_vehicles, np.array([1]))
        log_odds = graph.add("Sub", vehicle, columns[OTHER])
        evidence = graph.add("Add", evidence, graph.add("Mul", log_odds, w.trained))
    discount = graph.add("Sub", 1.0, graph.add("Mul", "detail", w.detail_discount))
    evidence = graph.add("Sub", evidence, graph.add("Mul", "detail", w.detail_offset))
    vehicle_logit = graph.add("Mul", discount, evidence)
    given_vehicle = graph.add("Softmax", class_logits, axis=1)
    joint = graph.add("Mul", given_vehicle, graph.add("Sigmoid", vehicle_logit))
    outputs = {label: _column(graph, joint, k) for k, label in enumerate(vehicles)}
    outputs[OTHER] = graph.add("Sigmoid", graph.add("Neg", vehicle_logit))
    graph.add("Concat", *(outputs[label] for label in head.labels), axis=1, output="probabilities")


def _add_novelty(graph: Graph, detector: NoveltyDetector) -> str:
    """Add `NoveltyDetector.novelty`, [N, 1]."""
    scaled = graph.add("Mul", graph.add("Sub", "pooled", detector.mean), detector.scale)
    projected = graph.add("MatMul", scaled, detector.pca_basis.T)
    squares = [graph.add("ReduceSumSquare", one, np.array([1])) for one in (scaled, projected)]
    return graph.add("Sqrt", graph.add("Relu", graph.add("Sub", *squares)))


def _add_imagenet(graph: Graph, vehicles: Sequence[str]) -> tuple[str, str]:
    """Add `Scores.imagenet`, [N, K], and `Scores.imagenet_vehicle`, [N, 1]."""
    classes = [np.array(zero_shot.IMAGENET_CLASSES[label]) for label in vehicles]
    others = np.setdiff1d(np.arange(embedding.OUTPUTS["logits"]), np.concatenate(classes))
    sums = [_log_sum(graph, one) for one in (*classes, others)]
    imagenet = graph.add("Concat", *sums[:-1], axis=1)
    return imagenet, graph.add("Sub", graph.add("ReduceLogSumExp", imagenet, np.array([1])), sums[-1])


def _log_sum(graph: Graph, classes: Integers) -> str:
    return graph.add("ReduceLogSumExp", graph.add("Gather", "logits", classes, axis=1), np.array([1]))


def _column(graph: Graph, table: str, column: int) -> str:
    return graph.add("Gather", table, np.array([column]), axis=1)
