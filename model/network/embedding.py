"""The embedding of a photo: frozen networks pretrained on ImageNet, as ONNX layers from pixels to vectors.

Two branches look at the photo:

- The **full-resolution branch** runs EfficientNet-Lite0 on four views: the photo, its center crop, and both
  mirrored. It gives ImageNet logits, which recognize large, sharp photos.
- The **low-resolution branch** reduces the photo to `LOW_RESOLUTION` pixels and enlarges it again, so that
  photos of every size look alike and what is learned from pictures of 32x32 transfers to all of them. It runs
  EfficientNet-Lite0 and -Lite2 on two views, the photo and its mirrored center crop. Bilinear pooling gives
  the descriptor that a classifier is trained on; global pooling of -Lite0 measures how novel a photo is.

`detail`, from 0 to 1, measures how much of a photo's contrast the reduction removes. It decides how far the
low-resolution branch reduces the photo, and how much ImageNet's logits count (`model.network.fusion`).
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from model.network import backbone
from model.network.backbone import LITE0, LITE2, Network
from model.network.onnx_graph import Graph

SIZE = 224
"""Height and width of a model's input, in pixels: the size `LITE0` was trained on."""

SECOND_SIZE = 160
"""Height and width of `LITE2`'s input, in pixels. It was trained on 260, but on enlarged pictures of 32x32 it
is as accurate at 160, for a third of the work."""

CUBIC: dict[str, Any] = {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}
"""Pillow's bicubic filter."""

LOW_RESOLUTION = 32
"""Height and width of CIFAR's pictures, in pixels."""

NO_DETAIL, FULL_DETAIL = 0.12, 0.24
"""The shares of contrast lost by reducing a photo at which its `detail` is 0 and 1. Of CIFAR's 1,000 training
pictures, which are small already, 99% lose less than .12."""

CENTER_CROP = 0.875
"""The side of the center crop: 224 of 256 pixels, as ImageNet networks are evaluated."""

SQUARE_ROOT_STEPS = 8
"""Newton-Schulz iterations; cross-validation sees no difference to the exact root (docs/decisions.md)."""

FULL_RESOLUTION_VIEWS, LOW_RESOLUTION_VIEWS = 4, 2

