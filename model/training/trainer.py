"""The steps of a training: look at the photos, choose the threshold, measure, write the model."""

import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import platformdirs

from model.data.dataset import Dataset
from model.evaluation import statistics
from model.labels import OTHER
from model.network import artifact, backbone, embedding, fusion
from model.network.artifact import Description
from model.network.backbone import LITE0, LITE2
from model.network.embedding import Embedding, Integers
from model.network.fusion import Head
from model.network.onnx_graph import Graph
from model.photo import PhotoError, read_pixels
from model.training import baseline, threshold
from model.training.fitting import Fit, log_loss
from model.training.threshold import Threshold

if TYPE_CHECKING:
    from model.training.job_folders import Places

METRICS = "metrics.json"
PACKAGES = ("numpy", "onnx", "onnxruntime", "pillow", "scikit-learn", "scipy")
"""Whose versions may show in the result."""

type Rows = list[npt.NDArray[np.float32]]


class TrainingError(Exception):
    """A model cannot be trained on these photos; the message says why."""


class Photos(NamedTuple):
    """The photos to train on.

    Attributes
    ----------
    labels
        The labels' names, in the order of their numbers.
    paths
        The files, N of them.
    targets
        The number of each one's label, int [N].
    manifest_sha256
        Of the data set's manifest; ``None`` for a plain folder.
    """

    labels: tuple[str, ...]
    paths: tuple[Path, ...]
    targets: Integers
    manifest_sha256: str | None

    @classmethod
    def of(cls, data: Dataset, most: int) -> Self:
        """Take those of a data set, of a label with more than `most` that many, evenly spread."""
        by_label = [np.flatnonzero(data.targets == k) for k in range(len(data.labels))]
        chosen = np.concatenate(
            [ones[np.linspace(0, len(ones) - 1, min(len(ones), most)).astype(int)] for ones in by_label]
        )
        paths = tuple(data.paths[index] for index in chosen)
        return cls(data.labels, paths, data.targets[chosen], data.manifest_sha256)


class Result(NamedTuple):
    """All that a training makes, before it is written.

    Attributes
    ----------
    name
        The model's.
    photos
        What it was trained on.
    fit
        The head, and the answers to what was held out.
    truth
        The number of each photo's label, as the head numbers them, int [N].
    threshold, threshold_reason
        From where to accept, and why there.
    metrics
        How right the held-out answers are, by the names under which SageMaker shows them.
    """

    name: str
    photos: Photos
    fit: Fit
    truth: Integers
    threshold: Threshold
    threshold_reason: str
    metrics: Mapping[str, float]


def look(photos: Photos, advance: Callable[[], None] = lambda: None) -> Embedding:
    """Let the networks look at photos, or remember what they saw in them.

    What they see of a photo is kept in the user's cache folder under the hash of its bytes, so that they need
    not look at the same one twice, whatever else is in the data set.

    Parameters
    ----------
    photos
        Where they are.
    advance
        Is called once a photo.

    Raises
    ------
    TrainingError
        One cannot be read.
    """
    graph = embedding.build_graph().SerializeToString()
    recipe = hashlib.sha256(graph + onnxruntime.__version__.encode()).hexdigest()[:16]
    memory = _Memory(platformdirs.user_cache_path("scones-unlimited") / f"seen-{recipe}")
    # one photo at a time on all cores would leave them waiting for each other
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def see(path: Path) -> Rows:
        try:
            content = path.read_bytes()
            key = hashlib.sha256(content).hexdigest()
            if (known := memory.find(key)) is not None:
                return known
            pixels = read_pixels(content, embedding.SIZE)
        except (OSError, PhotoError) as error:
            raise TrainingError(f"{path} cannot be read as a photo: {error}") from error
        outputs = session.run(list(embedding.OUTPUTS), {"image": pixels[np.newaxis]})
        return memory.keep(key, [np.asarray(output, np.float32)[0] for output in outputs])

    rows = []
    with ThreadPoolExecutor(os.process_cpu_count()) as pool:
        try:
            for row in pool.map(see, photos.paths):
                rows.append(row)
                advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Embedding(*(np.stack(column) for column in zip(*rows, strict=True)))


