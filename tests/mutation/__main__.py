"""Run it: ``python -m tests.mutation [functions erasure review replay templates statemachine] [--sample N]``.

It can be interrupted and started again: what was tried is in ``.local/mutation``. A mutant that was killed is
not tried again until its file changes, and a survivor not until its tests do; --fresh forgets all of it.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import click
import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.mutation import ROOT, Mutant, document_mutants, python_mutants, results
from tests.mutation.targets import GROUPS, TEMPLATES, Target, chosen, tried_elsewhere

OUTCOMES = ROOT / ".local" / "mutation" / "outcomes.jsonl"
console = Console(stderr=True)


class MutationError(Exception):
    """The tests fail without a mutation, or a worker ended."""


class Worker:
    """A process that runs the tests of one mutant at a time, in a copy of the project of its own."""

    def __init__(self, copy: Path) -> None:
        self._process = subprocess.Popen(
            # Numerical libraries without threads, because a thread does not survive a fork.
            [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.mutation.worker"],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            cwd=copy,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._baselines: dict[tuple[str, ...], dict[str, Any]] = {}

    def baseline(self, target: Target) -> dict[str, Any]:
        """Run a target's tests without a mutation, once."""
        key = tuple(target.paths())
        if key not in self._baselines:
            python = [path for path in key if path.endswith(".py")]
            answer = self._ask({"tests": list(target.tests), "measure": python})
            if answer.get("code") != 0:
                raise MutationError(f"The tests fail without a mutation:\n{answer.get('log')}")
            self._baselines[key] = answer
        return self._baselines[key]

    def outcome(self, target: Target, mutant: Mutant) -> tuple[str, str | None]:
        """Return "killed", "timeout" or "survived", and the test that failed."""
        only = tests_that_reach(mutant, self.baseline(target))
        tests = [test for test in target.tests if any(name.startswith(test) for name in only)]
        answer = self._ask({"tests": tests, "only": only, "file": mutant.file, "text": mutant.text})
        if "timeout" in answer:
            return "timeout", None
        return ("survived" if answer["code"] == 0 else "killed"), answer["failed"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise MutationError("A worker ended.")
        return json.loads(line)

    def close(self) -> None:
        for process in psutil.Process(self._process.pid).children(recursive=True):
            process.kill()
        self._process.kill()
        self._process.communicate()


def tests_that_reach(mutant: Mutant, baseline: dict[str, Any]) -> list[str]:
    """The tests that execute a mutant's lines, the quickest first.

    All of them, if only loading the module or a subprocess executes these lines, and for a template all but
    those that are about another.
    """
    seconds: dict[str, float] = baseline["seconds"]
    by_line: dict[str, list[str]] = baseline["lines"].get(mutant.file, {})
    first, last = mutant.lines
    reached = {test for line in range(first, last + 1) for test in by_line.get(str(line), ())}
    others = [name for name in TEMPLATES if name != mutant.file and mutant.file in TEMPLATES]
    about = [test for test in reached or seconds if not any(f"[{name}" in test for name in others)]
    return sorted(about, key=lambda test: seconds[test])


@contextmanager
def workers(count: int) -> Iterator[list[Worker]]:
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder, ExitStack() as stack:
        started = []
        for number in range(count):
            worker = Worker(copy_project(Path(folder) / str(number)))
            stack.callback(worker.close)
            started.append(worker)
        yield started


def copy_project(to: Path) -> Path:
    """Copy what Git knows of, as it is now, and link what is installed."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    for installed in (".venv", "tests/validators/node_modules"):
        if (ROOT / installed).exists():
            (to / installed).symlink_to(ROOT / installed)
    return to


def find_mutants(path: str) -> list[Mutant]:
    kind = python_mutants if path.endswith(".py") else document_mutants
    return kind.mutants(path, (ROOT / path).read_text())


def sampled(mutants: list[Mutant], share: float, seed: int) -> list[Mutant]:
    """A share of a file's mutants, at least one; a larger share has those of a smaller one too."""
    shuffled = random.Random(seed).sample(range(len(mutants)), len(mutants))
    return [mutants[number] for number in sorted(shuffled[: max(1, round(share * len(mutants)))])]


class Outcomes:
    """What was tried before: killed mutants by their text, survivors also by the tests that they survived."""

    def __init__(self) -> None:
        OUTCOMES.parent.mkdir(parents=True, exist_ok=True)
        self._file = OUTCOMES.open("a")
        self._known = {
            line["key"]: line["outcome"] for line in map(json.loads, OUTCOMES.read_text().splitlines())
        }

    def find(self, target: Target, mutant: Mutant) -> str | None:
        return self._known.get(_key(mutant)) or self._known.get(_key(mutant, target))

    def add(self, target: Target, mutant: Mutant, outcome: str, failed: str | None) -> None:
        key = _key(mutant, target) if outcome == "survived" else _key(mutant)
        self._known[key] = outcome
        line = {"key": key, "outcome": outcome, "mutant": mutant.name, "failed": failed}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()


def _key(mutant: Mutant, target: Target | None = None) -> str:
    tests = [(ROOT / test.partition("::")[0]).read_text() for test in target.tests] if target else []
    return hashlib.sha256("\0".join([mutant.file, mutant.text, *tests]).encode()).hexdigest()[:24]


def survives(outcomes: Outcomes, idle: SimpleQueue[Worker], target: Target, mutant: Mutant) -> bool:
    """Try a mutant, unless it was tried before, with a worker that is not in use."""
    outcome = outcomes.find(target, mutant)
    if outcome is None:
        worker = idle.get()
        try:
            outcome, failed = worker.outcome(target, mutant)
        finally:
            idle.put(worker)
        outcomes.add(target, mutant, outcome, failed)
    return outcome == "survived" and not tried_elsewhere(mutant.name)


@click.command()
@click.argument("groups", nargs=-1, type=click.Choice(list(GROUPS)))
@click.option("--file", "only", default="", help="Only files whose path contains this.")
@click.option("--sample", type=click.FloatRange(0, 1), default=1.0, help="The share of mutants to try.")
@click.option("--seed", default=1, show_default=True, help="Chooses the sample.")
@click.option("--jobs", default=os.process_cpu_count(), show_default=True, help="Processes.")
@click.option("--fresh", is_flag=True, help="Forget what was tried before.")
@click.option("--write/--no-write", default=True, show_default=True, help="Write results.json.")
def main(
    *, groups: Sequence[str], only: str, sample: float, seed: int, jobs: int, fresh: bool, write: bool
) -> None:
    """Mutate what GROUPS name, or everything, and run the tests on each mutant."""
    if fresh:
        OUTCOMES.unlink(missing_ok=True)
    outcomes, idle = Outcomes(), SimpleQueue[Worker]()
    scores: dict[str, results.FileScore] = {}
    survivors: dict[str, list[str]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        workers(jobs) as started,
        Progress(*columns, console=console) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        for worker in started:
            idle.put(worker)
        for path, target in chosen(groups).items():
            if only not in path:
                continue
            mutants = find_mutants(path)
            trying = sampled(mutants, sample, seed)
            task = bar.add_task(path, total=len(trying))
            left = []
            futures = {pool.submit(survives, outcomes, idle, target, mutant): mutant for mutant in trying}
            for future in as_completed(futures):
                bar.advance(task)
                if future.result():
                    left.append(futures[future].name)
            scores[path] = results.FileScore(len(mutants), len(trying), len(trying) - len(left))
            survivors[path] = left
    for path, score in scores.items():
        console.print(f"{score.killed / score.tried:4.0%} of {score.tried:4} killed  {path}", highlight=False)
        for name in survivors[path]:
            console.print(f"      {name.removeprefix(path)}", markup=False, highlight=False, soft_wrap=True)
    if write:
        results.write(scores, survivors)


if __name__ == "__main__":
    main()
