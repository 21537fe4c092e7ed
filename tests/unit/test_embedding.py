"""The embedding of a photo, compared with plain numpy and Pillow."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from model.network import backbone, embedding
from model.network.backbone import LITE0, LITE2, Network
from model.network.embedding import Embedding
from model.network.onnx_graph import Graph

SIZE = embedding.SIZE


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def noise(photos: int = 1, side: int = SIZE, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (photos, side, side, 3), np.uint8)


def enlarged() -> np.ndarray:
    """A picture of 32x32, as soft as a photo, enlarged as `read_pixels` does."""
    soft = Image.fromarray(noise(side=5)[0]).resize((32, 32), Image.Resampling.BICUBIC)
    return np.asarray(soft.resize((SIZE, SIZE), Image.Resampling.BICUBIC))[None]


type Outputs = Callable[[np.ndarray], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def embed() -> Outputs:
    """The embeddings of photos, by output name."""
    model = embedding.build_graph()
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = list(embedding.OUTPUTS)
    return lambda photos: dict(zip(names, session.run(names, {"image": photos}), strict=True))


def outputs_of(network: Network, size: int) -> Outputs:
    """All outputs of a network by itself."""
    graph = Graph("network")
    image = graph.input("image", ["N", size, size, 3])
    backbone.add_network(graph, network, backbone.read_weights(network), image)
    shapes = {
        name: ["N", n, "H", "W"] if name in network.feature_maps else ["N", n]
        for name, n in network.outputs.items()
    }
    model = graph.model(shapes).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda photos: dict(
        zip(shapes, session.run(list(shapes), {"image": photos.astype(np.float32)}), strict=True)
    )


@pytest.fixture(scope="module")
def network() -> Outputs:
    return outputs_of(LITE0, SIZE)


@pytest.fixture(scope="module")
def second() -> Outputs:
    return outputs_of(LITE2, embedding.SECOND_SIZE)


def views(photos: np.ndarray) -> np.ndarray:
    """The views of the full-resolution branch, as the graph makes them: [4, N, …]."""
    graph = Graph("views")
    image = embedding.add_image(graph)
    upright = graph.add("Concat", image, embedding._center_crop(graph, image), axis=0)
    both = graph.add("Concat", upright, embedding._mirror(graph, upright), axis=0)
    numbers = graph.add("Cast", both, to=onnx.TensorProto.FLOAT)
    graph.add("Identity", numbers, output="views")
    (output,) = run(graph.model({"views": ["V", SIZE, SIZE, 3]}), image=photos)
    return output.reshape(embedding.FULL_RESOLUTION_VIEWS, *photos.shape).astype(np.uint8)


def low_resolution(photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Photos as the low-resolution branch reduces them, and their detail."""
    graph = Graph("low_resolution")
    pixels = embedding.reduce_detail(graph, embedding.add_image(graph))
    graph.add("Cast", pixels, output="low", to=onnx.TensorProto.FLOAT)
    pixels, detail = run(graph.model({"low": ["N", SIZE, SIZE, 3], "detail": ["N", 1]}), image=photos)
    return pixels.astype(np.uint8), detail


def test_views_are_the_photo_and_its_center_crop_and_both_mirrored():
    photos = noise(2)
    photos[1] = np.arange(SIZE, dtype=np.uint8)[None, :, None]

    photo, crop, mirrored_photo, mirrored_crop = views(photos)

    assert np.array_equal(photo, photos)
    assert np.array_equal(mirrored_photo, photos[:, :, ::-1])
    assert np.array_equal(mirrored_crop, crop[:, :, ::-1])
    assert crop[1, 0, [0, -1], 0].tolist() == [14, 209]


def test_logits_and_features_are_averaged_over_a_photos_views(embed, network):
    photos = noise(2)

    outputs = embed(photos)

    for k in range(len(photos)):
        of_views = network(views(photos)[:, k])
        assert np.allclose(outputs["logits"][k], of_views["logits"].mean(axis=0), atol=1e-4)
        assert np.allclose(outputs["features"][k], of_views["features"].mean(axis=0), atol=1e-4)


def test_a_photo_has_the_same_embedding_alone_and_in_a_batch(embed):
    photos = np.concatenate([noise(2), enlarged()])

    together = embed(photos)

    assert {name: values.shape for name, values in together.items()} == {
        name: (3, width) for name, width in embedding.OUTPUTS.items()
    }
    for k in range(len(photos)):
        for name, alone in embed(photos[k : k + 1]).items():
            assert np.allclose(alone[0], together[name][k], atol=1e-4), name


def test_a_picture_that_was_small_already_is_not_reduced():
    pixels, detail = low_resolution(enlarged())

    assert detail.tolist() == [[0]]
    assert np.array_equal(pixels, enlarged())


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_picture_of_one_color_has_no_detail(level):
    photo = np.full((1, SIZE, SIZE, 3), level, np.uint8)

    pixels, detail = low_resolution(photo)

    assert detail.tolist() == [[0]]
    assert np.array_equal(pixels, photo)


def test_a_sharp_picture_has_full_detail_and_loses_it():
    pixels, detail = low_resolution(noise())

    picture = Image.fromarray(noise()[0]).resize((32, 32), Image.Resampling.BICUBIC)
    expected = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
    assert detail.tolist() == [[1]]
    # Pillow rounds to bytes between the two, the graph does not
    assert np.abs(pixels[0] - expected).max() <= 2


