"""The notebook as it is kept: nothing of a run in it, and no way of its own to do what a command does."""

import ast

import nbformat
import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "model" / "walkthrough.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    read = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(read)
    return read


def test_nothing_of_a_run_is_kept(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]

    assert [cell.id for cell in code if cell.outputs or cell.execution_count] == []
    assert [cell.id for cell in notebook.cells if cell.metadata] == []
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def test_every_step_says_what_the_original_did_and_what_is_done_instead(notebook):
    steps = [cell.source for cell in notebook.cells if cell.source.startswith("## ")]

    assert len(steps) == 8
    assert [step for step in steps if "\n*There*: " not in step or "\n*Here*: " not in step] == []


def test_it_runs_on_both_by_the_same_cells_and_has_no_logic_of_its_own(notebook):
    """Whatever decides something is the project's: cells call it, and define nothing."""
    trees = [ast.parse(cell.source) for cell in notebook.cells if cell.cell_type == "code"]

    nodes = [node for tree in trees for node in ast.walk(tree)]
    assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    started = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "run"]
    assert [ast.unparse(one) for one in started] == ["subprocess.run"]  # make deploy
