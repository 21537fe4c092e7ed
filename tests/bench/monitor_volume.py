"""Measure time and memory of `scones monitor`: ``python -m tests.bench monitor_volume``."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from tests import captures, measurements
from tests.conftest import ROOT


@click.command()
@click.option("--records", multiple=True, type=int, default=(25_000, 50_000, 100_000), show_default=True)
@click.option("--captures-in", type=click.Path(path_type=Path), help="A folder for the captures.")
@click.option(
    "--model", type=click.Path(path_type=Path), help="Also measure distances in this model's feature space."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).with_suffix(".json"), show_default=True
)
def bench(records: tuple[int, ...], captures_in: Path | None, model: Path | None, out: Path) -> None:
    """Make captures of 1 to 50 records per file, report on them, and write seconds and peak memory."""
    found = []
    for count in records:
        with tempfile.TemporaryDirectory(dir=captures_in) as folder:
            chance = random.Random(count)
            files = captures.photos(60)
            written = captures.write(Path(folder), captures.records(count, files, chance), chance)
            megabytes = sum(file.stat().st_size for file in Path(folder).rglob("*.jsonl")) / 1e6
            seconds, peak, metrics = report(Path(folder), model)
        assert metrics["records"] == count, metrics
        found.append(
            {
                "records": count,
                "files": written,
                "captured_megabytes": round(megabytes),
                "seconds": round(seconds, 1),
                "milliseconds_a_record": round(1000 * seconds / count, 3),
                "peak_megabytes": round(peak),
            }
        )
        click.echo(json.dumps(found[-1]))
    measurements.write(out, found, "monitor_volume")


def report(folder: Path, model: Path | None) -> tuple[float, float, dict]:
    """Return seconds, peak megabytes and metrics of a report with a baseline, in a new process."""
    baseline = folder / "baseline.json"
    first_hour = f"{captures.START:%Y-%m-%dT}01:00"
    monitor = [sys.executable, "-m", "scones", "monitor", "--captures", str(folder / "vehicle-classifier")]
    features = ["--model", str(model)] if model else []
    subprocess.run(
        [
            *monitor,
            *features,
            "--to",
            first_hour,
            "--write-baseline",
            str(baseline),
            "--labels",
            ",".join(captures.LABELS),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    began = time.perf_counter()
    process = subprocess.Popen(
        [*monitor, *features, "--baseline", str(baseline), "--out", str(folder / "report")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert status == 0, status
    return seconds, usage.ru_maxrss / 1024, json.loads((folder / "report" / "metrics.json").read_text())


if __name__ == "__main__":
    bench()
