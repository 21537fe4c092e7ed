"""What a model sees of a photo, against plain numpy and Pillow."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from model.network import backbone, embedding
from model.network.backbone import LITE0, LITE2, Network
from model.network.onnx_graph import Graph

SIZE = embedding.SIZE


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def noise(photos: int = 1, side: int = SIZE, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (photos, side, side, 3), np.uint8)


def enlarged() -> np.ndarray:
    """A picture of 32x32, soft as a photo, as `read_pixels` gives it."""
    soft = Image.fromarray(noise(side=5)[0]).resize((32, 32), Image.Resampling.BICUBIC)
    return np.asarray(soft.resize((SIZE, SIZE), Image.Resampling.BICUBIC))[None]


type See = Callable[[np.ndarray], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def see() -> See:
    """All that a model sees of photos, by name."""
    model = embedding.build_graph()
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = list(embedding.OUTPUTS)
    return lambda photos: dict(zip(names, session.run(names, {"image": photos}), strict=True))


def alone(network: Network, size: int) -> See:
    """A network by itself."""
    graph = Graph("alone")
    image = graph.input("image", ["N", size, size, 3])
    backbone.add_network(graph, network, backbone.read_weights(network), image)
    shapes = {tap: ["N", n, "H", "W"] if tap in network.maps else ["N", n] for tap, n in network.taps.items()}
    model = graph.model(shapes).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda photos: dict(
        zip(shapes, session.run(list(shapes), {"image": photos.astype(np.float32)}), strict=True)
    )


@pytest.fixture(scope="module")
def network() -> See:
    return alone(LITE0, SIZE)


@pytest.fixture(scope="module")
def second() -> See:
    return alone(LITE2, embedding.SECOND_SIZE)


def views(photos: np.ndarray) -> np.ndarray:
    """The upright views with their mirror images, as the graph makes them: [4, N, …]."""
    graph = Graph("views")
    image = embedding.add_image(graph)
    upright = graph.add("Concat", image, embedding._middle(graph, image), axis=0)
    both = graph.add("Concat", upright, embedding._mirrored(graph, upright), axis=0)
    numbers = graph.add("Cast", both, to=onnx.TensorProto.FLOAT)
    graph.add("Identity", numbers, output="views")
    (output,) = run(graph.model({"views": ["V", SIZE, SIZE, 3]}), image=photos)
    return output.reshape(embedding.VIEWS, *photos.shape).astype(np.uint8)


def small(photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Photos as if they were small, and their detail."""
    graph = Graph("small")
    seen = embedding._as_if_small(graph, embedding.add_image(graph))
    graph.add("Cast", seen, output="small", to=onnx.TensorProto.FLOAT)
    pixels, detail = run(graph.model({"small": ["N", SIZE, SIZE, 3], "detail": ["N", 1]}), image=photos)
    return pixels.astype(np.uint8), detail


def test_views_are_the_whole_and_the_middle_and_both_mirrored():
    photos = noise(2)
    photos[1] = np.arange(SIZE, dtype=np.uint8)[None, :, None]

    whole, middle, mirrored_whole, mirrored_middle = views(photos)

    assert np.array_equal(whole, photos)
    assert np.array_equal(mirrored_whole, photos[:, :, ::-1])
    assert np.array_equal(mirrored_middle, middle[:, :, ::-1])
    assert middle[1, 0, [0, -1], 0].tolist() == [14, 209]


def test_logits_and_features_are_the_means_over_a_photos_views(see, network):
    photos = noise(2)

    seen = see(photos)

    for k in range(len(photos)):
        of_views = network(views(photos)[:, k])
        assert np.allclose(seen["logits"][k], of_views["logits"].mean(axis=0), atol=1e-4)
        assert np.allclose(seen["features"][k], of_views["features"].mean(axis=0), atol=1e-4)


def test_a_photo_is_seen_alike_alone_and_among_others(see):
    photos = np.concatenate([noise(2), enlarged()])

    together = see(photos)

    assert {name: seen.shape for name, seen in together.items()} == {
        name: (3, width) for name, width in embedding.OUTPUTS.items()
    }
    for k in range(len(photos)):
        for name, alone in see(photos[k : k + 1]).items():
            assert np.allclose(alone[0], together[name][k], atol=1e-4), name


def test_a_picture_that_was_small_is_left_as_it_is():
    pixels, detail = small(enlarged())

    assert detail.tolist() == [[0]]
    assert np.array_equal(pixels, enlarged())


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_picture_of_one_colour_has_no_detail(level):
    photo = np.full((1, SIZE, SIZE, 3), level, np.uint8)

    pixels, detail = small(photo)

    assert detail.tolist() == [[0]]
    assert np.array_equal(pixels, photo)


def test_a_sharp_picture_is_all_detail_and_loses_it():
    pixels, detail = small(noise())

    picture = Image.fromarray(noise()[0]).resize((32, 32), Image.Resampling.BICUBIC)
    expected = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
    assert detail.tolist() == [[1]]
    # Pillow rounds to bytes between the two, the graph does not
    assert np.abs(pixels[0] - expected).max() <= 2


