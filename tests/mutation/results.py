"""Scores of the mutation run, in results.json and docs/reliability.md, and the reasons of survivors."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import yaml

from functions.monitor.capture_analysis.intervals import wilson
from pipeline.markdown import table, update_section
from tests.mutation import EXPLANATIONS, RESULTS, ROOT

PAGE, BEGIN = ROOT / "docs" / "reliability.md", "<!-- make mutation -->"


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
    """Replace the results of some files, keep those of others that still exist, and update the page."""
    before = read()
    files = before["files"] | {file: score._asdict() for file, score in scores.items()}
    left = before["survivors"] | {file: sorted(names) for file, names in survivors.items()}
    files, left = (
        {file: one for file, one in kept.items() if (ROOT / file).exists()} for kept in (files, left)
    )
    results = {
        "commit": _git("rev-parse", "--short", "HEAD"),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "files": dict(sorted(files.items())),
        "survivors": {file: names for file, names in sorted(left.items()) if names},
    }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    update_section(PAGE, BEGIN, section())


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def section() -> str:
    """Describe the results for the page: the score of each file, and why the others survived."""
    results, reasons = read(), explanations()
    total = Counter[str]()
    for counts in results["files"].values():
        total.update(counts)
    estimate = wilson(total["killed"], total["tried"])
    sampled = total["tried"] < total["mutants"]
    interval = (
        f" (a sample; the 95% interval is {estimate.low:.1%} to {estimate.high:.1%})" if sampled else ""
    )
    rows = [
        (f"`{file}`", f"{one['tried']:,}", f"{one['killed']:,}", f"{one['killed'] / one['tried']:.0%}")
        for file, one in results["files"].items()
    ]
    names = [name for group in results["survivors"].values() for name in group]
    explained = Counter(text for name in names if (text := reason(name, reasons)))
    left = [name for name in names if not reason(name, reasons)]
    return "\n".join(
        [
            f"{total['killed']:,} of {total['tried']:,} mutants were killed: {estimate.value:.1%}{interval}. "
            f"Run on {results['date']}, commit `{results['commit']}`.",
            "",
            table([("file", "mutants", "killed", "share"), ("---", "--:", "--:", "--:"), *rows]),
            "",
            "| survivors | why |",
            "|--:|---|",
            *(f"| {count} | {text} |" for text, count in explained.most_common()),
            "",
            f"<details><summary>{len(left)} survivors without a reason</summary>",
            "",
            *(f"- `{name.replace('`', '')}`" for name in left),
            "",
            "</details>",
        ]
    )
