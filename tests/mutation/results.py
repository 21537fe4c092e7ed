"""Scores of the mutation run: what was killed, and each survivor with its reason."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import yaml

from functions.monitor.capture_analysis.intervals import Interval, wilson
from tests.mutation import EXPLANATIONS, RESULTS, ROOT


class FileScore(NamedTuple):
    """The mutants of a file: how many there are, were tried, and were killed."""

    mutants: int
    tried: int
    killed: int


def explanations() -> dict[str, str]:
    """The reasons for survivors, by a pattern for their names."""
    return yaml.safe_load(EXPLANATIONS.read_text()) or {}


def reason(name: str, reasons: Mapping[str, str]) -> str | None:
    """The reason of the first pattern that a survivor's name matches; only ``*`` is special in a pattern."""
    found = (text for pattern, text in reasons.items() if fnmatchcase(name, pattern.replace("[", "[[]")))
    return next(found, None)


def read() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"files": {}, "survivors": {}}


def write(scores: Mapping[str, FileScore], survivors: Mapping[str, Iterable[str]]) -> None:
    """Replace the results of some files, and keep those of others."""
    before = read()
    files = before["files"] | {file: score._asdict() for file, score in scores.items()}
    left = before["survivors"] | {file: sorted(names) for file, names in survivors.items()}
    results = {
        "commit": _git("rev-parse", "--short", "HEAD"),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "files": dict(sorted(files.items())),
        "survivors": {file: names for file, names in sorted(left.items()) if names},
    }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def score(results: Mapping[str, Any]) -> Interval:
    """The share of mutants that were killed, with its 95% interval if only a sample of them was tried."""
    total: Counter[str] = Counter()
    for file in results["files"].values():
        total.update(file)
    estimate = wilson(total["killed"], total["tried"])
    whole = total["tried"] == total["mutants"]
    return Interval(estimate.value, estimate.value, estimate.value) if whole else estimate


def unexplained(results: Mapping[str, Any]) -> list[str]:
    reasons = explanations()
    names = (name for group in results["survivors"].values() for name in group)
    return [name for name in names if not reason(name, reasons)]
