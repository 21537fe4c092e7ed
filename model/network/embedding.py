"""What a model sees of a photo: the layers from pixels to numbers, on which every head stands.

A photo is looked at in two ways. **As it is**, whole and its middle alone, both also mirrored, by a network
with all that it learned from ImageNet: so it knows large, sharp photos. And **as if it were small**, reduced
to `SMALL` pixels and enlarged again, which makes photos of every size alike: so what is learned from pictures
of 32x32 holds for them all, and not only for those of 32x32. That is looked at whole and, mirrored, its
middle, by two networks, which see different things. How much of a photo reducing it takes away, its
`detail`, tells how far it is to be done, and how far the photo as it is can be relied on.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from model.network import backbone
from model.network.backbone import LITE0, LITE2, Network
from model.network.onnx_graph import Graph

SIZE = 224
"""Height and width of what a model takes, in pixels: what `LITE0` was trained on."""

SECOND_SIZE = 160
"""And of what `LITE2` is given of it, in pixels. It was trained on 260; of enlarged pictures of 32x32 it sees
no less at this size, for a third of the work."""

CUBIC: dict[str, Any] = {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}
"""Pillow's bicubic filter."""

SMALL = 32
"""Height and width of CIFAR's pictures, in pixels."""

NO_DETAIL, ALL_DETAIL = 0.12, 0.24
"""Shares of a photo's contrast that reducing it takes away: a photo that loses less than the first is as good
as small already, one that loses the second or more is not small at all. Of CIFAR's 1,000 training pictures,
which are small, 99% lose less than .12."""

CENTRE = 0.875
"""The middle of a picture on which ImageNet's networks are tested: 224 of 256 pixels."""

ROOT_STEPS = 8
"""After which cross-validation sees no more of a matrix's square root (docs/decisions.md)."""

VIEWS, SMALL_VIEWS = 4, 2
"""Of the photo as it is, and of it reduced."""