def test_detail_is_the_share_of_contrast_lost_between_the_bounds():
    """A soft picture and noise are uncorrelated: the squares of their contrasts add up."""
    soft = enlarged().astype(float)
    lost = np.random.default_rng(1).normal(size=soft.shape)

    def detail_at(share: float) -> float:
        photo = 127 + (soft - soft.mean()) / soft.std() * 30 + lost * 30 * share / np.sqrt(1 - share**2)
        return float(low_resolution(np.clip(np.round(photo), 0, 255).astype(np.uint8))[1][0, 0])

    low, middle, high = (detail_at(share) for share in (0.1, 0.18, 0.27))
    assert (low, high) == (0, 1)
    assert middle == pytest.approx((0.18 - embedding.NO_DETAIL) / (0.24 - embedding.NO_DETAIL), abs=0.1)


@pytest.mark.parametrize("photo", [noise(), enlarged()], ids=["sharp", "small"])
def test_a_photo_and_its_mirror_image_are_the_same_to_the_full_resolution_branch(embed, photo):
    outputs, mirrored = embed(photo), embed(photo[:, :, ::-1].copy())

    assert np.allclose(outputs["detail"], mirrored["detail"], atol=1e-6)
    for name in ("logits", "features"):
        # the center crop is enlarged to whole numbers, always rounded down
        assert np.allclose(outputs[name], mirrored[name], atol=1e-2), name


def square_root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix up to a factor, by its eigenvalues, in as many iterations."""
    values, vectors = np.linalg.eigh(matrix / np.trace(matrix))
    left, roots = values, values
    for _ in range(embedding.SQUARE_ROOT_STEPS):
        left, roots = left * ((3 - left) / 2) ** 2, roots * (3 - left) / 2
    counts = values > 0.01
    assert counts.any()
    assert np.allclose(roots[counts], np.sqrt(values[counts]), rtol=0.01)
    return (vectors * roots) @ vectors.T


def globally_pooled(network: Network, outputs: dict[str, np.ndarray]) -> np.ndarray:
    """Global pooling of feature maps [V, C, H, W], averaged over the views."""
    parts = []
    for feature_map in (outputs[name] for name in network.feature_maps):
        half = feature_map.shape[2] // 2
        parts += [feature_map[:, :, :half].mean(axis=(2, 3)), feature_map[:, :, half:].mean(axis=(2, 3))]
        parts += [feature_map.std(axis=(2, 3))]
    return np.concatenate([*parts, outputs["features"]], axis=1).mean(axis=0)


def bilinearly_pooled(network: Network, outputs: dict[str, np.ndarray]) -> np.ndarray:
    """Bilinear pooling of the deepest feature map [V, C, H, W], averaged over the views."""
    deepest = outputs["stage6"]
    products = np.einsum("vchw,vdhw->vcd", deepest, deepest, dtype=np.float64)
    bilinear = np.stack(
        [square_root(one)[np.triu_indices(network.feature_maps["stage6"])] for one in products]
    )
    roots = np.sign(bilinear) * np.sqrt(np.abs(bilinear))
    return (roots / np.linalg.norm(roots, axis=1, keepdims=True)).mean(axis=0)


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture, [H, W, 3], reduced by Pillow, which does not round a plane of floats."""
    planes = [Image.fromarray(plane) for plane in picture.astype(np.float32).transpose(2, 0, 1)]
    return np.stack([np.asarray(one.resize((side, side), Image.Resampling.BICUBIC)) for one in planes], -1)


def test_the_descriptor_is_bilinear_pooling_of_both_networks_and_novelty_sees_global_pooling_of_the_first(
    embed, network, second
):
    photo = noise()
    pixels, _ = low_resolution(photo)
    _, _, _, mirrored_crop = views(pixels)
    both = np.concatenate([pixels, mirrored_crop])

    outputs = embed(photo)

    smaller = np.stack([reduced(one, embedding.SECOND_SIZE) for one in both])
    first_outputs = network(both)
    expected = [bilinearly_pooled(LITE0, first_outputs), bilinearly_pooled(LITE2, second(smaller))]
    # the signed square root amplifies differences near 0
    assert np.allclose(outputs["descriptor"][0], np.concatenate(expected), atol=2e-4)
    assert np.abs(np.concatenate(expected)).max() > 0.02
    assert np.allclose(outputs["pooled"][0], globally_pooled(LITE0, first_outputs), atol=2e-4)


def test_the_graph_holds_each_networks_weights_once():
    graph = embedding.build_graph().graph

    weights = [one for one in graph.initializer if one.name.endswith(".weight")]
    assert {one.name.partition(".")[0] for one in weights} == {LITE0.name, LITE2.name}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len({node.input[1] for node in convolutions}) < len(convolutions)
    assert len(graph.SerializeToString()) < 1.1 * sum(len(one.raw_data) for one in weights)


def test_two_photos_have_different_descriptors(embed):
    first, second = embed(noise(2))["descriptor"]

    assert np.abs(first - second).max() > 0.01


def test_photos_can_be_selected():
    chance = np.random.default_rng(3)
    embeddings = Embedding(*(chance.normal(size=(5, width)) for width in (3, 3, 3, 3, 1)))

    some = embeddings[np.array([4, 1])]

    assert (len(embeddings), len(some)) == (5, 2)
    assert np.array_equal(some.descriptor, embeddings.descriptor[[4, 1]])
    assert np.array_equal(some.detail, embeddings.detail[[4, 1]])
