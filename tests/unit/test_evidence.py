"""What the pages claim stands in them, with the figures that were measured."""

import json

import pytest

from docs import evidence
from docs.evidence import Claim, EvidenceError
from tests.conftest import ROOT

CLAIM = {"page": "aws.md", "command": "make bench", "n": "{found.n} photos", "not_shown": "the rest"}


@pytest.mark.parametrize("claim", evidence.claims(), ids=lambda claim: f"{claim.page} {claim.text[:40]}")
def test_the_page_has_the_sentence_with_the_measured_figures(claim):
    assert claim.stands_in((ROOT / "docs" / claim.page).read_text()), claim.text


@pytest.mark.parametrize("claim", evidence.claims(), ids=lambda claim: f"{claim.page} {claim.text[:40]}")
def test_a_claim_says_how_to_repeat_it_and_what_it_does_not_show(claim):
    written_by = claim.measured["by"].removeprefix("python -m tests.bench ")
    assert claim.command.startswith("make bench")
    assert written_by == "targets" or f"BENCH={written_by}" in claim.command.replace('"', "")
    assert claim.n
    assert claim.not_shown


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    content = {"measured": {}, "found": {"n": 1200, "ratio": 0.987}}
    (tmp_path / "results.json").write_text(json.dumps(content))
    return CLAIM | {"result": "results.json"}


def test_figures_come_from_the_result_file(results):
    claim = Claim.make(**results, claim="{ratio:.1%} of them", figures={"ratio": "found.ratio"})

    assert (claim.text, claim.n) == ("98.7% of them", "1,200 photos")
    assert claim.stands_in("In all,\n98.7%\nof  them were right")
    assert not claim.stands_in("98.8% of them")


def test_a_figure_that_was_not_measured_is_an_error(results):
    with pytest.raises(EvidenceError, match=r"has no found\.other"):
        Claim.make(**results, claim="{other}", figures={"other": "found.other"})
