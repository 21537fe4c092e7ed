"""Compare what the pages claim with the result files, and list it in docs/evidence.md: `make docs` writes it.

``evidence.toml`` has the claims. A claim is a sentence of a page with a placeholder for each figure; the
figures are JMESPath expressions on a result file, so that none is copied by hand.
"""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jmespath

from pipeline.markdown import table

ROOT = Path(__file__).parents[1]
CLAIMS = Path(__file__).with_suffix(".toml")


class EvidenceError(Exception):
    """A result file does not have a figure that a page claims."""


@dataclass(frozen=True)
class Claim:
    """A sentence of a page, and the result file that it is taken from."""

    page: str
    text: str  # with the figures
    result: str
    command: str
    n: str
    not_shown: str
    measured: dict[str, str]  # by, on, commit, machine

    @classmethod
    def make(
        cls,
        *,
        page: str,
        claim: str,
        result: str,
        command: str,
        n: str,
        not_shown: str,
        figures: dict[str, str],
    ) -> Self:
        """Fill in the figures from the result file; raise `EvidenceError` if it has none."""
        content = json.loads((ROOT / result).read_bytes())
        figures = {name: _find(path, content) for name, path in figures.items()}
        counted = re.sub(r"\{(.*?)\}", lambda match: f"{_find(match[1], content):,}", n)
        return cls(page, claim.format(**figures), result, command, counted, not_shown, content["measured"])

    def stands_in(self, content: str) -> bool:
        """Tell whether a page has the sentence, however its lines are broken."""
        return " ".join(self.text.split()) in " ".join(content.split())


def _find(path: str, content: Any) -> Any:  # noqa: ANN401  JSON
    found = jmespath.search(path, content)
    if found is None:
        raise EvidenceError(f"The result file has no {path}.")
    return found


def claims() -> list[Claim]:
    """Return all claims, with their figures."""
    return [Claim.make(**one) for one in tomllib.loads(CLAIMS.read_text())["claims"]]


def as_table() -> str:
    """Return the table of docs/evidence.md."""
    rows = [("claim", "repeat it with", "n", "measured", "what it does not show"), ("---",) * 5]
    for one in claims():
        measured = f"{one.measured['on']}, `{one.measured['commit']}`, {one.measured['machine']}"
        text = " ".join(one.text.split()).replace("|", "\\|")
        rows.append((f"[{text}]({one.page})", f"`{one.command}`", one.n, measured, one.not_shown))
    return table(rows)
