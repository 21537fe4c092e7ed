"""Accuracy against milliseconds, by input size and precision: ``python -m tests.bench input_sizes``."""

import json
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
from model.network import backbone, embedding
from model.network.backbone import LITE0, LITE2
from model.network.onnx_graph import Graph
from model.training import fitting
from tests.bench.targets import in_turn, ms
from tests.conftest import ROOT

SIZES = (96, 128, 160, 192, 224, 256, 288)
PENALTY = 0.3
"""What cross-validation chooses for the model."""
TIMED = 100
"""Runs of each network."""
CALIBRATED_ON = 100
"""Photos from which the ranges of the int8 network's numbers are taken."""
COLOURS = {"fp32": BLUE, "int8": AMBER}
PLOT = ROOT / "docs" / "input-sizes.svg"


@click.command()
@click.option(
    "--cifar",
    type=click.Path(exists=True, path_type=Path),
    envvar="CIFAR",
    required=True,
    help="CIFAR-100's archive. Its training photos alone are looked at.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).with_suffix(".json"), show_default=True
)
def bench(cifar: Path, out: Path) -> None:
    """Cross-validate a head on what the networks see of pictures enlarged to each size, as fp32 and int8."""
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
            seen = [enlarged(picture, size) for picture in pictures]
            for precision, network in networks(size, seen, Path(folder)).items():
                right = held_out(described(network, seen), photos.targets)
                kinds[size, precision] = Kind(network, seen[0], right)
                click.echo(f"{size} {precision}: {right} of {len(seen)} right", err=True)
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
    out.write_text(json.dumps(found, indent=2) + "\n")
    PLOT.write_bytes(draw(found))


def enlarged(picture: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def networks(size: int, seen: Sequence[np.ndarray], folder: Path) -> dict[str, Path]:
    """What a photo is described by at this size, as it is and with its convolutions in 8 bits."""
    plain, quantized = folder / f"{size}-fp32.onnx", folder / f"{size}-int8.onnx"
    onnx.save(describing(size), plain)
    quantize_static(plain, quantized, Some(seen), per_channel=True, op_types_to_quantize=["Conv"])
    return {"fp32": plain, "int8": quantized}


def describing(size: int) -> onnx.ModelProto:
    """Both networks, the second at as much of the size as the model gives it."""
    graph = Graph("describing")
    image = graph.input("image", ["N", size, size, 3], TensorProto.UINT8)
    pooled, pairs = [], []
    for network, given in {LITE0: image, LITE2: embedding._reduced(graph, image)}.items():
        prefix = f"{network.name}."
        backbone.add_network(graph, network, backbone.read_weights(network), given, prefix)
        pooled += embedding._pooled(graph, network, prefix)
        pairs.append(embedding._pairs(graph, network, prefix))
    graph.add("Concat", *pooled, *pairs, axis=1, output="descriptor")
    return graph.model({"descriptor": ["N", embedding.OUTPUTS["descriptor"]]})


class Some(CalibrationDataReader):
    """Some of the photos, evenly spread."""

    def __init__(self, seen: Sequence[np.ndarray]) -> None:
        self.rest: Iterator[np.ndarray] = iter(seen[:: len(seen) // CALIBRATED_ON])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return {"image": one[None]} if (one := next(self.rest, None)) is not None else None


class Kind(NamedTuple):
    """The networks of a size and a precision: their file, a picture, and of how many a head is right."""

    network: Path
    picture: np.ndarray
    right: int


def described(network: Path, seen: Sequence[np.ndarray]) -> np.ndarray:
    """What the networks say of each picture and its mirrored middle on average, as training takes it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def describe(one: np.ndarray) -> np.ndarray:
        margin = round(len(one) * (1 - embedding.CENTRE) / 2)
        middle = enlarged(one[margin:-margin, margin:-margin], len(one))[:, ::-1].copy()
        views = [session.run(None, {"image": view[None]})[0][0] for view in (one, middle)]
        return np.mean(views, axis=0)

    with ThreadPoolExecutor(os.process_cpu_count()) as pool:
        return np.stack(list(pool.map(describe, seen)))


def milliseconds(kinds: Iterable[Kind]) -> list[float]:
    """Median milliseconds of a view, all in turn."""
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
def held_out(described: np.ndarray, targets: np.ndarray) -> int:
    right = 0
    for fitted, asked in StratifiedKFold(fitting.FOLDS, shuffle=True, random_state=0).split(targets, targets):
        experts = fitting.fit_experts(
            described[fitted], targets[fitted], ["bicycle", "motorcycle"], [PENALTY]
        )
        logits, _ = experts[PENALTY](described[asked])
        right += int((logits.argmax(axis=1) == targets[asked]).sum())
    return right


def draw(found: Sequence[dict[str, Any]]) -> bytes:
    """Draw the curve of each precision, its points named by their size, as SVG."""
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
        axes.set_ylabel("% right of 1,000 held out")
        axes.legend(frameon=False, loc="lower right")
    return svg_file(figure)
