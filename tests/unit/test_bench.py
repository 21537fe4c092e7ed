"""The pages show the figures that were measured and counted, and every target has a figure."""

import json
import re
from datetime import date

import pytest

from docs import reliability
from pipeline.costs import usage
from pipeline.markdown import END
from tests import measurements
from tests.bench import targets
from tests.bench.targets import TARGETS, Row
from tests.conftest import ROOT

FOUND = measurements.read(targets.RESULTS)
COMPUTED = targets.computed_rows()
RESULT_FILES = [*sorted((ROOT / "tests" / "bench").glob("*.json")), usage.MEASURED]


def shown(page, begin: str) -> str:
    return page.read_text().partition(begin)[2].partition(END)[0].strip()


def test_every_target_was_measured():
    assert {row["name"] for row in (*FOUND, *COMPUTED)} == TARGETS.keys()


def test_the_page_shows_what_was_measured():
    assert shown(targets.PAGE, targets.BEGIN) == targets.table(FOUND)
    assert shown(targets.PAGE, targets.BEGIN_COMPUTED) == targets.table(COMPUTED), "scones cost --update …"


@pytest.mark.parametrize("file", RESULT_FILES, ids=lambda file: file.name)
def test_every_result_file_names_its_origin(file):
    measured = json.loads(file.read_bytes())["measured"]

    assert measured.keys() == {"by", "on", "commit", "machine"}
    assert measured["by"].startswith("python -m tests.bench ")
    assert date.fromisoformat(measured["on"])
    assert re.fullmatch(r"[0-9a-f]{7,40}\+?", measured["commit"])


def test_written_results_are_read_back_with_their_origin(tmp_path):
    measurements.write(tmp_path / "found.json", {"figure": 1}, "targets")

    assert measurements.read(tmp_path / "found.json") == {"figure": 1}
    assert json.loads((tmp_path / "found.json").read_bytes())["measured"]["by"] == (
        "python -m tests.bench targets"
    )


def test_a_ratio_needs_both_figures():
    row = Row("a", "ms", 3.0, floor=2.0, original=None).with_ratios()

    assert (row["to_floor"], row["to_original"]) == (1.5, None)


@pytest.mark.parametrize(("seconds", "met"), [(59.0, True), (60.0, True), (61.0, False), (None, False)])
def test_a_target_that_was_not_measured_is_missed(seconds, met):
    assert targets.is_met(Row("training on CIFAR's 1,000 photos", "s", seconds).with_ratios()) is met


@pytest.mark.parametrize(("rate", "met"), [(1.0, False), (2.0, True), (3.0, True)])
def test_some_targets_are_lower_bounds(rate, met):
    assert targets.is_met(Row("burst of 1,000", "1/s", rate, original=2.0).with_ratios()) is met


def test_the_size_of_the_state_is_its_maximum():
    history = [
        {"id": 1, "executionStartedEventDetails": {"input": "12"}},
        {"id": 2, "taskScheduledEventDetails": {"parameters": "12345"}},
        {"id": 3, "stateExitedEventDetails": {"name": "Serialize", "output": "123"}},
    ]

    assert targets.state_bytes(history) == 5


def test_nothing_was_lost_and_only_lost_acknowledgements_repeated_an_event():
    rows = dict(
        line.strip("| ").split(" | ") for line in shown(reliability.PAGE, reliability.BEGIN).split("\n")[2:]
    )

    assert list(rows) == list(reliability.ROWS.values())
    assert rows[reliability.ROWS["lost"]] == "0"
    assert rows[reliability.ROWS["double"]] == rows[reliability.ROWS["repeated_events"]]
    assert int(rows[reliability.ROWS["photos_sent"]].replace(",", "")) > 0