class _Memory:
    """Keeps what was seen of each photo, a file each; one that cannot be written is seen anew next time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = np.cumsum(list(embedding.OUTPUTS.values()))

    def find(self, key: str) -> Rows | None:
        try:
            numbers = np.fromfile(self._folder / key, np.float32)
        except OSError:
            return None
        return np.split(numbers, self._ends[:-1]) if len(numbers) == self._ends[-1] else None

    def keep(self, key: str, seen: Rows) -> Rows:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as draft:
                np.concatenate(seen).tofile(draft.file)
            Path(draft.name).replace(self._folder / key)
        except OSError:
            pass
        return seen


def conclude(name: str, photos: Photos, fit: Fit, precision: float) -> Result:
    """Choose the threshold and measure, both by the answers to photos that were held out.

    Parameters
    ----------
    name
        The model's.
    photos, fit
        What it was fitted to, and what came of it.
    precision
        The least share of right answers among the accepted, 0 to 1.

    Raises
    ------
    TrainingError
        Nothing held out was taken for a vehicle.
    """
    labels = list(fit.head.labels)
    # the head has the label other besides, where the photos have not
    truth = np.array([labels.index(label) for label in photos.labels])[photos.targets]
    answered, confidence = fit.held_out.argmax(axis=1), fit.held_out.max(axis=1)
    right, vehicle = answered == truth, answered != labels.index(OTHER)
    if not vehicle.any():
        raise TrainingError("no photo that was held out is taken for a vehicle: are the labels right?")
    chosen = threshold.choose(confidence[vehicle], right[vehicle], precision)
    confident = f", with {threshold.CONFIDENCE:.0%} confidence," if chosen.assured else ""
    reason = (
        f"the lowest from which{confident} at least {precision:.1%} of the accepted answers are right: "
        f"{chosen.right} of {chosen.accepted} in {fit.folds}-fold cross-validation on {len(truth)} training "
        "photos"
    )
    if not chosen.reached:
        reason += "; none reaches that, this is the most confident answer's"
    elif not chosen.assured:
        reason += "; so few say little about such a precision"
    metrics = {
        "validation:accuracy": float(right.mean()),
        "validation:loss": log_loss(np.log(np.maximum(fit.held_out, 1e-12)), truth),
        "validation:ece": statistics.calibration_error(statistics.equal_width_bins(confidence, right)) or 0.0,
        "validation:precision": chosen.right / chosen.accepted,
        "validation:coverage": chosen.accepted / len(truth),
    }
    return Result(name, photos, fit, truth, chosen, reason, metrics)


def write(places: "Places", result: Result, seen: Embedding) -> None:
    """Write the model, its metrics and its baseline, each file complete before it has its name.

    Parameters
    ----------
    places
        Where to.
    result, seen
        The training's, and what it was from.

    Raises
    ------
    ArtifactError
        A folder cannot be written.
    """
    graph = build_graph(result.fit.head).SerializeToString()
    description = describe(result, hashlib.sha256(graph).hexdigest())
    compared_with = baseline.of_training(
        description, result.photos.paths, result.fit.held_out, result.truth, seen.features
    )
    files = artifact.contents(graph, description) | {baseline.FILE: compared_with.text().encode()}
    metrics = {"threshold": result.threshold.value, "photos": len(result.photos.paths), **result.metrics}
    try:
        artifact.write(
            places.model, files if places.packed_later else {artifact.ARCHIVE: artifact.pack(files)}
        )
        written = {
            METRICS: (json.dumps(metrics, indent=2) + "\n").encode(),
            baseline.FILE: files[baseline.FILE],
        }
        artifact.write(places.metrics, written)
    except OSError as error:
        # a full disk is no file's fault, and names none
        place = error.filename or places.model
        raise artifact.ArtifactError(f"{place} cannot be written: {error.strerror}") from error


def build_graph(made: Head) -> onnx.ModelProto:
    """Build the whole model as one graph: the views of a photo, the networks, the head."""
    graph = Graph("vehicles")
    embedding.add_embedding(graph, embedding.add_image(graph))
    fusion.add_head(graph, made)
    return embedding.finish(graph, len(made.labels))


def describe(result: Result, graph_sha256: str) -> Description:
    """Say what there is to know of the model."""
    photos, fit = result.photos, result.fit
    return Description(
        name=result.name,
        version=(photos.manifest_sha256 or graph_sha256)[:12],
        labels=fit.head.labels,
        threshold=result.threshold.value,
        threshold_reason=result.threshold_reason,
        input_size=embedding.SIZE,
        graph_sha256=graph_sha256,
        made={
            "network": f"{LITE0.name} and {LITE2.name} trained on ImageNet, frozen, and a head of our own",
            **backbone.provenance(LITE0, LITE2),
            "manifest_sha256": photos.manifest_sha256 or "a plain folder",
            "photos": ", ".join(
                f"{label} {int((photos.targets == k).sum())}" for k, label in enumerate(photos.labels)
            ),
            "penalty": str(fit.penalty),
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        calibration=asdict(fit.head.weights),
        metrics=dict(result.metrics),
    )
