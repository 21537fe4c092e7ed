"""Run a benchmark, which writes its results: ``python -m tests.bench NAME [options]``.

Without a name, it takes both from the variable ``BENCH``, in which quotes may hold spaces together.
"""

import importlib
import os
import shlex
import sys
from pathlib import Path

import click


class Benchmarks(click.Group):
    """The modules of this folder, each of which has a command `bench`."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        return importlib.import_module(f"tests.bench.{name}").bench


if __name__ == "__main__":
    given = sys.argv[1:] or shlex.split(os.environ.get("BENCH") or "targets")
    Benchmarks(help=__doc__)(given, prog_name="python -m tests.bench")
