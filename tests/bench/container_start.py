"""Measure how fast the model's container starts: ``python -m tests.bench container_start``."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import click

from model.sagemaker import image
from pipeline import sample_images
from tests import measurements
from tests.containers import docker, missing, serving

PHOTO = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1), "JPEG")


@click.command()
@click.option("--rounds", default=20, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).with_suffix(".json"), show_default=True
)
def bench(rounds: int, out: Path) -> None:
    """Start the container until it answers, and in turn an empty one from the same image.

    Writes the medians and their ratio.
    """
    if reason := missing(()):
        raise click.ClickException(f"The benchmark needs Docker: {reason}")
    built = image.build(image.native_platform())
    starts = [(time_empty(built), *time_start(built)) for _ in range(rounds + 1)]
    # the first round reads the image from disk
    empty, served, processor, memory = map(statistics.median, zip(*starts[1:], strict=True))
    found: dict[str, Any] = {
        "rounds": rounds,
        "seconds_to_first_answer": round(served, 2),
        "seconds_of_an_empty_container": round(empty, 2),
        "ratio_of_medians": round(served / empty, 2),
        "processor_seconds": round(processor, 2),
        "peak_megabytes": round(memory / 1e6),
    }
    click.echo(json.dumps(found))
    measurements.write(out, found, "container_start")


def time_empty(built: str) -> float:
    """Return the seconds that an empty Python program takes in a container."""
    began = time.perf_counter()
    docker("run", "--rm", "--publish", "127.0.0.1::8080", "--entrypoint", "python", built, "-c", "pass")
    return time.perf_counter() - began


def time_start(built: str) -> tuple[float, float, float]:
    """Return seconds to the first answer, CPU seconds until then, and peak memory in bytes with a photo."""
    began = time.perf_counter()
    with serving(built) as container:
        took = time.perf_counter() - began
        processor = container.processor_seconds()
        container.probabilities(PHOTO)
        return took, processor, container.peak_memory()
