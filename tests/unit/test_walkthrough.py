"""The notebook in the repository: no output of a run, and no logic of its own."""

import ast
import importlib
import types

import nbformat
import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "model" / "walkthrough.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    read = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(read)
    return read


def test_the_notebook_has_no_output_of_a_run(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]

    assert [cell.id for cell in code if cell.outputs or cell.execution_count] == []
    assert [cell.id for cell in notebook.cells if cell.metadata] == []
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def test_every_step_says_what_the_student_project_did_and_what_is_done_here(notebook):
    steps = [cell.source for cell in notebook.cells if cell.source.startswith("## ")]

    assert len(steps) == 8
    assert [step for step in steps if "\n*Student project*: " not in step or "\n*Here*: " not in step] == []


def test_cells_call_the_project_and_define_nothing(notebook):
    trees = [ast.parse(cell.source) for cell in notebook.cells if cell.cell_type == "code"]

    nodes = [node for tree in trees for node in ast.walk(tree)]
    assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    runs = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "run"]
    assert [ast.unparse(one) for one in runs] == ["subprocess.run"]  # make deploy


def test_everything_that_cells_import_exists(notebook):
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    nodes = list(ast.walk(ast.parse(source)))

    modules = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for name in node.names:
                found = getattr(module, name.name, None) or importlib.import_module(
                    f"{node.module}.{name.name}"
                )
                if isinstance(found, types.ModuleType):
                    modules[name.asname or name.name] = found
    used = [
        (node.value.id, node.attr)
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    ]
    assert len(used) > 10
    assert [f"{name}.{attribute}" for name, attribute in used if not hasattr(modules[name], attribute)] == []
