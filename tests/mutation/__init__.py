"""Mutation testing: change one thing at a time, and see whether a test fails.

``python -m tests.mutation`` mutates the code that decides about photos, and the files that configure AWS. A
mutation that no test notices survives; `EXPLANATIONS` gives the reason for each that is left.
"""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results.json"
EXPLANATIONS = Path(__file__).parent / "survivors.yaml"


class Mutant(NamedTuple):
    """One changed file: what was changed and where, on which lines, and the whole changed text."""

    file: str
    where: str
    change: str
    lines: tuple[int, int]
    text: str

    @property
    def name(self) -> str:
        return f"{self.file}: {self.where}: {self.change}"


def numbered(mutants: list[Mutant]) -> list[Mutant]:
    """Tell mutants with the same name apart, in the order of the file."""
    seen: dict[str, int] = {}
    unique = []
    for mutant in mutants:
        seen[mutant.name] = number = seen.get(mutant.name, 0) + 1
        unique.append(mutant if number == 1 else mutant._replace(change=f"{mutant.change} ({number})"))
    return unique
