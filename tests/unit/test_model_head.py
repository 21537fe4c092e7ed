"""The head as a graph against the head in numpy, and the formulas of either."""

from dataclasses import astuple

import numpy as np
import onnx
import onnxruntime
import pytest
from scipy.special import expit, log_softmax, logsumexp, softmax

from model.network import embedding, fusion
from model.network.fusion import Expert, Head, Scale, Seen, Weighing
from model.network.onnx_graph import Graph

WEIGHING = Weighing(alpha=1.3, beta=0.7, a=0.4, b=0.2, c=0.6, d=1.5, e=0.6, f=0.9)


def photos(n: int = 50, seed: int = 3) -> Seen:
    """What might be seen of photos, the detail from none to all."""
    chance = np.random.default_rng(seed)
    seen = {name: chance.normal(size=(n, width)) for name, width in embedding.OUTPUTS.items()}
    seen["logits"] *= 3
    seen["detail"] = np.linspace(0, 1, n)[:, None]
    return Seen(**{name: numbers.astype(np.float32) for name, numbers in seen.items()})


def expert(trained: int, seed: int = 8) -> Expert:
    chance = np.random.default_rng(seed)
    scale = Scale.fit(photos(20, seed).descriptor * 2 + 1)
    span, _ = np.linalg.qr(chance.normal(size=(embedding.POOLED_FIRST, 8)))
    weights = chance.normal(size=(embedding.POOLED + embedding.PAIRS, trained)) / 3
    return Expert(scale, weights, chance.normal(size=trained), span.T)


def made(labels: tuple[str, ...], trained: tuple[str, ...]) -> Head:
    return Head(labels, trained, expert(len(trained)), WEIGHING)


def by_graph(one: Head, seen: Seen) -> np.ndarray:
    graph = Graph("head")
    for name, width in embedding.OUTPUTS.items():
        graph.input(name, ["N", width])
    fusion.add_head(graph, one)
    wanted = [name for name in embedding.OUTPUTS if any(name in node.input for node in graph._nodes)]
    graph._inputs = {name: graph._inputs[name] for name in wanted}
    model = graph.model({"probabilities": ["N", len(one.labels)]})
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: getattr(seen, name) for name in wanted})[0]


HEADS = {
    "two vehicles": made(("bicycle", "motorcycle", "other"), ("bicycle", "motorcycle")),
    "two vehicles and other": made(("bicycle", "motorcycle", "other"), ("bicycle", "motorcycle", "other")),
    "other in the middle": made(("bicycle", "other", "van"), ("bicycle", "other", "van")),
    "vehicles that ImageNet does not know": made(("tram", "van", "other"), ("tram", "van")),
    "one vehicle and other": made(("bicycle", "other"), ("bicycle", "other")),
    "five labels": made(
        ("bicycle", "motorcycle", "tram", "van", "other"), ("bicycle", "motorcycle", "tram", "van", "other")
    ),
}
every_head = pytest.mark.parametrize("one", HEADS.values(), ids=HEADS)


@every_head
def test_the_graph_agrees_with_numpy(one):
    seen = photos()

    expected = one.probabilities(seen)

    assert np.abs(by_graph(one, seen) - expected).max() < 1e-5
    # and there is something to agree on
    assert expected.std(axis=0).min() > 0.01


@every_head
def test_probabilities_add_up_to_one(one):
    for probabilities in (one.probabilities(photos()), by_graph(one, photos())):
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        assert probabilities.min() >= 0


@every_head
def test_extreme_numbers_stay_probabilities(one):
    seen = photos(4)
    far = Seen(seen.logits * 1000, seen.features, seen.descriptor * 1000, seen.detail)

    for probabilities in (one.probabilities(far), by_graph(one, far)):
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_it_is_the_formula():
    """Of detail g: softmax(alpha s + beta g z), sigmoid((1 - e g) (a m - b n + c t + d - f g)), by hand."""
    one, seen = HEADS["two vehicles and other"], photos(5)
    alpha, beta, a, b, c, d, e, f = astuple(WEIGHING)

    s, n = one.expert(seen.descriptor)
    log_p = log_softmax(seen.logits.astype(float), axis=1)
    bicycle, motorcycle = np.logaddexp(*log_p[:, [444, 671]].T), np.logaddexp(*log_p[:, [665, 670]].T)
    vehicle_mass = np.exp(bicycle) + np.exp(motorcycle)
    g = seen.detail[:, 0]
    which = softmax(alpha * s[:, :2] + beta * g[:, None] * np.stack([bicycle, motorcycle], axis=1), axis=1)
    m = np.log(vehicle_mass / (1 - vehicle_mass))
    t = logsumexp(alpha * s[:, :2], axis=1) - alpha * s[:, 2]
    vehicle = expit((1 - e * g) * (a * m - b * n + c * t + d - f * g))

    expected = np.column_stack([which * vehicle[:, None], 1 - vehicle])
    assert np.allclose(one.probabilities(seen), expected, atol=1e-5)


def test_without_detail_imagenet_does_not_say_which_vehicle_it_is():
    one, seen = HEADS["two vehicles"], photos(5)
    unlike = photos(5, seed=8)
    still = [
        Seen(logits, seen.features, seen.descriptor, seen.detail * 0)
        for logits in (seen.logits, unlike.logits)
    ]

    shares = [one.probabilities(photo)[:, :2] for photo in still]

    assert np.allclose(*(part / part.sum(axis=1, keepdims=True) for part in shares), atol=1e-6)


def test_the_expert_scales_then_weighs_and_measures_what_its_span_leaves():
    one, seen = expert(3), photos(4)

    logits, distance = one(seen.descriptor)

    scaled = (seen.descriptor - one.scale.mean) * one.scale.weight
    pooled = scaled[:, : embedding.POOLED_FIRST].astype(float)
    left = pooled - pooled @ one.span.T @ one.span
    assert np.allclose(logits, scaled @ one.weights + one.bias, atol=1e-5)
    assert np.allclose(distance, np.linalg.norm(left, axis=1), rtol=1e-4)


def test_scaled_both_parts_vary_as_they_are_to_and_pooled_numbers_alike():
    descriptor = photos(200).descriptor * np.linspace(0.1, 9, embedding.POOLED + embedding.PAIRS) + 4

    scaled = Scale.fit(descriptor)(descriptor)

    pooled, pairs = scaled[:, : embedding.POOLED], scaled[:, embedding.POOLED :]
    assert np.allclose(scaled.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(pooled.std(axis=0), pooled.std(axis=0)[0], rtol=1e-4)
    assert (pooled.var(axis=0).sum(), pairs.var(axis=0).sum()) == pytest.approx((0.4, 1.6), rel=1e-4)
    # the pairs keep their proportions
    assert pairs[:, -1].std() / pairs[:, 0].std() == pytest.approx(
        descriptor[:, -1].std() / descriptor[:, embedding.POOLED].std(), rel=1e-4
    )


def test_what_never_varies_says_nothing():
    descriptor = photos(20).descriptor
    descriptor[:, [0, -1]] = 3

    scaled = Scale.fit(descriptor)(descriptor + 1)

    assert (scaled[:, [0, -1]] * [1, 0] == 0).all()
    assert np.isfinite(scaled).all()


def test_seen_can_be_cut():
    seen = photos(5)

    some = seen[np.array([4, 1])]

    assert (len(seen), len(some)) == (5, 2)
    assert np.array_equal(some.descriptor, seen.descriptor[[4, 1]])
    assert np.array_equal(some.detail, seen.detail[[4, 1]])
