import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image, ImageDraw

from model.network import backbone
from model.network.backbone import (
    LITE0,
    LITE2,
    Network,
    WeightsError,
    packaged_weights,
    parse_checkpoint,
    read_weights,
)
from model.network.onnx_graph import Graph


@pytest.fixture(scope="module")
def weights() -> backbone.Weights:
    return read_weights(LITE0)


def build_graph(
    network: Network, weights: backbone.Weights, outputs: Sequence[str], size: int
) -> onnx.ModelProto:
    """Build the graph from ``image``, uint8 RGB [N, `size`, `size`, 3], to some of a network's outputs."""
    graph = Graph("efficientnet_lite")
    image = graph.input("image", ["N", size, size, 3], onnx.TensorProto.UINT8)
    backbone.add_network(graph, network, weights, image)
    maps = {name: ("N", channels, "H", "W") for name, channels in network.feature_maps.items()}
    shapes = {name: ("N", channels) for name, channels in network.outputs.items()} | maps
    return graph.model({name: shapes[name] for name in outputs})


def run(model: onnx.ModelProto, image: np.ndarray, name: str = "image") -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: image})


def photos(count: int, size: int = 224) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), np.uint8)


def convolve_as_tensorflow(signal: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Convolve [C, H, W] with [O, C, k, k] as TensorFlow defines SAME, one output pixel at a time."""
    size = kernel.shape[-1]
    outputs = [-(-length // stride) for length in signal.shape[1:]]
    paddings = [
        max((output - 1) * stride + size - length, 0)
        for output, length in zip(outputs, signal.shape[1:], strict=True)
    ]
    padded = np.pad(signal, [(0, 0), *((total // 2, total - total // 2) for total in paddings)])
    result = np.zeros((len(kernel), *outputs))
    for row in range(outputs[0]):
        for column in range(outputs[1]):
            top, left = row * stride, column * stride
            window = padded[:, top : top + size, left : left + size]
            result[:, row, column] = (kernel * window).sum(axis=(1, 2, 3))
    return result


def normalise(signal: np.ndarray, weights: backbone.Weights, norm: str) -> np.ndarray:
    gamma, beta, mean, variance = (
        weights[f"{norm}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (signal - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def relu6(signal: np.ndarray) -> np.ndarray:
    return np.clip(signal, 0, 6)


def depthwise(signal: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    planes = [
        convolve_as_tensorflow(plane[None], filters[None], stride)
        for plane, filters in zip(signal, kernel, strict=True)
    ]
    return np.concatenate(planes)


@pytest.mark.parametrize("size", [16, 17], ids=["even", "odd"])
def test_the_stem_and_first_block_agree_with_the_paper_in_plain_numpy(weights, size):
    image = photos(1, size)

    pixels = (image[0].transpose(2, 0, 1).astype(np.float64) - 127) / 128
    stem = relu6(normalise(convolve_as_tensorflow(pixels, weights["_conv_stem.weight"], 2), weights, "_bn0"))
    inner = depthwise(stem, weights["_blocks.0._depthwise_conv.weight"], 1)
    inner = relu6(normalise(inner, weights, "_blocks.0._bn1"))
    inner = convolve_as_tensorflow(inner, weights["_blocks.0._project_conv.weight"], 1)
    expected = normalise(inner, weights, "_blocks.0._bn2")

    assert np.allclose(output_of("_blocks.0._project_conv", weights, image), expected, atol=1e-4)


@pytest.mark.parametrize("size", [16, 18], ids=["4x4 in", "5x5 in"])
def test_a_block_with_a_stride_and_a_wide_kernel_agrees_too(weights, size):
    image = photos(1, size)
    signal = output_of("_blocks.2.sum", weights, image)

    inner = convolve_as_tensorflow(signal, weights["_blocks.3._expand_conv.weight"], 1)
    inner = relu6(normalise(inner, weights, "_blocks.3._bn0"))
    inner = depthwise(inner, weights["_blocks.3._depthwise_conv.weight"], 2)
    inner = relu6(normalise(inner, weights, "_blocks.3._bn1"))
    inner = convolve_as_tensorflow(inner, weights["_blocks.3._project_conv.weight"], 1)
    expected = normalise(inner, weights, "_blocks.3._bn2")

    assert np.allclose(output_of("_blocks.3._project_conv", weights, image), expected, atol=1e-4)


def output_of(node: str, weights: backbone.Weights, image: np.ndarray) -> np.ndarray:
    whole = build_graph(LITE0, weights, ["logits"], image.shape[1])
    whole.graph.output.append(onnx.helper.make_tensor_value_info(node, onnx.TensorProto.FLOAT, None))
    return run(whole, image)[1][0]


def test_a_repeated_block_adds_its_input(weights):
    image = photos(1, 32)

    inputs, added, total = (
        output_of(node, weights, image)
        for node in ("_blocks.1._project_conv", "_blocks.2._project_conv", "_blocks.2.sum")
    )

    assert np.allclose(inputs + added, total, atol=1e-5)


@pytest.mark.parametrize("network", [LITE0, LITE2], ids=lambda network: network.name)
def test_outputs_are_in_the_requested_order_for_any_batch_size(network: Network):
    names = ["logits", "stage3", "features", "stage6", "stage5"]

    model = build_graph(network, read_weights(network), names, 224)

    onnx.checker.check_model(model, full_check=True)
    outputs = run(model, photos(2))
    assert [output.shape[:2] for output in outputs] == [(2, network.outputs[name]) for name in names]
    assert [output.shape[2] for output in outputs if output.ndim > 2] == [28, 7, 14]
    for alone, together in zip(run(model, photos(2)[:1]), outputs, strict=True):
        assert np.allclose(alone[0], together[0], atol=1e-4)


@pytest.mark.parametrize("network", [LITE0, LITE2], ids=lambda network: network.name)
def test_a_network_uses_all_weights_of_its_file_except_batch_counts(network: Network):
    weights = read_weights(network)

    graph = build_graph(network, weights, ["logits"], 32).graph
    used = {one.name.removeprefix(f"{network.name}.").rpartition(".")[0] for one in graph.initializer}

    layers = {name.rpartition(".")[0] for name in weights if "_bn" not in name}
    assert layers <= used


def test_a_graph_holds_only_what_its_outputs_need(weights):
    shallow = build_graph(LITE0, weights, ["stage3"], 224)
    deep = build_graph(LITE0, weights, ["stage3", "logits"], 224)

    assert [output.name for output in shallow.graph.output] == ["stage3"]
    assert shallow.ByteSize() < deep.ByteSize() / 50


def test_the_logits_are_the_features_through_the_last_layer(weights):
    features, logits = run(build_graph(LITE0, weights, ["features", "logits"], 32), photos(1, 32))

    assert np.allclose(features @ weights["_fc.weight"].T + weights["_fc.bias"], logits, atol=1e-4)


@pytest.mark.parametrize("network", [LITE0, LITE2], ids=lambda network: network.name)
def test_a_network_recognizes_imagenets_classes(network: Network):
    """A drawn bicycle with wheels, frame and handlebars scores higher as one than as 90% of other classes."""
    picture = Image.new("RGB", (224, 224), (205, 215, 220))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 170, 224, 224), fill=(120, 118, 112))
    for x in (62, 162):
        draw.ellipse((x - 42, 108, x + 42, 192), outline=(20, 20, 20), width=6)
    frame = [(62, 150), (92, 92), (142, 92), (112, 150), (62, 150), (112, 150), (92, 92)]
    draw.line(frame, fill=(170, 30, 30), width=6)
    draw.line([(162, 150), (142, 92), (138, 72), (158, 66)], fill=(40, 40, 40), width=6)
    draw.line([(92, 92), (88, 78), (76, 76), (100, 76)], fill=(40, 40, 40), width=6)

    (logits,) = run(build_graph(network, read_weights(network), ["logits"], 224), np.asarray(picture)[None])

    bicycles = logits[0, [444, 671]].max()
    assert (logits[0] > bicycles).mean() < 0.1


def test_a_tampered_weights_file_is_refused(tmp_path):
    content = bytearray(packaged_weights(LITE0).read_bytes())
    content[-1] ^= 1
    tampered = tmp_path / "weights.pth"
    tampered.write_bytes(content)

    with pytest.raises(WeightsError, match="sha256"):
        read_weights(LITE0, tampered)


def test_another_networks_weights_are_refused():
    with pytest.raises(WeightsError, match="sha256"):
        read_weights(LITE2, packaged_weights(LITE0))


class RunsACommand:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path):
    proof = tmp_path / "it-ran"
    attack = pickle.dumps(RunsACommand(f"touch {proof}"), protocol=2)

    with pytest.raises(WeightsError, match="system"):
        parse_checkpoint(attack * 5)

    assert not proof.exists()


def test_a_checkpoint_that_names_another_module_is_refused():
    with pytest.raises(WeightsError, match=r"builtins\.eval|__builtin__\.eval"):
        parse_checkpoint(b"c__builtin__\neval\n(S'1'\ntR.")


@pytest.mark.parametrize("kept", [0, 100, 50_000, 1_000_000])
def test_a_truncated_checkpoint_is_refused(kept):
    with pytest.raises(WeightsError, match="Not a checkpoint"):
        parse_checkpoint(packaged_weights(LITE0).read_bytes()[:kept])


def test_a_tensor_that_reaches_outside_its_storage_is_refused():
    storage = backbone._Storage(np.dtype("<f4"), "0")
    tensor = backbone._Tensor(storage, 2, (2, 2), (2, 1), requires_grad=False, backward_hooks=None)

    with pytest.raises(ValueError, match="outside"):
        tensor.view(np.zeros(5, np.float32))


def test_a_strided_tensor_is_read_as_torch_would():
    storage = backbone._Storage(np.dtype("<f4"), "0")
    transposed = backbone._Tensor(storage, 0, (2, 3), (1, 2), requires_grad=False, backward_hooks=None)

    assert transposed.view(np.arange(6, dtype=np.float32)).tolist() == [[0, 2, 4], [1, 3, 5]]
