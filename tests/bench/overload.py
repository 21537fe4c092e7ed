"""Overload the server with more and more clients: ``python -m tests.bench overload``."""

import asyncio
import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import psutil

from pipeline import sample_images
from pipeline.markdown import table
from tests.closed_loop import Clients
from tests.conftest import ROOT

KINDS = {
    "come back when told": {"heed": True},
    "come back within a second": {},
    "the same, and read slowly": {"slow_readers": True},
    "the same, and hang up after half a second": {"patience": 0.5},
}


@click.command()
@click.option("--checkout", type=click.Path(path_type=Path), default=ROOT, help="A version of the code.")
@click.option("--clients", multiple=True, type=int, default=(1, 10, 100, 1000), show_default=True)
@click.option("--seconds", default=20.0, show_default=True)
def bench(checkout: Path, clients: tuple[int, ...], seconds: float) -> None:
    """Print the photos answered a second by a server under clients that wait for four seconds each.

    The clients share the machine with the server; their processor time is in the table.
    """
    rows = [
        (
            "clients", "who", "answered a second", "refused a second", "refusal p99, ms", "lost a second",
            "server's cpu, s/s", "answered per cpu s", "clients' cpu, s/s", "server's memory, MB",
        ),
        ("--:", "---", *["--:"] * 8),
    ]  # fmt: skip
    with serving(checkout) as (url, process):
        usual = Clients(f"{url}/invocations", photo())
        asyncio.run(usual.load(10, 5))  # the server learns how fast it is
        for kind, settings in KINDS.items():
            for count in clients:
                before = sum(process.cpu_times()[:2])
                load = asyncio.run(replace(usual, **settings).load(count, seconds))
                cpu = sum(process.cpu_times()[:2]) - before
                rows.append(
                    (
                        f"{count:,}",
                        kind,
                        f"{load.goodput():.1f}",
                        f"{len(load.refused) / seconds:.1f}",
                        f"{1000 * load.refusal_p99():.0f}",
                        f"{load.lost / seconds:.1f}",
                        f"{cpu / seconds:.2f}",
                        f"{len(load.answered) / cpu:.1f}",
                        f"{load.cpu / seconds:.2f}",
                        f"{process.memory_info().rss / 1e6:.0f}",
                    )
                )
    click.echo(table(rows))


def photo() -> bytes:
    """Return a drawn photo as the endpoint gets it, reduced to its input size."""
    stream = io.BytesIO()
    picture = sample_images.picture(sample_images.bicycle, 1)
    picture.resize((224, 168)).save(stream, "JPEG")
    return stream.getvalue()


@contextmanager
def serving(checkout: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run the server of a checkout; give its URL and its process."""
    command = [sys.executable, "-m", "model", "serve", "--port=0"]
    with subprocess.Popen(command, cwd=checkout, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            yield process.stderr.readline().split()[2], psutil.Process(process.pid)
        finally:
            process.kill()
