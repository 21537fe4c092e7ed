"""What was measured and counted is what the pages show, and every aim has its figure."""

import json

import pytest

from docs import reliability
from pipeline.markdown import END
from tests.bench import aims
from tests.bench.aims import AIMS, Row

FOUND = json.loads(aims.RESULTS.read_text())


def shown(page, begin: str) -> str:
    return page.read_text().partition(begin)[2].partition(END)[0].strip()


def test_every_aim_was_measured():
    assert [row["name"] for row in FOUND] == list(AIMS)


def test_the_page_shows_what_was_measured():
    assert shown(aims.PAGE, aims.BEGIN) == aims.table(FOUND)


def test_ratios_are_of_what_there_is():
    row = Row("a", "ms", 3.0, floor=2.0, original=None).with_ratios()

    assert (row["to_floor"], row["to_original"]) == (1.5, None)


@pytest.mark.parametrize(("seconds", "held"), [(59.0, True), (60.0, True), (61.0, False), (None, False)])
def test_an_aim_that_was_not_measured_is_not_held(seconds, held):
    assert aims.holds(Row("training on CIFAR's 1,000 photos", "s", seconds).with_ratios()) is held


@pytest.mark.parametrize(("rate", "held"), [(1.0, False), (2.0, True), (3.0, True)])
def test_some_aims_are_bounds_from_below(rate, held):
    assert aims.holds(Row("burst of 1,000", "1/s", rate, original=2.0).with_ratios()) is held


def test_the_state_counts_as_large_as_it_ever_was():
    history = [
        {"id": 1, "executionStartedEventDetails": {"input": "12"}},
        {"id": 2, "taskScheduledEventDetails": {"parameters": "12345"}},
        {"id": 3, "stateExitedEventDetails": {"name": "Serialize", "output": "123"}},
    ]

    assert aims.state_bytes(history) == 5


def test_nothing_was_lost_or_counted_twice():
    rows = dict(
        line.strip("| ").split(" | ") for line in shown(reliability.PAGE, reliability.BEGIN).split("\n")[2:]
    )

    assert list(rows) == list(reliability.ROWS.values())
    assert rows["**photos lost**"] == rows["**photos counted twice**"] == "0"
    assert int(rows[reliability.ROWS["photos_sent"]].replace(",", "")) > 0
