"""A zero-shot classifier from ImageNet's classes: a model for when there are no training photos yet."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from model import storage
from model.network import artifact, backbone, embedding
from model.network.artifact import Description
from model.network.onnx_graph import Graph

LABELS = ("bicycle", "motorcycle", "other")

# ImageNet's classes (ILSVRC 2012, counted from 0) that show a vehicle; all others show something else.
IMAGENET_CLASSES = {
    "bicycle": (444, 671),  # bicycle-built-for-two, mountain bike
    "motorcycle": (665, 670),  # moped, motor scooter
}


def knows(labels: Sequence[str]) -> bool:
    """Tell whether every label has ImageNet classes."""
    return all(label in IMAGENET_CLASSES for label in labels)


# 4 of ImageNet's 1000 equally frequent classes are vehicles; half of couriers' photos are assumed to be.
VEHICLE_PRIOR = 4 / 1000

THRESHOLD = 0.8
THRESHOLD_REASON = (
    "chosen by eye on a few dozen photos, not calibrated: .8 is not a measured probability of being right"
)


def make(folder: Path) -> None:
    """Write the zero-shot model's files into `folder`."""
    graph = build_graph().SerializeToString()
    description = Description(
        name="zero-shot",
        version="1",
        labels=LABELS,
        threshold=THRESHOLD,
        threshold_reason=THRESHOLD_REASON,
        input_size=embedding.SIZE,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        made={
            "network": f"{backbone.LITE0.name} pretrained on ImageNet, without further training",
            **backbone.provenance(backbone.LITE0),
        },
    )
    storage.write_files(folder, artifact.contents(graph, description))


def build_graph() -> onnx.ModelProto:
    """Build the model from ``image`` to ``probabilities`` of `LABELS`, and ``features``."""
    graph = Graph("zero_shot")
    embedding.add_full_resolution(graph, embedding.add_image(graph))
    add_head(graph)
    return embedding.finish(graph, len(LABELS))


def add_head(graph: Graph) -> None:
    """Add the layers from ``logits``, float32 [N, 1000], to ``probabilities`` of `LABELS`, float32 [N, 3].

    The class probabilities are corrected for the change of priors from ImageNet to couriers' photos: M.
    Saerens, P. Latinne, C. Decaestecker, "Adjusting the outputs of a classifier to new a priori
    probabilities: a simple procedure" (Neural Computation 14, 2002). With mass the summed probability of the
    vehicles' classes, the odds of a vehicle are mass / (1 - mass) divided by `VEHICLE_PRIOR` / (1 -
    `VEHICLE_PRIOR`), so they are even at a mass of `VEHICLE_PRIOR`. The two vehicles share that probability
    in proportion to their masses. For logits z that is one softmax:

        p(label) = softmax over labels of log( sum over the label's classes of exp(z) / prior )

    with `VEHICLE_PRIOR` for each vehicle and 1 - `VEHICLE_PRIOR` for other.
    """
    by_label = graph.add("Add", graph.add("Unsqueeze", "logits", np.array([1])), _log_class_weights())
    label_logits = graph.add("ReduceLogSumExp", by_label, np.array([2]), keepdims=0)
    graph.add("Softmax", label_logits, output="probabilities")


def _log_class_weights() -> npt.NDArray[np.float32]:
    """Return log(1 / prior) for a label's classes and -inf for all others, float32 [3, 1000]."""
    weights = np.full((len(LABELS), backbone.CLASSES), -np.inf, np.float32)
    weights[LABELS.index("other")] = -np.log(1 - VEHICLE_PRIOR)
    for label, classes in IMAGENET_CLASSES.items():
        weights[:, classes] = -np.inf
        weights[LABELS.index(label), classes] = -np.log(VEHICLE_PRIOR)
    return weights
