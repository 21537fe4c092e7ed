"""For every test: an AWS environment without a real account, and a local stack as a fixture."""

import functools
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import botocore.session
import pytest

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

# Tests create many sessions, each of which would parse the same services' descriptions again.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)

from local import Ports, processes  # noqa: E402  after the environment is set
from local.stack import Stack  # noqa: E402

ROOT = Path(__file__).parents[1]


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
