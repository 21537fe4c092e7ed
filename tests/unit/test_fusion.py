"""The head as a graph compared with the head in numpy, and the formulas of both."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from scipy.special import expit, log_softmax, logsumexp, softmax

from model.network import embedding, fusion
from model.network.embedding import Embedding
from model.network.fusion import FusionWeights, Head, NoveltyDetector, RidgeClassifier
from model.network.onnx_graph import Graph

WEIGHTS = FusionWeights(
    inverse_temperature=1.3,
    imagenet_scale=0.7,
    imagenet=0.4,
    novelty=0.2,
    trained=0.6,
    bias=1.5,
    detail_discount=0.6,
    detail_offset=0.9,
)


def photos(n: int = 50, seed: int = 3) -> Embedding:
    """Random embeddings, with detail from 0 to 1."""
    chance = np.random.default_rng(seed)
    outputs = {name: chance.normal(size=(n, width)) for name, width in embedding.OUTPUTS.items()}
    outputs["logits"] *= 3
    outputs["detail"] = np.linspace(0, 1, n)[:, None]
    return Embedding(**{name: numbers.astype(np.float32) for name, numbers in outputs.items()})


def classifier(labels: int, seed: int = 8) -> RidgeClassifier:
    chance = np.random.default_rng(seed)
    weights = chance.normal(size=(embedding.OUTPUTS["descriptor"], labels)) / 60
    return RidgeClassifier(weights, chance.normal(size=labels))


def detector(seed: int = 8) -> NoveltyDetector:
    chance = np.random.default_rng(seed)
    size = embedding.OUTPUTS["pooled"]
    basis, _ = np.linalg.qr(chance.normal(size=(size, 8)))
    return NoveltyDetector(chance.normal(size=size), chance.uniform(0.01, 0.02, size), basis.T)


def made(labels: tuple[str, ...], trained: tuple[str, ...]) -> Head:
    return Head(labels, trained, classifier(len(trained)), detector(), WEIGHTS)


def by_graph(one: Head, embeddings: Embedding) -> np.ndarray:
    graph = Graph("head")
    for name, width in embedding.OUTPUTS.items():
        graph.input(name, ["N", width])
    fusion.add_head(graph, one)
    wanted = [name for name in embedding.OUTPUTS if any(name in node.input for node in graph._nodes)]
    graph._inputs = {name: graph._inputs[name] for name in wanted}
    model = graph.model({"probabilities": ["N", len(one.labels)]})
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: getattr(embeddings, name) for name in wanted})[0]


HEADS = {
    "two vehicles": made(("bicycle", "motorcycle", "other"), ("bicycle", "motorcycle")),
    "two vehicles and other": made(("bicycle", "motorcycle", "other"), ("bicycle", "motorcycle", "other")),
    "other in the middle": made(("bicycle", "other", "van"), ("bicycle", "other", "van")),
    "vehicles without ImageNet classes": made(("tram", "van", "other"), ("tram", "van")),
    "one vehicle and other": made(("bicycle", "other"), ("bicycle", "other")),
    "five labels": made(
        ("bicycle", "motorcycle", "tram", "van", "other"), ("bicycle", "motorcycle", "tram", "van", "other")
    ),
}
every_head = pytest.mark.parametrize("one", HEADS.values(), ids=HEADS)


@every_head
def test_the_graph_agrees_with_numpy(one):
    embeddings = photos()

    expected = one.predict_proba(embeddings)

    assert np.abs(by_graph(one, embeddings) - expected).max() < 1e-5
    # and there is something to agree on
    assert expected.std(axis=0).min() > 0.01


@every_head
def test_probabilities_add_up_to_one(one):
    for probabilities in (one.predict_proba(photos()), by_graph(one, photos())):
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        assert probabilities.min() >= 0


@every_head
def test_extreme_numbers_stay_probabilities(one):
    near = photos(4)
    far = replace(
        near, logits=near.logits * 1000, descriptor=near.descriptor * 1000, pooled=near.pooled * 1000
    )

    for probabilities in (one.predict_proba(far), by_graph(one, far)):
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_probabilities_follow_the_formulas():
    one, embeddings, w = HEADS["two vehicles and other"], photos(5), WEIGHTS

    logits, novelty = (
        one.classifier.logits(embeddings.descriptor),
        one.detector.novelty(embeddings.pooled),
    )
    log_p = log_softmax(embeddings.logits.astype(float), axis=1)
    bicycle, motorcycle = np.logaddexp(*log_p[:, [444, 671]].T), np.logaddexp(*log_p[:, [665, 670]].T)
    mass = np.exp(bicycle) + np.exp(motorcycle)
    detail = embeddings.detail[:, 0]
    trained = w.inverse_temperature * logits
    imagenet = w.imagenet_scale * detail[:, None] * np.stack([bicycle, motorcycle], axis=1)
    given_vehicle = softmax(trained[:, :2] + imagenet, axis=1)
    evidence = (
        w.imagenet * np.log(mass / (1 - mass))
        - w.novelty * novelty
        + w.trained * (logsumexp(trained[:, :2], axis=1) - trained[:, 2])
        + w.bias
        - w.detail_offset * detail
    )
    vehicle = expit((1 - w.detail_discount * detail) * evidence)

    expected = np.column_stack([given_vehicle * vehicle[:, None], 1 - vehicle])
    assert np.allclose(one.predict_proba(embeddings), expected, atol=1e-5)


def test_without_detail_imagenet_does_not_influence_which_vehicle_it_is():
    one, embeddings = HEADS["two vehicles"], photos(5)
    without_detail = [
        replace(embeddings, logits=logits, detail=embeddings.detail * 0)
        for logits in (embeddings.logits, photos(5, seed=8).logits)
    ]

    shares = [one.predict_proba(some)[:, :2] for some in without_detail]

    assert np.allclose(*(part / part.sum(axis=1, keepdims=True) for part in shares), atol=1e-6)


def test_the_classifier_is_linear():
    one, descriptor = classifier(3), photos(4).descriptor

    assert np.allclose(one.logits(descriptor), descriptor @ one.weights + one.bias, atol=1e-5)


def test_novelty_is_the_distance_from_the_pca_subspace_of_standardized_numbers():
    one, pooled = detector(), photos(4).pooled

    novelty = one.novelty(pooled)

    scaled = (pooled - one.mean) * one.scale
    residual = scaled - scaled @ one.pca_basis.T @ one.pca_basis
    assert np.allclose(novelty, np.linalg.norm(residual, axis=1), rtol=1e-4)
