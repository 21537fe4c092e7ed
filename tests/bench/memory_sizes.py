"""Measure duration by memory size, in Lambda's image: ``python -m tests.bench memory_sizes``."""

import json
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
from matplotlib.figure import Figure
from rich.progress import track

from model.charts import AMBER, BLUE, SOFT, STYLE, TEAL, svg_file
from pipeline.costs.bill import FULL_CORE, prices
from tests import measurements
from tests.bench.usage import photo
from tests.conftest import ROOT

IMAGE = "public.ecr.aws/lambda/python:3.13"
MEMORIES = (256, 384, 512, 768, 1024, 1769, 3008)
"""Memory sizes in MB. A function's CPU share is its memory size divided by `FULL_CORE`."""
START_MEMORIES = (128, 256, 512, 1024)
"""Memory sizes in MB at which cold starts are measured."""
BUILT = ROOT / ".aws-sam" / "build"
PLOT = ROOT / "docs" / "memory-sizes.svg"

SERIALIZE = """
import io, json, sys, time
began = time.perf_counter()
import app
ready = time.perf_counter()
content = sys.stdin.buffer.read()
took = []
for _ in range(6):
    start = time.perf_counter()
    app.serialize_in_subprocess(io.BytesIO(content), 224)
    took.append(time.perf_counter() - start)
print(json.dumps({"ready": ready - began, "took": took[1:]}))
"""
READY = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
STARTS = {
    "serialize": ("import app", "import boto3; boto3.client('s3')"),
    "classify": ("import app", "import boto3; boto3.client('sagemaker-runtime')"),
    "filter": ("import app", "from aws_lambda_powertools import Logger; Logger()"),
}
"""The code that a function runs before its first call, and the floor: the least that it must do."""


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Containers of each kind.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).with_suffix(".json"), show_default=True
)
def bench(rounds: int, out: Path) -> None:
    """Serialize a phone's photo, and start each function, in containers with Lambda's limits."""
    build("x86_64")
    phone = photo("phone")
    sizes = [of_memory(memory, rounds, phone) for memory in track(MEMORIES, "Memory")]
    kinds = [(name, memory) for name in STARTS for memory in START_MEMORIES]
    starts = [of_start(name, memory, rounds) for name, memory in track(kinds, "Starts")]
    found = {"serialize": sizes, "starts": starts}
    measurements.write(out, found, "memory_sizes")
    PLOT.write_bytes(draw(sizes))
    click.echo(json.dumps(found, indent=2))


def build(architecture: str) -> None:
    """Build the functions as `make deploy` does."""
    command = ["make", "build", f"ARCHITECTURE={architecture}"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)


def run(function: str, memory: int, code: str, stdin: bytes = b"") -> str:
    """Run code next to a built function in Lambda's image, with the function's memory and CPU limits."""
    done = subprocess.run(
        [
            *("docker", "run", "--rm", "--interactive", "--network=none", "--read-only", "--tmpfs=/tmp"),
            f"--memory={memory}m",
            f"--memory-swap={memory}m",
            f"--cpus={min(memory / FULL_CORE, 2):.3f}",
            f"--volume={BUILT}/{function.capitalize()}Function:/var/task:ro",
            *("--env=AWS_DEFAULT_REGION=us-east-1", "--env=IMAGE_SIZE=224", "--env=ENDPOINT_NAME=bench"),
            *("--env=AWS_ACCESS_KEY_ID=test", "--env=AWS_SECRET_ACCESS_KEY=test"),
            *("--env=POWERTOOLS_SERVICE_NAME=bench", "--env=POWERTOOLS_METRICS_NAMESPACE=bench"),
            *("--env=PYTHONPATH=/var/task:/var/runtime", "--workdir=/var/task"),
            *("--entrypoint=python3.13", IMAGE, "-c", code),
        ],
        input=stdin,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode().strip()[-500:]
        raise click.ClickException(f"docker run failed with exit code {done.returncode}: {reason}")
    return done.stdout.decode().splitlines()[-1]


def of_memory(memory: int, rounds: int, phone: bytes) -> dict[str, Any]:
    """Return median milliseconds to start and to serialize 12 megapixels, and the cost of the latter."""
    runs = [json.loads(run("serialize", memory, SERIALIZE, phone)) for _ in range(rounds)]
    took = statistics.median(one for each in runs for one in each["took"])
    second = prices()["lambda_gb_second_arm64"]
    return {
        "memory": memory,
        "ready_ms": round(1000 * statistics.median(one["ready"] for one in runs)),
        "photo_ms": round(1000 * took),
        "dollars_per_million": round(1e6 * took * memory / 1024 * second, 2),
    }


def of_start(name: str, memory: int, rounds: int) -> dict[str, Any]:
    """Return median milliseconds until a function is ready, and until its floor is, measured in turn."""
    ours, floor = [], []
    for _ in range(rounds):
        for took, code in zip((ours, floor), STARTS[name], strict=True):
            took.append(float(run(name, memory, READY.format(code))))
    project, least = (round(1000 * statistics.median(took), 1) for took in (ours, floor))
    return {"function": name, "memory": memory, "project_ms": project, "floor_ms": least, "runs": rounds}


def draw(sizes: Sequence[dict[str, Any]]) -> bytes:
    """Draw milliseconds and dollars by memory size, as SVG."""
    memories = [one["memory"] for one in sizes]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.8))
        axes = figure.add_subplot()
        axes.plot(memories, [one["photo_ms"] for one in sizes], color=BLUE, marker="o", label="a photo, ms")
        axes.plot(
            memories, [one["ready_ms"] for one in sizes], color=TEAL, marker="o", label="cold start, ms"
        )
        axes.set_xscale("log")
        axes.set_xticks(memories, [str(one) for one in memories])
        axes.minorticks_off()
        axes.set_xlabel("MB")
        axes.set_ylabel("milliseconds")
        axes.set_ylim(bottom=0)
        money = axes.twinx()
        dollars = [one["dollars_per_million"] for one in sizes]
        money.plot(memories, dollars, color=AMBER, marker="o", ls="--", label="a million photos, USD")
        money.set_ylim(bottom=0)
        money.spines["right"].set_visible(True)
        money.grid(visible=False)
        money.set_ylabel("dollars")
        figure.legend(frameon=False, loc="outside upper center", ncols=3, labelcolor=SOFT)
    return svg_file(figure)