OUTPUTS = {
    "logits": backbone.CLASSES,
    "features": backbone.FEATURES,
    "descriptor": sum(n * (n + 1) // 2 for n in (one.feature_maps["stage6"] for one in (LITE0, LITE2))),
    "pooled": 3 * sum(LITE0.feature_maps.values()) + backbone.FEATURES,
    "detail": 1,
}
"""The outputs of `add_embedding`, and the length of each per photo."""

type Floats = npt.NDArray[np.floating]
type Integers = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Embedding:
    """The embeddings of N photos: one array for each of `OUTPUTS`, float32 [N, length]."""

    logits: Floats
    features: Floats
    descriptor: Floats
    pooled: Floats
    detail: Floats

    def __getitem__(self, index: Integers | npt.NDArray[np.bool_]) -> Self:
        """Select photos, as numpy does rows."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.detail)


def build_graph() -> onnx.ModelProto:
    """Build a graph from ``image``, uint8 RGB [N, 224, 224, 3], to `OUTPUTS`, each float32 [N, length]."""
    graph = Graph("features")
    add_embedding(graph, add_image(graph))
    return graph.model({name: ["N", width] for name, width in OUTPUTS.items()})


def add_image(graph: Graph) -> str:
    """Declare every model's input: ``image``, uint8 RGB [N, 224, 224, 3]."""
    return graph.input("image", ["N", SIZE, SIZE, 3], TensorProto.UINT8)


def finish(graph: Graph, labels: int) -> onnx.ModelProto:
    """Finish a model with every model's outputs: ``probabilities`` and ``features``."""
    return graph.model({"probabilities": ["N", labels], "features": ["N", OUTPUTS["features"]]})


def add_embedding(graph: Graph, image: str) -> None:
    """Add both branches, from `image` to `OUTPUTS`."""
    add_full_resolution(graph, image)
    add_low_resolution(graph, image)


def add_full_resolution(graph: Graph, image: str) -> None:
    """Add the branch to ``logits``, ImageNet's, and ``features``, the activations before them."""
    upright = graph.add("Concat", image, _center_crop(graph, image), axis=0)
    views = graph.add("Concat", upright, _mirror(graph, upright), axis=0)
    backbone.add_network(graph, LITE0, backbone.read_weights(LITE0), views, prefix="whole.")
    for output in ("logits", "features"):
        _average_views(graph, f"whole.{output}", FULL_RESOLUTION_VIEWS, output)


def add_low_resolution(graph: Graph, image: str) -> None:
    """Add the branch to ``detail``, ``descriptor`` and ``pooled``."""
    low = reduce_detail(graph, image)
    views = graph.add("Concat", low, _mirror(graph, _center_crop(graph, low)), axis=0)
    _average_views(graph, describe(graph, views), LOW_RESOLUTION_VIEWS, "descriptor")
    pooled = graph.add("Concat", *_global_pooling(graph, LITE0), axis=1)
    _average_views(graph, pooled, LOW_RESOLUTION_VIEWS, "pooled")


def reduce_detail(graph: Graph, image: str) -> str:
    """Reduce photos to `LOW_RESOLUTION` and enlarge them again, uint8 [N, 224, 224, 3], and add ``detail``.

    The reduction counts in proportion to detail. A picture that was small already remains unchanged: reducing
    it once more would only blur it.
    """
    planes = backbone.channels_first(graph, image)
    reduced = graph.add("Resize", planes, "", _scales(LOW_RESOLUTION / SIZE), antialias=1, **CUBIC)
    enlarged = graph.add("Resize", reduced, "", _scales(SIZE / LOW_RESOLUTION), **CUBIC)
    lost = graph.add("Sub", planes, enlarged)

    everywhere = np.array([1, 2, 3])
    contrast = graph.add("Sub", planes, graph.add("ReduceMean", planes, everywhere))
    # a picture of one color has no contrast to lose
    variance = graph.add("Add", _mean_square(graph, contrast, everywhere), 1.0)
    share = graph.add("Sqrt", graph.add("Div", _mean_square(graph, lost, everywhere), variance))
    above = graph.add("Div", graph.add("Sub", share, NO_DETAIL), FULL_DETAIL - NO_DETAIL)
    detail = graph.add("Clip", above, 0.0, 1.0)
    graph.add("Flatten", detail, output="detail")

    low = graph.add("Round", graph.add("Sub", planes, graph.add("Mul", lost, detail)))
    pixels = graph.add("Cast", graph.add("Clip", low, 0.0, 255.0), to=TensorProto.UINT8)
    return graph.add("Transpose", pixels, perm=[0, 2, 3, 1])


def describe(graph: Graph, pixels: str) -> str:
    """Add both networks and their bilinear pooling, from uint8 [N, H, W, 3] to float32 [N, length]."""
    inputs = {LITE0: pixels, LITE2: _resize_for_second(graph, pixels)}
    for network, resized in inputs.items():
        backbone.add_network(graph, network, backbone.read_weights(network), resized, f"{network.name}.")
    return graph.add("Concat", *(_bilinear_pooling(graph, network) for network in inputs), axis=1)


def _scales(factor: float) -> npt.NDArray[np.float32]:
    """Scale height and width: ONNX Runtime 1.31 mixes up sizes given for axes next to a transposition."""
    return np.array([1, 1, factor, factor], np.float32)


def _resize_for_second(graph: Graph, pixels: str) -> str:
    """Reduce uint8 [N, H, W, 3] from `SIZE` to `SECOND_SIZE`: float32."""
    planes = backbone.channels_first(graph, pixels)
    reduced = graph.add("Resize", planes, "", _scales(SECOND_SIZE / SIZE), antialias=1, **CUBIC)
    return graph.add("Transpose", reduced, perm=[0, 2, 3, 1])


def _mean_square(graph: Graph, signal: str, axes: npt.NDArray[np.int64]) -> str:
    return graph.add("ReduceMean", graph.add("Mul", signal, signal), axes)


def _center_crop(graph: Graph, image: str) -> str:
    """Cut out the center, `CENTER_CROP` of the side, and enlarge it to the full size."""
    margin = round(SIZE * (1 - CENTER_CROP) / 2)
    start, end = np.array([margin, margin]), np.array([SIZE - margin, SIZE - margin])
    crop = graph.add("Slice", image, start, end, np.array([1, 2]))
    return graph.add("Resize", crop, "", "", np.array([SIZE, SIZE]), mode="linear", axes=[1, 2])


def _mirror(graph: Graph, pixels: str) -> str:
    """Mirror [N, H, W, 3] left to right."""
    before_first = np.array([np.iinfo(np.int64).min])
    return graph.add("Slice", pixels, np.array([-1]), before_first, np.array([2]), np.array([-1]))


def _average_views(graph: Graph, signal: str, views: int, output: str) -> None:
    """Average each photo's views; all photos of one view come before those of the next."""
    by_view = graph.add("Reshape", signal, np.array([views, -1, OUTPUTS[output]]))
    graph.add("ReduceMean", by_view, np.array([0]), output=output, keepdims=0)


def _global_pooling(graph: Graph, network: Network) -> list[str]:
    """Pool each feature map as `_moments` does; the last of the list are the ``features``."""
    moments = [part for name in network.feature_maps for part in _moments(graph, f"{network.name}.{name}")]
    return [*moments, f"{network.name}.features"]


def _moments(graph: Graph, feature_map: str) -> list[str]:
    """Return the means over the upper and the lower half of [N, C, H, W] and the deviation: each [N, C]."""
    height = graph.add("Shape", feature_map, start=2, end=3)
    half = graph.add("Div", height, np.array([2]))
    rows, everywhere = np.array([2]), np.array([2, 3])
    upper = graph.add("Slice", feature_map, np.array([0]), half, rows)
    lower = graph.add("Slice", feature_map, half, height, rows)
    mean = graph.add("ReduceMean", feature_map, everywhere)
    variance = _mean_square(graph, graph.add("Sub", feature_map, mean), everywhere)
    return [
        graph.add("ReduceMean", upper, everywhere, keepdims=0),
        graph.add("ReduceMean", lower, everywhere, keepdims=0),
        graph.add("Flatten", graph.add("Sqrt", variance)),
    ]


def _bilinear_pooling(graph: Graph, network: Network) -> str:
    """Pool which channels of the last feature map are active in the same places: [N, C (C + 1) / 2].

    The products of all pairs of channels are summed over places (T.-Y. Lin, A. RoyChowdhury, S. Maji,
    "Bilinear CNN models for fine-grained visual recognition", ICCV 2015, section 3.1). Of their matrix the
    square root is taken (iSQRT-COV: P. Li, J. Xie, Q. Wang, Z. Gao, "Towards faster training of global
    covariance pooling networks by iterative matrix square root normalization", CVPR 2018), so that what
    fills the picture does not drown out the rest; then the signed square root of each number, and L2
    normalization, as in Lin et al.
    """
    channels = network.feature_maps["stage6"]
    by_place = graph.add("Reshape", f"{network.name}.stage6", np.array([0, channels, -1]))
    root = graph.add("Flatten", _matrix_square_root(graph, by_place))
    rows, columns = np.triu_indices(channels)
    return _normalize(graph, graph.add("Gather", root, rows * channels + columns, axis=1))


def _normalize(graph: Graph, signal: str) -> str:
    """Take the signed square root of [N, length], then normalize to length 1."""
    roots = graph.add("Mul", graph.add("Sign", signal), graph.add("Sqrt", graph.add("Abs", signal)))
    return graph.add("LpNormalization", roots, axis=1, p=2)


def _matrix_square_root(graph: Graph, matrix: str) -> str:
    """Take the square root of XX', [N, C, C], up to a factor, from X, [N, C, P]: X (X'X)^(-1/2) X'.

    By the Newton-Schulz iteration (N. J. Higham, "Functions of matrices", 2008, chapter 6) on X'X, which is
    smaller than XX'. Eigenvalues near 0 have not converged after `SQUARE_ROOT_STEPS` and stay small.
    """
    transposed = graph.add("Transpose", matrix, perm=[0, 2, 1])
    products = graph.add("MatMul", transposed, matrix)
    trace = graph.add("ReduceSumSquare", matrix, np.array([1, 2]))
    half = graph.add("Div", products, graph.add("Mul", trace, 2.0))
    square = graph.add("ConstantOfShape", graph.add("Shape", products, start=1))
    three_halves = graph.add("Mul", graph.add("EyeLike", square), 1.5)
    for _ in range(SQUARE_ROOT_STEPS):
        factor = graph.add("Sub", three_halves, half)
        matrix = graph.add("MatMul", matrix, factor)
        half = graph.add("MatMul", graph.add("MatMul", half, factor), factor)
    return graph.add("MatMul", matrix, transposed)
