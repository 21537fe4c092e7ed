"""For every test: an AWS environment without a real account, and a local stack as a fixture."""

import faulthandler
import functools
import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import botocore.session
import hypothesis
import pytest
from hypothesis.database import DirectoryBasedExampleDatabase

from model.cache import cache_folder

ROOT = Path(__file__).parents[1]
USERS = ROOT / ".local"
"""What the user's own stack, training and reports wrote; no test may change it."""
OTHERS = {"cache", "reliability", "uv"}
"""What is made again at any time, the figures of `make verify`, and a program."""
HOME = cache_folder() / "tests" / hashlib.sha256(bytes(ROOT)).hexdigest()[:12]
"""The home of this checkout's tests. It is kept, because it has the cache of builds."""
os.environ["SCONES_HOME"] = str(HOME)
BEFORE = pytest.StashKey[dict[Path, tuple[int, int]]]()

for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ |= {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "POWERTOOLS_SERVICE_NAME": "vehicle-classifier",
    "POWERTOOLS_METRICS_NAMESPACE": "SconesUnlimited/test",
}

# An example may take as long as the machine needs.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    database=DirectoryBasedExampleDatabase(HOME / "hypothesis"),
)
hypothesis.settings.load_profile("tests")
# Some tests crash a decoder's process on purpose; its crash report would alarm whoever reads the output.
os.register_at_fork(after_in_child=faulthandler.disable)

# Tests create many sessions, each of which would parse the same services' descriptions again.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)

from local import Ports, processes  # noqa: E402  after the environment is set
from local.stack import Stack  # noqa: E402


def files_of_the_user() -> dict[Path, tuple[int, int]]:
    """The size and the time of the last change, in nanoseconds, of each of the user's files."""
    found = [
        path for path in USERS.rglob("*") if path.is_file() and path.relative_to(USERS).parts[0] not in OTHERS
    ]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[BEFORE] = files_of_the_user()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that changed the user's files."""
    changed = {path for path, _ in files_of_the_user().items() ^ session.config.stash[BEFORE].items()}
    if changed and not hasattr(session.config, "workerinput"):
        report: Any = session.config.pluginmanager.get_plugin("terminalreporter")
        for path in sorted(changed):
            report.write_line(f"A test changed {path}, which is the user's.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FaultyStack(Stack):
    """A local stack whose emulator injects faults on request (tests/faults.py)."""

    def _emulator(self) -> processes.Server:
        server = super()._emulator()
        return replace(server, command=[*server.command[:-1], "tests.faults:app"])


@pytest.fixture(scope="module")
def stack_for_containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose functions run in containers, and which other containers can reach."""
    stack = Stack(
        home=tmp_path_factory.mktemp("stack"), ports=Ports(free_port(), free_port()), for_containers=True
    )
    with stack.running(progress=print):
        yield stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A local stack, separate from one that `make up` runs."""
    stack = FaultyStack(home=tmp_path_factory.mktemp("stack"), ports=Ports(free_port(), free_port()))
    with stack.running(progress=print):
        yield stack
