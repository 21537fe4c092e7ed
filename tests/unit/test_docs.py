"""The documentation is true: what it takes from the code is up to date, and its links lead somewhere."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from docs import pages
from pipeline.markdown import END
from tests import readme
from tests.conftest import ROOT

MARKDOWN = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"""(?:\]\(|(?:src|srcset|href)=")([^)\s"]+)""")
LARGEST_PICTURE = 300_000


def prose(page: Path) -> str:
    """A page without what is code in it."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    without_code = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    named = set(re.findall(r'<a id="([^"]+)">', without_code))
    return named | {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages.contents(), ids=lambda page: page.name)
def test_what_a_page_takes_from_the_code_is_up_to_date(page):
    place, text = pages.contents()[page]

    shown = page.read_text().partition(f"<!-- {place}: make docs -->")[2].partition(END)[0].strip()

    assert shown == text, "make docs"


def test_the_picture_of_the_state_machine_has_every_state_and_every_way():
    definition = json.loads((ROOT / pages.MACHINE).read_text())
    drawn = pages.machine(definition)

    for name, state in definition["States"].items():
        if state["Type"] == "Choice":
            (before,) = (one for one, other in definition["States"].items() if other.get("Next") == name)
            ends = {choice["Next"] for choice in state["Choices"]} | {state["Default"]}
        else:
            before, ends = name, {state["Next"]} if "Next" in state else set()
            ends -= {one for one in ends if definition["States"][one]["Type"] == "Choice"}
        for end in ends:
            way = rf"^ *{pages.node_id(before)} .*--> {pages.node_id(end)}$"
            assert re.search(way, drawn, re.MULTILINE), (before, end)


def test_the_picture_changes_with_the_definition():
    definition = json.loads((ROOT / pages.MACHINE).read_text())
    before = pages.machine(definition)
    definition["States"]["Filter"]["Next"] = "Record"

    assert pages.machine(definition) != before


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_are_there(page):
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_can_be_found_from_the_readme():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(prose(ROOT / "README.md"))}

    assert set(MARKDOWN) - linked == {ROOT / "README.md"}


def test_pictures_are_small_and_are_shown_somewhere():
    shown = {(page.parent / link).resolve() for page in MARKDOWN for link in LINK.findall(prose(page))}
    pictures = {file for file in (ROOT / "docs").iterdir() if file.suffix in {".png", ".svg"}}

    assert pictures <= shown
    assert {file.name for file in pictures if file.stat().st_size > LARGEST_PICTURE} == set()


def test_the_readme_fits_on_two_screens():
    assert (
        len(re.sub(r"```mermaid.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL).splitlines())
        < 130
    )


def test_how_each_command_of_the_readme_is_proven_is_known():
    """tests/e2e/test_readme.py runs them: a new one belongs there."""
    assert list(readme.KNOWN) == readme.COMMANDS
    assert {kind for kind, _ in readme.BLOCKS} == {"sh", "mermaid"}
