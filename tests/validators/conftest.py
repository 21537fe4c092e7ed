"""One Node process serves all tests here: `make validate` runs them."""

from collections.abc import Iterator

import pytest

from tests.state_machines import Node, node


@pytest.fixture(scope="session", name="node")
def one_process() -> Iterator[Node]:
    with node() as running:
        yield running
