import numpy as np
import onnx
import onnxruntime
import pytest

from model.network import zero_shot
from model.network.onnx_graph import Graph
from model.network.zero_shot import LABELS, VEHICLE_PRIOR


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], inputs)[0]


def head() -> onnx.ModelProto:
    """The head by itself, from logits."""
    graph = Graph("head")
    graph.input("logits", ["N", 1000])
    zero_shot.add_head(graph)
    return graph.model({"probabilities": ["N", len(LABELS)]})


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the head's output for one photo."""
    return run(head(), logits=logits[None].astype(np.float32))[0]


def logits_with(masses: dict[int, float]) -> np.ndarray:
    """Make logits of these probabilities, with the rest shared equally by all other classes."""
    rest = (1 - sum(masses.values())) / (1000 - len(masses))
    return np.log([masses.get(index, rest) for index in range(1000)])


def test_priors_are_corrected_as_in_the_paper():
    masses = {444: 0.01, 671: 0.05, 665: 0.002, 670: 0.018}

    bicycle, motorcycle, other = probabilities(logits_with(masses))

    mass = 0.08
    odds = mass / (1 - mass) / (VEHICLE_PRIOR / (1 - VEHICLE_PRIOR))
    vehicle = odds / (1 + odds)
    assert bicycle == pytest.approx(vehicle * 0.06 / mass, rel=1e-4)
    assert motorcycle == pytest.approx(vehicle * 0.02 / mass, rel=1e-4)
    assert other == pytest.approx(1 - vehicle, rel=1e-4)


def test_uniform_logits_give_even_odds():
    assert probabilities(np.zeros(1000)) == pytest.approx([0.25, 0.25, 0.5], rel=1e-4)


@pytest.mark.parametrize(
    ("imagenet_class", "label"),
    [
        (444, "bicycle"),
        (671, "bicycle"),
        (665, "motorcycle"),
        (670, "motorcycle"),
        (880, "other"),
        (0, "other"),
    ],
)
def test_each_imagenet_class_counts_for_its_label(imagenet_class, label):
    assert LABELS[probabilities(logits_with({imagenet_class: 0.9})).argmax()] == label


def test_extreme_logits_stay_probabilities():
    logits = np.zeros(1000)
    logits[671] = 1e4

    assert probabilities(logits).tolist() == [1, 0, 0]


def test_each_photo_is_classified_by_its_own_logits():
    first, second = logits_with({671: 0.5}), logits_with({665: 0.5})

    together = run(head(), logits=np.stack([first, second]).astype(np.float32))

    assert np.allclose(together, [probabilities(first), probabilities(second)], atol=1e-6)


def test_the_graph_maps_pixels_to_probabilities():
    model = zero_shot.build_graph()
    photos = np.random.default_rng(3).integers(0, 256, (3, 224, 224, 3), np.uint8)

    together = run(model, image=photos)
    alone = run(model, image=photos[1:2])

    assert together.shape == (3, 3)
    assert together.sum(1) == pytest.approx([1, 1, 1], rel=1e-5)
    assert alone[0] == pytest.approx(together[1], abs=1e-4)