def test_detail_is_the_share_of_contrast_lost_between_the_bounds():
    """A soft picture and noise do not go together: their contrasts add up as squares do."""
    soft = enlarged().astype(float)
    lost = np.random.default_rng(1).normal(size=soft.shape)

    def detail_at(share: float) -> float:
        photo = 127 + (soft - soft.mean()) / soft.std() * 30 + lost * 30 * share / np.sqrt(1 - share**2)
        return float(small(np.clip(np.round(photo), 0, 255).astype(np.uint8))[1][0, 0])

    low, middle, high = (detail_at(share) for share in (0.1, 0.18, 0.27))
    assert (low, high) == (0, 1)
    assert middle == pytest.approx((0.18 - embedding.NO_DETAIL) / (0.24 - embedding.NO_DETAIL), abs=0.1)


@pytest.mark.parametrize("photo", [noise(), enlarged()], ids=["sharp", "small"])
def test_a_photo_and_its_mirror_image_look_the_same_as_they_are(see, photo):
    seen, mirrored = see(photo), see(photo[:, :, ::-1].copy())

    assert np.allclose(seen["detail"], mirrored["detail"], atol=1e-6)
    for name in ("logits", "features"):
        # the middle is enlarged to whole numbers, always rounded down
        assert np.allclose(seen[name], mirrored[name], atol=1e-2), name


def root(matrix: np.ndarray) -> np.ndarray:
    """A symmetric matrix's square root but for a factor, by way of its eigenvalues, in as many steps."""
    values, vectors = np.linalg.eigh(matrix / np.trace(matrix))
    left, roots = values, values
    for _ in range(embedding.ROOT_STEPS):
        left, roots = left * ((3 - left) / 2) ** 2, roots * (3 - left) / 2
    counts = values > 0.01
    assert counts.any()
    assert np.allclose(roots[counts], np.sqrt(values[counts]), rtol=0.01)
    return (vectors * roots) @ vectors.T


def described(network: Network, seen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The pooled numbers and the pairs of activations [V, C, H, W], averaged over the views."""
    parts = []
    for tap in network.maps:
        half = seen[tap].shape[2] // 2
        parts += [seen[tap][:, :, :half].mean(axis=(2, 3)), seen[tap][:, :, half:].mean(axis=(2, 3))]
        parts += [seen[tap].std(axis=(2, 3))]
    deepest = seen["stage6"]
    products = np.einsum("vchw,vdhw->vcd", deepest, deepest, dtype=np.float64)
    pairs = np.stack([root(one)[np.triu_indices(network.maps["stage6"])] for one in products])
    roots = np.sign(pairs) * np.sqrt(np.abs(pairs))
    pairs = roots / np.linalg.norm(roots, axis=1, keepdims=True)
    return np.concatenate([*parts, seen["features"]], axis=1).mean(axis=0), pairs.mean(axis=0)


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture, [H, W, 3], by Pillow, which does not round a plane of floats."""
    planes = [Image.fromarray(plane) for plane in picture.astype(np.float32).transpose(2, 0, 1)]
    return np.stack([np.asarray(one.resize((side, side), Image.Resampling.BICUBIC)) for one in planes], -1)


def test_the_descriptor_is_both_networks_pooled_numbers_and_pairs_of_the_photo_as_if_small(
    see, network, second
):
    photo = noise()
    pixels, _ = small(photo)
    _, _, _, mirrored_middle = views(pixels)
    both = np.concatenate([pixels, mirrored_middle])

    (descriptor,) = see(photo)["descriptor"]

    smaller = np.stack([reduced(one, embedding.SECOND_SIZE) for one in both])
    pooled, pairs = described(LITE0, network(both))
    pooled_second, pairs_second = described(LITE2, second(smaller))
    assert descriptor.shape == (embedding.POOLED + embedding.PAIRS,)
    assert len(pooled) == embedding.POOLED_FIRST
    expected = np.concatenate([pooled, pooled_second, pairs, pairs_second])
    # the root makes much of differences near 0
    assert np.allclose(descriptor, expected, atol=2e-4)
    assert np.abs(np.concatenate([pairs, pairs_second])).max() > 0.02


def test_each_networks_weights_are_in_the_graph_once():
    graph = embedding.build_graph().graph

    weights = [one for one in graph.initializer if one.name.endswith(".weight")]
    assert {one.name.partition(".")[0] for one in weights} == {LITE0.name, LITE2.name}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len({node.input[1] for node in convolutions}) < len(convolutions)
    assert len(graph.SerializeToString()) < 1.1 * sum(len(one.raw_data) for one in weights)


def test_two_photos_are_not_described_alike(see):
    first, second = see(noise(2))["descriptor"]

    assert np.abs(first - second).max() > 0.01
