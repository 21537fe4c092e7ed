"""Result files of the benchmarks: what was found, and with which code, when, and on which machine."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.conftest import ROOT


def write(file: Path, found: Any, benchmark: str) -> None:
    """Write a benchmark's results as JSON, with their origin: command, date (UTC), commit and machine."""
    measured = {
        "by": f"python -m tests.bench {benchmark}",
        "on": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _commit(),
        "machine": f"{os.process_cpu_count()} cores of {_processor()}",
    }
    file.write_text(json.dumps({"measured": measured, "found": found}, indent=2) + "\n")


def read(file: Path) -> Any:
    """Return the results in a file that `write` wrote."""
    return json.loads(file.read_bytes())["found"]


def _commit() -> str:
    """Return the commit that is checked out; a ``+`` says that files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", "*.py", "*.json", "*.yaml", ":!tests/bench/*.json")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
