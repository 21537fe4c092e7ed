"""Generated parts of the documentation are up to date, and its links have targets."""

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
    """Return a page without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    without_code = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    explicit = set(re.findall(r'<a id="([^"]+)">', without_code))
    return explicit | {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages.contents(), ids=lambda page: page.name)
def test_generated_parts_are_up_to_date(page):
    name, text = pages.contents()[page]

    shown = page.read_text().partition(f"<!-- {name}: make docs -->")[2].partition(END)[0].strip()

    assert shown == text, "make docs"


def test_the_diagram_has_every_transition_of_the_state_machine():
    definition = json.loads((ROOT / pages.MACHINE).read_text())
    drawn = pages.flowchart(definition)

    for name, state in definition["States"].items():
        if state["Type"] == "Choice":
            (before,) = (one for one, other in definition["States"].items() if name in following(other))
            after_fault = definition["States"][before].get("Next") != name
            ends = {choice["Next"] for choice in state["Choices"]}
            ends |= set() if after_fault else {state["Default"]}
        else:
            before, ends = name, {state["Next"]} if "Next" in state else set()
            ends -= {one for one in ends if definition["States"][one]["Type"] == "Choice"}
        for end in ends:
            transition = rf"^ *{pages.node_id(before)} .*--> {pages.node_id(end)}$"
            assert re.search(transition, drawn, re.MULTILINE), (before, end)


def following(state: dict) -> set[str]:
    return {branch["Next"] for branch in (state, *state.get("Catch", [])) if "Next" in branch}


def test_the_diagram_changes_with_the_definition():
    definition = json.loads((ROOT / pages.MACHINE).read_text())
    before = pages.flowchart(definition)
    definition["States"]["Filter"]["Next"] = "Record"

    assert pages.flowchart(definition) != before


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_links_point_to_existing_files_and_headings(page):
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_readme_links_to_every_page():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(prose(ROOT / "README.md"))}

    assert set(MARKDOWN) - linked == {ROOT / "README.md"}


def test_pictures_are_small_and_every_one_is_used():
    shown = {(page.parent / link).resolve() for page in MARKDOWN for link in LINK.findall(prose(page))}
    pictures = {file for file in (ROOT / "docs").iterdir() if file.suffix in {".png", ".svg"}}

    assert pictures <= shown
    assert {file.name for file in pictures if file.stat().st_size > LARGEST_PICTURE} == set()


def test_the_readme_fits_on_two_screens():
    assert (
        len(re.sub(r"```mermaid.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL).splitlines())
        < 130
    )


def test_the_commands_of_the_readme_are_those_that_are_tested():
    """tests/e2e/test_readme.py runs them; add a new one there."""
    assert list(readme.KNOWN) == readme.COMMANDS
    assert {kind for kind, _ in readme.BLOCKS} == {"sh", "mermaid"}
