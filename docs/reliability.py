"""The figures of docs/reliability.md, from what the tests of a run counted: ``python -m docs.reliability``.

`make verify` ends with it.
"""

import json
from collections import Counter
from pathlib import Path

import click

from pipeline.markdown import update_section

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
COUNTS = ROOT / ".local" / "reliability" / "counts.jsonl"
BEGIN = "<!-- make verify -->"
ROWS = {
    "bad_files": "bad files uploaded",
    "odd_names": "names that are hard to pass on",
    "fuzzed_files": "files made by the fuzzer, in search of new ways through the code",
    "faults_injected": "faults injected, each followed by a replay",
    "photos_sent": "photos sent in all of that",
    "lost": "**photos lost**",
    "double": "**photos counted twice**",
    "removed": "permissions taken away, one at a time: of functions and of whoever forgets or reviews photos",
    "noticed": "of these, missed by something that then failed",
}
"""What was counted, in the page's order, and what the page calls it."""


def figures() -> dict[str, int]:
    """Read what the tests counted.

    Raises
    ------
    click.ClickException
        Not all of them have run.
    """
    counts: Counter[str] = Counter()
    if COUNTS.exists():
        for line in COUNTS.read_text().splitlines():
            counts.update(json.loads(line))
    if missing := ROWS.keys() - counts:
        raise click.ClickException(f"nothing counted {', '.join(sorted(missing))}: `make verify` does")
    return counts


def table(counts: dict[str, int]) -> str:
    """Lay the figures out in Markdown."""
    return "\n".join(["| | |", "|---|--:|", *(f"| {ROWS[name]} | {counts[name]:,} |" for name in ROWS)])


@click.command()
def main() -> None:
    """Bring the page up to the last run."""
    update_section(PAGE, BEGIN, table(figures()))


if __name__ == "__main__":
    main()
