"""Run tests against one mutant at a time, each in a fork: ``python -m tests.mutation.worker``.

The process starts in a copy of the project, reads one JSON object a line and answers with one. It loads the
libraries that the tests use, but nothing that is mutated, so that a fork needs only the tests' own time.
"""

import importlib
import json
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import coverage
import psutil
import pytest
from hypothesis import HealthCheck, settings

HERE = Path.cwd()
OPTIONS = (
    "-q",
    "-x",
    "--no-header",
    "-p",
    "no:cacheprovider",
    "-m",
    "",
    f"--basetemp={HERE}-temporary",
    "--hypothesis-profile=mutation",
    # The forked process has loaded pytest's plugins before pytest could rewrite their assertions.
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)
IDLE_SECONDS = 30
"""A mutant that uses no processor for so long waits for something that never comes."""
LEAST_CPU_SECONDS = 15
"""The processor time that a mutant may use, if five times that of the tests without a mutation is less."""


class Recorder:
    """A pytest plugin: choose and order the tests, and note which tests run, how long, and which fails."""

    def __init__(self, only: Sequence[str] | None, measured: coverage.Coverage | None) -> None:
        self.order = None if only is None else {name: number for number, name in enumerate(only)}
        self.measured = measured
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: str | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.order is not None:
            chosen = [item for item in items if item.nodeid in self.order]
            items[:] = sorted(chosen, key=lambda item: self.order[item.nodeid])

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self.measured:
            self.measured.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = f"loading {report.nodeid}"


def run_tests(tests: Sequence[str], only: Sequence[str] | None) -> dict[str, Any]:
    """Run tests in this process; only those named, in their order, if any are."""
    # Bytecode of the tests, which the first run stored, is read; that of a mutant must not be stored.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    recorder = Recorder(only, None)
    # One file after the other, because loading the next ones is of no use after a failure.
    code = next(filter(None, (pytest.main([*OPTIONS, test], plugins=[recorder]) for test in tests)), 0)
    return {"code": int(code), "failed": recorder.failed}


def run_baseline(tests: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
    """Run tests without a mutation, and find out which test executes which lines of some files."""
    measured = (
        coverage.Coverage(data_file=None, include=[str(HERE / file) for file in files]) if files else None
    )
    recorder = Recorder(None, measured)
    if measured:
        measured.start()
    code = pytest.main([*OPTIONS, *tests], plugins=[recorder])
    lines: dict[str, dict[int, list[str]]] = {}
    if measured:
        measured.stop()
        data = measured.get_data()
        for file in files:
            contexts = data.contexts_by_lineno(str(HERE / file))
            lines[file] = {line: [one for one in tests if one] for line, tests in contexts.items()}
    return {
        "code": int(code),
        "failed": recorder.failed,
        "seconds": dict(recorder.seconds),
        "lines": lines,
        "cpu": time.process_time(),
        "libraries": [name for name in sys.modules if may_be_loaded_before(name, templates=not files)],
    }


def may_be_loaded_before(name: str, *, templates: bool) -> bool:
    """Whether forks may share a module: a library, or code of ours that reads no template while it loads."""
    if templates and name.partition(".")[0] in {"local", "model", "pipeline"}:
        return True
    return (
        "site-packages" in (getattr(sys.modules[name], "__file__", None) or "")
        and name.partition(".")[0] not in AT_LOAD
    )


AT_LOAD = {"ministack"}
"""Libraries that read the environment when they are loaded."""


def forked(
    call: Callable[..., dict[str, Any]], arguments: Sequence[Any], cpu_seconds: float
) -> dict[str, Any]:
    """Call a function in a fork; the answer is ``{"timeout": True}`` if it neither ends nor gets on."""
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiving)
        os.setsid()
        # Only the soft limit, because the code under test sets limits of its own.
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds), resource.RLIM_INFINITY))
        nothing = os.open(os.devnull, os.O_RDWR)
        log = os.open(f"{HERE}-log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        try:
            answer = call(*arguments)
            os.write(sending, b" ")  # the answer may be longer than a pipe holds
            with os.fdopen(sending, "w") as pipe:
                json.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(sending)
    return follow(pid, receiving)


def follow(pid: int, receiving: int) -> dict[str, Any]:
    """Wait for a fork's answer, and end everything that it started."""
    used, since = 0.0, time.monotonic()
    text = bytearray()
    os.set_blocking(receiving, False)
    answered = False
    while True:
        try:
            part = os.read(receiving, 65536)
            if not part:
                break
            text += part
            answered = True
        except BlockingIOError:
            time.sleep(0.01)
        if answered or time.monotonic() - since < IDLE_SECONDS / 4:
            continue
        now = cpu_of_group(pid)
        if now > used:
            used, since = now, time.monotonic()
        elif time.monotonic() - since > IDLE_SECONDS:
            break
    end_group(pid)
    os.close(receiving)
    os.waitpid(pid, 0)
    return json.loads(text) if text.strip() else {"timeout": True}


def group(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid:
                found.append(process)
        except (ProcessLookupError, PermissionError):
            continue
    return found


def cpu_of_group(pid: int) -> float:
    """The processor time, in seconds, of a fork and of all that it started."""
    used = 0.0
    for process in group(pid):
        try:
            used += sum(process.cpu_times()[:4])
        except psutil.Error:
            continue
    return used


def end_group(pid: int) -> None:
    for process in group(pid):
        if process.pid != pid or process.status() != psutil.STATUS_ZOMBIE:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def handle(request: dict[str, Any], limit: float) -> dict[str, Any]:
    """Run a request: ``{"tests", "measure": files}`` or ``{"tests", "only", "file", "text"}``."""
    if "measure" in request:
        answer = forked(run_baseline, (request["tests"], request["measure"]), 3600)
        for name in answer.pop("libraries", ()):
            load(name)
        return answer | {"log": Path(f"{HERE}-log").read_text()}
    path = HERE / request["file"]
    original = path.read_bytes()
    path.write_text(request["text"])
    try:
        return forked(run_tests, (request["tests"], request["only"]), limit)
    finally:
        path.write_bytes(original)


def load(name: str) -> None:
    """Import a library, so that forks have it; one that cannot be loaded by itself is left to them."""
    try:
        importlib.import_module(name)
    except Exception:  # noqa: BLE001
        sys.modules.pop(name, None)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    quick = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings.register_profile(
        "mutation", deadline=None, derandomize=True, database=None, suppress_health_check=quick
    )
    limit = float(LEAST_CPU_SECONDS)
    for line in sys.stdin:
        request = json.loads(line)
        answer = handle(request, limit)
        if "cpu" in answer:
            limit = max(LEAST_CPU_SECONDS, 5 * answer["cpu"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
