"""Progress bars."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from model.terminal.progress import RateColumn, track


@pytest.mark.parametrize(
    ("speed", "finished_speed", "shown"), [(None, None, ""), (2.54, None, "2.5/s"), (2.54, 10.0, "10.0/s")]
)
def test_the_rate_is_shown_once_it_is_known(speed, finished_speed, shown):
    task = SimpleNamespace(speed=speed, finished_speed=finished_speed)

    assert RateColumn().render(task).plain == shown


@pytest.mark.parametrize(("terminal", "visible"), [(True, True), (False, False)])
def test_progress_is_shown_only_on_a_terminal(terminal, visible):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)

    assert list(track(range(3), 3, "Counting", console)) == [0, 1, 2]
    assert ("Counting" in console.file.getvalue()) is visible
