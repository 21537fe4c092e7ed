"""Train a model: embed the photos, fit the head, choose the threshold, evaluate, write."""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from rich.progress import Progress

from model import storage
from model.cache import cache_folder
from model.data import dataset
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
from model.training import baseline, fitting, threshold
from model.training.fitting import Fit
from model.training.paths import TrainingPaths
from model.training.threshold import Threshold

METRICS = "metrics.json"
PACKAGES = ("numpy", "onnx", "onnxruntime", "pillow", "scikit-learn", "scipy")
"""Packages whose versions may affect the result."""

type Row = npt.NDArray[np.float32]
"""The embedding's outputs for one photo, concatenated."""


class TrainingError(Exception):
    """A model cannot be trained on these photos; the message says why."""


class Result(NamedTuple):
    """A trained model before it is written.

    `truth` has each photo's label number in the order of the head's labels, int [N]. `metrics` are those of
    the held-out predictions, by the names under which SageMaker shows them.
    """

    name: str
    photos: Dataset
    fit: Fit
    truth: Integers
    threshold: Threshold
    threshold_reason: str
    metrics: Mapping[str, float]


def train(paths: TrainingPaths, progress: Progress, *, precision: float, most: int, name: str) -> Result:
    """Train a model on at most `most` photos of each label, for a target precision (0 to 1), and write it.

    Raises `DatasetError`, `FitError` or `TrainingError` if the photos are unusable; `StorageError` if the
    model cannot be written.
    """
    photos = sample(dataset.read(paths.data), most)
    bar = progress.add_task("Embedding photos", total=len(photos.paths))
    embeddings = embed_photos(photos, partial(progress.advance, bar))
    bar = progress.add_task("Training and cross-validating", total=fitting.FOLDS + 1)
    fit = fitting.fit(embeddings, photos.targets, photos.labels, partial(progress.advance, bar))
    result = evaluate(name, photos, fit, precision)
    _write_model(paths, result, embeddings)
    return result


def sample(data: Dataset, most: int) -> Dataset:
    """Select at most `most` photos of each label, evenly spaced."""
    by_label = [np.flatnonzero(data.targets == k) for k in range(len(data.labels))]
    selected = np.concatenate(
        [ones[np.linspace(0, len(ones) - 1, min(len(ones), most)).astype(int)] for ones in by_label]
    )
    return data.select(selected)


def embed_photos(photos: Dataset, advance: Callable[[], None] = lambda: None) -> Embedding:
    """Run the frozen networks on photos, or read their cached outputs; call `advance` once per photo.

    Outputs are cached in the user's cache folder under the hash of the photo's bytes, so that a photo is
    embedded only once, whichever data set it is in. Raises `TrainingError` if a photo cannot be read.
    """
    graph = embedding.build_graph().SerializeToString()
    version = hashlib.sha256(graph + onnxruntime.__version__.encode()).hexdigest()[:16]
    cache = cache_folder() / f"embeddings-{version}"
    # a thread per photo keeps all cores busy; several threads on one photo would wait for each other
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def embed(path: Path) -> Row:
        try:
            content = path.read_bytes()
            file = cache / hashlib.sha256(content).hexdigest()
            if (cached := _read_cached(file)) is not None:
                return cached
            pixels = read_pixels(content, embedding.SIZE)
        except (OSError, PhotoError) as error:
            raise TrainingError(f"{path} cannot be read as a photo: {error}") from error
        outputs = session.run(list(embedding.OUTPUTS), {"image": pixels[np.newaxis]})
        row = np.concatenate([np.asarray(output, np.float32)[0] for output in outputs])
        with suppress(OSError):  # the cache is optional
            storage.write_file(file, row.tobytes())
        return row

    rows = []
    with ThreadPoolExecutor(os.process_cpu_count()) as pool:
        try:
            for row in pool.map(embed, photos.paths):
                rows.append(row)
                advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    ends = np.cumsum(list(embedding.OUTPUTS.values()))[:-1]
    columns = zip(*(np.split(row, ends) for row in rows), strict=True)
    return Embedding(*map(np.stack, columns))


