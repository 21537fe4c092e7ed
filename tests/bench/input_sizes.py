"""Accuracy and latency by input size and numeric precision: ``python -m tests.bench input_sizes``."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import matplotlib as mpl
import numpy as np
import onnx
import onnxruntime
from matplotlib.figure import Figure
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from PIL import Image
from rich.progress import track
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from functions.monitor.capture_analysis.intervals import wilson
from model.charts import AMBER, BLUE, STYLE, svg_file
from model.data import dataset
from model.network import embedding
from model.network.onnx_graph import Graph
from model.training import fitting
from tests import measurements
from tests.bench.targets import in_turn, ms
from tests.conftest import ROOT

SIZES = (96, 128, 160, 192, 224, 256, 288)
PENALTY = 0.3
"""The penalty that cross-validation chooses for the model."""
TIMED = 100
"""Timed runs of each network."""
CALIBRATED_ON = 100
"""Photos used to calibrate the ranges of the int8 network's activations."""
COLOURS = {"fp32": BLUE, "int8": AMBER}
PLOT = ROOT / "docs" / "input-sizes.svg"


@click.command()
@click.option(
    "--cifar",
    type=click.Path(exists=True, path_type=Path),
    envvar="CIFAR",
    required=True,
    help="CIFAR-100's archive. Only its training photos are used.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).with_suffix(".json"), show_default=True
)
def bench(cifar: Path, out: Path) -> None:
    """Cross-validate the classifier on pictures enlarged to each size, as fp32 and int8."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        run = [sys.executable, "-m", "model", "data", f"--source={cifar}", f"--out={data}"]
        subprocess.run(
            [*run, "--classes=bicycle,motorcycle"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL
        )
        photos = dataset.read(data)
        pictures = [np.asarray(Image.open(path).convert("RGB")) for path in photos.paths]
        kinds = {}
        for size in track(SIZES, "Sizes"):
            inputs = [enlarged(picture, size) for picture in pictures]
            for precision, network in networks(size, inputs, Path(folder)).items():
                right = held_out(descriptors(network, inputs), photos.targets)
                kinds[size, precision] = Kind(network, inputs[0], right)
                click.echo(f"{size} {precision}: {right} of {len(inputs)} correct", err=True)
        found = [
            {
                "size": size,
                "precision": precision,
                "milliseconds": took,
                **accuracy(kind.right, len(pictures)),
            }
            for ((size, precision), kind), took in zip(
                kinds.items(), milliseconds(kinds.values()), strict=True
            )
        ]
    measurements.write(out, found, "input_sizes")
    PLOT.write_bytes(draw(found))


def enlarged(picture: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def networks(size: int, inputs: Sequence[np.ndarray], folder: Path) -> dict[str, Path]:
    """Write the graph of the descriptor at this size, unquantized and with its convolutions in 8 bits."""
    plain, quantized = folder / f"{size}-fp32.onnx", folder / f"{size}-int8.onnx"
    onnx.save(descriptor_graph(size), plain)
    quantize_static(
        plain, quantized, CalibrationPhotos(inputs), per_channel=True, op_types_to_quantize=["Conv"]
    )
    return {"fp32": plain, "int8": quantized}


def descriptor_graph(size: int) -> onnx.ModelProto:
    """Build the descriptor by both networks; the second gets the same share of the size as in the model."""
    graph = Graph("descriptor")
    image = graph.input("image", ["N", size, size, 3], TensorProto.UINT8)
    graph.add("Identity", embedding.describe(graph, image), output="descriptor")
    return graph.model({"descriptor": ["N", embedding.OUTPUTS["descriptor"]]})


class CalibrationPhotos(CalibrationDataReader):
    """An evenly spaced sample of the photos."""

    def __init__(self, inputs: Sequence[np.ndarray]) -> None:
        self.rest: Iterator[np.ndarray] = iter(inputs[:: len(inputs) // CALIBRATED_ON])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return {"image": one[None]} if (one := next(self.rest, None)) is not None else None


class Kind(NamedTuple):
    """A size and precision: the graph's file, a picture, and the number of correct predictions."""

    network: Path
    picture: np.ndarray
    right: int


def descriptors(network: Path, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Describe each picture by the average of its two views, as the model does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def describe(one: np.ndarray) -> np.ndarray:
        margin = round(len(one) * (1 - embedding.CENTER_CROP) / 2)
        crop = enlarged(one[margin:-margin, margin:-margin], len(one))[:, ::-1].copy()
        views = [session.run(None, {"image": view[None]})[0][0] for view in (one, crop)]
        return np.mean(views, axis=0)

    with ThreadPoolExecutor(os.process_cpu_count()) as pool:
        return np.stack(list(pool.map(describe, inputs)))


def milliseconds(kinds: Iterable[Kind]) -> list[float]:
    """Return the median latency of a view; the graphs are timed in turn."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the endpoint has it
    calls = []
    for kind in kinds:
        session = onnxruntime.InferenceSession(kind.network, options, providers=["CPUExecutionProvider"])
        calls.append(partial(session.run, None, {"image": kind.picture[None]}))
    return [ms(took) for took in in_turn(TIMED, *calls)]


def accuracy(right: int, of: int) -> dict[str, Any]:
    interval = wilson(right, of)
    return {
        "photos": of,
        "right": right,
        "accuracy": round(right / of, 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
    }


@threadpool_limits.wrap(limits=1)
def held_out(descriptor: np.ndarray, targets: np.ndarray) -> int:
    right = 0
    for fitted, rest in StratifiedKFold(fitting.FOLDS, shuffle=True, random_state=0).split(targets, targets):
        classifiers = fitting.fit_classifiers(
            descriptor[fitted], targets[fitted], ["bicycle", "motorcycle"], [PENALTY]
        )
        answers = classifiers[PENALTY].logits(descriptor[rest]).argmax(axis=1)
        right += int((answers == targets[rest]).sum())
    return right


def draw(found: Sequence[dict[str, Any]]) -> bytes:
    """Draw a curve for each precision, with its points labelled by size, as SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.0))
        axes = figure.add_subplot()
        for precision, colour in COLOURS.items():
            rows = [row for row in found if row["precision"] == precision]
            x, y = [row["milliseconds"] for row in rows], [100 * row["accuracy"] for row in rows]
            low, high = (np.array([100 * row["interval"][end] for row in rows]) for end in (0, 1))
            axes.errorbar(
                x,
                y,
                yerr=[y - low, high - y],
                color=colour,
                marker="o",
                capsize=3,
                elinewidth=0.8,
                label=precision,
            )
            for row, across, up in zip(rows, x, y, strict=True):
                axes.annotate(
                    str(row["size"]), (across, up), (5, 5), textcoords="offset points", color=colour
                )
        axes.set_xlabel("milliseconds a view")
        axes.set_ylabel("accuracy in %, cross-validated on 1,000 pictures")
        axes.legend(frameon=False, loc="lower right")
    return svg_file(figure)