POOLED_FIRST, POOLED_SECOND = (
    3 * sum(network.maps.values()) + backbone.FEATURES for network in (LITE0, LITE2)
)
POOLED = POOLED_FIRST + POOLED_SECOND
PAIRS = sum(n * (n + 1) // 2 for n in (LITE0.maps["stage6"], LITE2.maps["stage6"]))

OUTPUTS = {
    "logits": backbone.CLASSES,
    "features": backbone.FEATURES,
    "descriptor": POOLED + PAIRS,
    "detail": 1,
}
"""What `add_features` gives, and how many numbers each is a photo."""


def build_graph() -> onnx.ModelProto:
    """Build a graph from ``image``, uint8 RGB [N, 224, 224, 3], to `OUTPUTS`, each float32 [N, …]."""
    graph = Graph("features")
    add_features(graph, add_image(graph))
    return graph.model({name: ["N", width] for name, width in OUTPUTS.items()})


def add_image(graph: Graph) -> str:
    """Declare the input that every model has: ``image``, uint8 RGB [N, 224, 224, 3]."""
    return graph.input("image", ["N", SIZE, SIZE, 3], TensorProto.UINT8)


def finish(graph: Graph, labels: int) -> onnx.ModelProto:
    """Finish a model with the outputs that every model has: ``probabilities`` and ``features``."""
    return graph.model({"probabilities": ["N", labels], "features": ["N", OUTPUTS["features"]]})


def add_features(graph: Graph, image: str) -> None:
    """Add all layers from pixels to `OUTPUTS`: those of `add_as_it_is` and of `add_as_if_small`.

    Parameters
    ----------
    graph
        What to add to.
    image
        The input by its name: uint8 RGB [N, 224, 224, 3].
    """
    add_as_it_is(graph, image)
    add_as_if_small(graph, image)


def add_as_it_is(graph: Graph, image: str) -> None:
    """Add what is seen of the photo as it is, averaged over its views.

    That is ``logits``, ImageNet's, and ``features``, the activations before them.

    Parameters
    ----------
    graph, image
        As of `add_features`.
    """
    upright = graph.add("Concat", image, _middle(graph, image), axis=0)
    views = graph.add("Concat", upright, _mirrored(graph, upright), axis=0)
    backbone.add_network(graph, LITE0, backbone.read_weights(LITE0), views, prefix="whole.")
    for tap in ("logits", "features"):
        _mean_over_views(graph, f"whole.{tap}", VIEWS, output=tap)


def add_as_if_small(graph: Graph, image: str) -> None:
    """Add what is seen of the photo as if it were small.

    - ``descriptor``: the activations of both networks at three depths: their means over the upper and the
      lower half and their deviations, and the last activations' means, `POOLED` numbers; then how channels go
      together (`_pairs`), `PAIRS` numbers; averaged over the views.
    - ``detail``: from 0, the photo is as good as small, to 1, it is not small at all.

    Parameters
    ----------
    graph, image
        As of `add_features`.
    """
    whole = _as_if_small(graph, image)
    views = graph.add("Concat", whole, _mirrored(graph, _middle(graph, whole)), axis=0)
    views_of = {LITE0: views, LITE2: _reduced(graph, views)}
    pooled, pairs = [], []
    for network, seen in views_of.items():
        prefix = f"small.{network.name}."
        backbone.add_network(graph, network, backbone.read_weights(network), seen, prefix)
        pooled += _pooled(graph, network, prefix)
        pairs.append(_pairs(graph, network, prefix))
    descriptor = graph.add("Concat", *pooled, *pairs, axis=1)
    _mean_over_views(graph, descriptor, SMALL_VIEWS, output="descriptor")


def _as_if_small(graph: Graph, image: str) -> str:
    """Reduce photos to `SMALL` pixels and enlarge them again, as far as they have detail; add ``detail``.

    A picture that was small is left as it is: to reduce it once more would only blur it. The result is
    uint8 [N, 224, 224, 3].
    """
    planes = backbone.as_planes(graph, image)
    reduced = graph.add("Resize", planes, "", _scales(SMALL / SIZE), antialias=1, **CUBIC)
    enlarged = graph.add("Resize", reduced, "", _scales(SIZE / SMALL), **CUBIC)
    taken_away = graph.add("Sub", planes, enlarged)

    everywhere = np.array([1, 2, 3])
    contrast = graph.add("Sub", planes, graph.add("ReduceMean", planes, everywhere))
    # a picture of one colour has no contrast to lose
    most = graph.add("Add", _mean_square(graph, contrast, everywhere), 1.0)
    share = graph.add("Sqrt", graph.add("Div", _mean_square(graph, taken_away, everywhere), most))
    above = graph.add("Div", graph.add("Sub", share, NO_DETAIL), ALL_DETAIL - NO_DETAIL)
    detail = graph.add("Clip", above, 0.0, 1.0)
    graph.add("Flatten", detail, output="detail")

    small = graph.add("Round", graph.add("Sub", planes, graph.add("Mul", taken_away, detail)))
    pixels = graph.add("Cast", graph.add("Clip", small, 0.0, 255.0), to=TensorProto.UINT8)
    return graph.add("Transpose", pixels, perm=[0, 2, 3, 1])


def _scales(factor: float) -> npt.NDArray[np.float32]:
    """Scale height and width: ONNX Runtime 1.31 mixes up sizes given for axes next to a transposition."""
    return np.array([1, 1, factor, factor], np.float32)


def _reduced(graph: Graph, pictures: str) -> str:
    """Reduce pictures, uint8 [N, H, W, 3], to what the second network gets: float32, 160 of 224 pixels."""
    planes = backbone.as_planes(graph, pictures)
    reduced = graph.add("Resize", planes, "", _scales(SECOND_SIZE / SIZE), antialias=1, **CUBIC)
    return graph.add("Transpose", reduced, perm=[0, 2, 3, 1])


def _mean_square(graph: Graph, signal: str, axes: npt.NDArray[np.int64]) -> str:
    return graph.add("ReduceMean", graph.add("Mul", signal, signal), axes)


def _middle(graph: Graph, image: str) -> str:
    """Cut out the middle, `CENTRE` of the side, and enlarge it."""
    margin = round(SIZE * (1 - CENTRE) / 2)
    start, end = np.array([margin, margin]), np.array([SIZE - margin, SIZE - margin])
    middle = graph.add("Slice", image, start, end, np.array([1, 2]))
    return graph.add("Resize", middle, "", "", np.array([SIZE, SIZE]), mode="linear", axes=[1, 2])


def _mirrored(graph: Graph, pictures: str) -> str:
    """Mirror pictures, [N, H, W, 3]."""
    before_first = np.array([np.iinfo(np.int64).min])
    return graph.add("Slice", pictures, np.array([-1]), before_first, np.array([2]), np.array([-1]))


def _mean_over_views(graph: Graph, signal: str, views: int, output: str) -> None:
    """Average over the views of each photo, which stand N photos of one view after N of another."""
    by_view = graph.add("Reshape", signal, np.array([views, -1, OUTPUTS[output]]))
    graph.add("ReduceMean", by_view, np.array([0]), output=output, keepdims=0)


def _pooled(graph: Graph, network: Network, prefix: str) -> list[str]:
    """Average a network's activations at its depths, as `_moments` does, and give the last ones' means."""
    moments = [part for tap in network.maps for part in _moments(graph, f"{prefix}{tap}")]
    return [*moments, f"{prefix}features"]


def _moments(graph: Graph, activations: str) -> list[str]:
    """Average activations [N, C, H, W] over the upper and over the lower half, and give their deviation."""
    height = graph.add("Shape", activations, start=2, end=3)
    half = graph.add("Div", height, np.array([2]))
    rows, everywhere = np.array([2]), np.array([2, 3])
    upper = graph.add("Slice", activations, np.array([0]), half, rows)
    lower = graph.add("Slice", activations, half, height, rows)
    mean = graph.add("ReduceMean", activations, everywhere)
    variance = _mean_square(graph, graph.add("Sub", activations, mean), everywhere)
    return [
        graph.add("ReduceMean", upper, everywhere, keepdims=0),
        graph.add("ReduceMean", lower, everywhere, keepdims=0),
        graph.add("Flatten", graph.add("Sqrt", variance)),
    ]


def _pairs(graph: Graph, network: Network, prefix: str) -> str:
    """Say how much of each two channels there is in the same places, whatever the places are.

    The products of all pairs of channels, summed over places: T.-Y. Lin, A. RoyChowdhury, S. Maji, "Bilinear
    CNN models for fine-grained visual recognition" (ICCV 2015), section 3.1. Of their matrix the square root
    is taken (P. Li, J. Xie, Q. Wang, W. Zuo, "Is second-order information helpful for large-scale visual
    recognition?", ICCV 2017), so that what is everywhere in a picture does not drown the rest, then that of
    each number with its sign, all together of length 1.
    """
    channels = network.maps["stage6"]
    by_place = graph.add("Reshape", f"{prefix}stage6", np.array([0, channels, -1]))
    root = graph.add("Flatten", _root(graph, by_place))
    rows, columns = np.triu_indices(channels)
    pairs = graph.add("Gather", root, rows * channels + columns, axis=1)
    roots = graph.add("Mul", graph.add("Sign", pairs), graph.add("Sqrt", graph.add("Abs", pairs)))
    return graph.add("LpNormalization", roots, axis=1, p=2)


def _root(graph: Graph, matrix: str) -> str:
    """Take the square root of XX' but for a factor, [N, C, C], of X, [N, C, P]: it is X (X'X)^(-1/2) X'.

    By Newton's and Schulz's iteration (N. J. Higham, "Functions of matrices", 2008, chapter 6), from the
    smaller side of X. What X has very little of, a few steps leave small.
    """
    transposed = graph.add("Transpose", matrix, perm=[0, 2, 1])
    products = graph.add("MatMul", transposed, matrix)
    trace = graph.add("ReduceSumSquare", matrix, np.array([1, 2]))
    half = graph.add("Div", products, graph.add("Mul", trace, 2.0))
    square = graph.add("ConstantOfShape", graph.add("Shape", products, start=1))
    three_halves = graph.add("Mul", graph.add("EyeLike", square), 1.5)
    for _ in range(ROOT_STEPS):
        factor = graph.add("Sub", three_halves, half)
        matrix = graph.add("MatMul", matrix, factor)
        half = graph.add("MatMul", graph.add("MatMul", half, factor), factor)
    return graph.add("MatMul", matrix, transposed)
