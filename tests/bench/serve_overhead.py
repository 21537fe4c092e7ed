"""Measure the overhead of serving over HTTP: ``python -m tests.bench serve_overhead``."""

import base64
import contextlib
import http.client
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import click
import psutil
from botocore.config import Config

from functions.serialize.photo import serialize
from model.network.classifier import Classifier
from pipeline import sample_images
from tests import measurements
from tests.conftest import ROOT, free_port


@click.command()
@click.option(
    "--photos",
    type=click.Path(exists=True, path_type=Path),
    help="A folder of real photos.  [default: one drawing]",
)
@click.option(
    "--model", type=click.Path(path_type=Path), help="A model's folder.  [default: one trained on drawings]"
)
@click.option("--rounds", default=200, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).with_suffix(".json"), show_default=True
)
def bench(photos: Path | None, model: Path | None, rounds: int, out: Path) -> None:
    """Classify the same photos in turn over HTTP and in process, and write the ratio of the medians."""
    files = [serialized(content) for content in contents(photos)]
    served: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as folder, serving(model or trained(Path(folder))) as (ask, process):
        classifier = Classifier.load(model or Path(folder) / "model")
        for number in range(rounds + 10):
            photo = files[number % len(files)]
            began = time.perf_counter()
            answer = ask(photo)
            between = time.perf_counter()
            expected = classifier.classify(photo)
            ended = time.perf_counter()
            assert max(abs(a - b) for a, b in zip(answer, expected, strict=True)) < 1e-5
            if number >= 10:  # the first ten warm caches
                served.append(between - began)
                bare.append(ended - between)
        peak = peak_of(process)
    found = {
        "rounds": rounds,
        "served_milliseconds": round(1000 * statistics.median(served), 2),
        "bare_milliseconds": round(1000 * statistics.median(bare), 2),
        "ratio_of_medians": round(statistics.median(served) / statistics.median(bare), 3),
        "peak_megabytes": round(peak),
    }
    click.echo(json.dumps(found))
    measurements.write(out, found, "serve_overhead")


def contents(folder: Path | None) -> list[bytes]:
    if folder is None:
        return [sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1), "JPEG")]
    return [file.read_bytes() for file in sorted(folder.rglob("*.jpg"))]


def serialized(content: bytes) -> bytes:
    """Return the image that the pipeline sends to the endpoint."""
    return base64.b64decode(serialize(io.BytesIO(content), 224)["image_data"])


def trained(folder: Path) -> Path:
    """Train a model on drawings, which needs as much time per photo as one trained on photos."""
    for label, subject in (("bicycle", sample_images.bicycle), ("motorcycle", sample_images.motorcycle)):
        (folder / "data" / label).mkdir(parents=True)
        for seed in range(6):
            content = sample_images.encoded(sample_images.picture(subject, seed))
            (folder / "data" / label / f"{seed}.jpg").write_bytes(content)
    train = [sys.executable, "-m", "model", "train", f"--data={folder}/data", f"--out={folder}/model"]
    subprocess.run(train, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "model"


@contextlib.contextmanager
def serving(model: Path) -> Iterator[tuple]:
    port = free_port()
    command = [sys.executable, "-m", "model", "serve", f"--port={port}", f"--model={model}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "Serving on" in process.stderr.readline()
        connection = http.client.HTTPConnection("127.0.0.1", port)

        def ask(photo: bytes) -> list[float]:
            connection.request("POST", "/invocations", photo, {"Content-Type": "image/jpeg"})
            return json.loads(connection.getresponse().read())

        yield ask, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def runtime_of(process: psutil.Process, clients: int) -> Any:
    """Return a client of SageMaker's runtime that calls this server, for `clients` threads."""
    port = next(one.laddr.port for one in process.net_connections("tcp") if one.status == "LISTEN")
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(max_pool_connections=clients),
    )


def peak_of(process: psutil.Process) -> float:
    """Return the peak resident memory of a running process in megabytes (Linux)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
