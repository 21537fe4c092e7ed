"""The notebook for those who come from the original project: run from top to bottom on a local stack."""

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from local import Ports
from local.stack import Stack
from model.network.classifier import Classifier
from tests.conftest import ROOT, free_port

NOTEBOOK = ROOT / "model" / "walkthrough.ipynb"
PNG = "image/png"


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[Stack]:
    """One of its own: what its endpoint serves changes."""
    stack = Stack(home=tmp_path_factory.mktemp("stack"), ports=Ports(free_port(), free_port()))
    with stack.running(progress=print):
        yield stack


def printed(cell: nbformat.NotebookNode) -> str:
    """All that a cell shows as text."""
    outputs = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in cell.outputs]
    return "".join(outputs)


@pytest.fixture(scope="module")
def done(stack, tmp_path_factory) -> tuple[nbformat.NotebookNode, Path]:
    """The notebook as it was after it had run, and the folder that it wrote to."""
    out = tmp_path_factory.mktemp("walkthrough")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STACK", str(stack.description))
        patch.setenv("OUT", str(out))
        patch.delenv("SOURCE", raising=False)
        where_jupyter_starts_it = {"metadata": {"path": str(NOTEBOOK.parent)}}
        NotebookClient(notebook, timeout=300, resources=where_jupyter_starts_it).execute()
    nbformat.write(notebook, out / NOTEBOOK.name)
    return notebook, out


@pytest.fixture
def after(done):
    """What the code cell under a heading shows, the last one where there are several."""
    cells = done[0].cells

    def look(heading: str) -> nbformat.NotebookNode:
        start = next(n for n, cell in enumerate(cells) if cell.source.startswith(f"## {heading}"))
        rest = [*cells[start + 1 :]]
        end = next((n for n, cell in enumerate(rest) if cell.cell_type == "markdown"), len(rest))
        return rest[end - 1]

    return look


def test_it_trains_a_model_and_the_endpoint_serves_it(done, after, stack):
    trained = Classifier.load(done[1] / "model").description

    (described,) = stack.client("cloudformation").describe_stacks(StackName=stack.name)["Stacks"]
    told = {one["ParameterKey"]: one["ParameterValue"] for one in described["Parameters"]}
    assert float(told["ConfidenceThreshold"]) == trained.threshold
    assert told["ClassLabels"] == ",".join(trained.labels)
    assert told["BaselineUri"]
    assert f"'ConfidenceThreshold': '{trained.threshold}'" in printed(after("Deploy"))
    assert "'label': 'bicycle'" in printed(after("Predict"))


def test_every_photo_uploaded_has_an_outcome_and_a_capture(done, after):
    held_out = json.loads((done[1] / "data" / "manifest.json").read_text())["counts"]["test"]
    sent = 2 * sum(held_out.values())

    shown = printed(after("Upload"))
    assert shown.count("accepted") + shown.count("needs_review") == sent
    assert "failed" not in shown
    assert "missing" not in shown
    assert printed(after("Read the captures")).startswith(f"{sent + 1} records in ")
    assert "0 repeats, 0 broken" in printed(after("Read the captures"))


def test_it_draws_what_was_captured_and_sees_the_dirty_lens(after):
    plots = after("Plot them")

    assert sum(PNG in output.get("data", {}) for output in plots.outputs) == 2
    assert "sharpness" in printed(plots).rpartition("drifted:")[2]


def test_it_leaves_no_photo_and_no_result(done, stack):
    versions = stack.client("s3").list_object_versions(Bucket=stack.outputs["UploadBucketName"])
    assert "Versions" not in versions
    assert stack.client("dynamodb").scan(TableName=stack.outputs["ResultsTableName"])["Items"] == []