def _read_cached(file: Path) -> Row | None:
    """Return a photo's cached outputs, or ``None`` if they are missing or incomplete."""
    with suppress(OSError):
        row = np.fromfile(file, np.float32)
        if len(row) == sum(embedding.OUTPUTS.values()):
            return row
    return None


def evaluate(name: str, photos: Dataset, fit: Fit, precision: float) -> Result:
    """Choose the threshold for a target precision, and compute the metrics, on the held-out predictions.

    Raises `TrainingError` if no held-out photo is classified as a vehicle.
    """
    labels = list(fit.head.labels)
    # the head always has the label other, even if the photos do not
    truth = np.array([labels.index(label) for label in photos.labels])[photos.targets]
    predicted, confidence = fit.held_out.argmax(axis=1), fit.held_out.max(axis=1)
    correct, vehicle = predicted == truth, predicted != labels.index(OTHER)
    if not vehicle.any():
        raise TrainingError("No held-out photo is classified as a vehicle. Check the labels.")
    chosen = threshold.choose_threshold(confidence[vehicle], correct[vehicle], precision)
    metrics = {
        "validation:accuracy": float(correct.mean()),
        "validation:loss": fitting.log_loss(np.log(np.maximum(fit.held_out, 1e-12)), truth),
        "validation:ece": statistics.calibration_error(statistics.equal_width_bins(confidence, correct))
        or 0.0,
        "validation:precision": chosen.correct / chosen.accepted,
        "validation:coverage": chosen.accepted / len(truth),
    }
    return Result(name, photos, fit, truth, chosen, _explain(chosen, precision, fit, len(truth)), metrics)


def _explain(chosen: Threshold, precision: float, fit: Fit, photos: int) -> str:
    confidence = f", with {threshold.CONFIDENCE:.0%} confidence," if chosen.guaranteed else ""
    reason = (
        f"the lowest threshold at which{confidence} at least {precision:.1%} of the accepted answers are "
        f"correct: {chosen.correct} of {chosen.accepted} in {fit.folds}-fold cross-validation on {photos} "
        "training photos"
    )
    if not chosen.meets_target:
        return f"{reason}; no threshold reaches that precision, so this is the highest confidence"
    if not chosen.guaranteed:
        return f"{reason}; too few samples to guarantee that precision"
    return reason


def _write_model(paths: TrainingPaths, result: Result, embeddings: Embedding) -> None:
    graph = _build_graph(result.fit.head).SerializeToString()
    description = _describe(result, hashlib.sha256(graph).hexdigest())
    drift_baseline = baseline.from_training(
        description, result.photos.paths, result.fit.held_out, result.truth, embeddings.features
    )
    baseline_file = {baseline.FILE: drift_baseline.text().encode()}
    files = artifact.contents(graph, description) | baseline_file
    metrics = {"threshold": result.threshold.value, "photos": len(result.photos.paths), **result.metrics}
    metrics_file = {METRICS: (json.dumps(metrics, indent=2) + "\n").encode()}
    if not paths.packed_later:
        files = {artifact.ARCHIVE: artifact.pack(files)}
    storage.write_files(paths.model, files)
    storage.write_files(paths.metrics, metrics_file | baseline_file)


def _build_graph(head: Head) -> onnx.ModelProto:
    """Build the model as one graph: pixels, networks, head, probabilities."""
    graph = Graph("vehicles")
    embedding.add_embedding(graph, embedding.add_image(graph))
    fusion.add_head(graph, head)
    return embedding.finish(graph, len(head.labels))


def _describe(result: Result, graph_sha256: str) -> Description:
    photos, fit = result.photos, result.fit
    counts = [f"{label} {(photos.targets == k).sum()}" for k, label in enumerate(photos.labels)]
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
            "photos": ", ".join(counts),
            "penalty": str(fit.penalty),
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        calibration=asdict(fit.head.weights),
        metrics=dict(result.metrics),
    )
