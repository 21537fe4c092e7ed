"""The notebook for readers of the student project, run from top to bottom on a local stack."""

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
from tests.waiting import PATIENCE

NOTEBOOK = ROOT / "model" / "walkthrough.ipynb"
PNG = "image/png"


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[Stack]:
    """A stack of its own, because the notebook changes the model that the endpoint serves."""
    stack = Stack(home=tmp_path_factory.mktemp("stack"), ports=Ports(free_port(), free_port()))
    with stack.running(progress=print):
        yield stack


def printed(cell: nbformat.NotebookNode) -> str:
    """The text output of a cell."""
    outputs = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in cell.outputs]
    return "".join(outputs)


@pytest.fixture(scope="module")
def done(stack, tmp_path_factory) -> tuple[nbformat.NotebookNode, Path]:
    """The notebook after a run, and the folder that it wrote to."""
    out = tmp_path_factory.mktemp("walkthrough")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STACK", str(stack.description))
        patch.setenv("OUT", str(out))
        patch.delenv("SOURCE", raising=False)
        where_jupyter_starts_it = {"metadata": {"path": str(NOTEBOOK.parent)}}
        NotebookClient(notebook, timeout=PATIENCE, resources=where_jupyter_starts_it).execute()
    nbformat.write(notebook, out / NOTEBOOK.name)
    return notebook, out


@pytest.fixture
def after(done):
    """Return the last code cell under a heading."""
    cells = done[0].cells

    def look(heading: str) -> nbformat.NotebookNode:
        start = next(n for n, cell in enumerate(cells) if cell.source.startswith(f"## {heading}"))
        rest = [*cells[start + 1 :]]
        end = next((n for n, cell in enumerate(rest) if cell.cell_type == "markdown"), len(rest))
        return rest[end - 1]

    return look


def test_the_trained_model_is_deployed(done, after, stack):
    trained = Classifier.load(done[1] / "model").description

    (described,) = stack.client("cloudformation").describe_stacks(StackName=stack.name)["Stacks"]
    parameters = {one["ParameterKey"]: one["ParameterValue"] for one in described["Parameters"]}
    assert float(parameters["ConfidenceThreshold"]) == trained.threshold
    assert parameters["ClassLabels"] == ",".join(trained.labels)
    assert parameters["BaselineUri"]
    assert f"'ConfidenceThreshold': '{trained.threshold}'" in printed(after("Deploy"))
    assert '"label": "bicycle"' in printed(after("Predict"))


def test_every_uploaded_photo_has_an_outcome_and_a_capture(done, after):
    held_out = json.loads((done[1] / "data" / "manifest.json").read_text())["counts"]["test"]
    sent = 2 * sum(held_out.values())

    shown = printed(after("Upload"))
    assert shown.count("accepted") + shown.count("needs_review") == sent
    assert "failed" not in shown
    assert "missing" not in shown
    assert printed(after("Read the captures")).startswith(f"{sent + 1} records in ")
    assert "0 repeats, 0 broken" in printed(after("Read the captures"))


def test_the_plots_show_the_drift_by_the_dirty_lens(after):
    plots = after("Plot them")

    assert sum(PNG in output.get("data", {}) for output in plots.outputs) == 2
    assert "sharpness" in printed(plots).rpartition("drifted:")[2]


def test_the_photos_and_their_results_are_deleted(done, stack):
    versions = stack.client("s3").list_object_versions(Bucket=stack.outputs["UploadBucketName"])
    assert "Versions" not in versions
    assert stack.client("dynamodb").scan(TableName=stack.outputs["ResultsTableName"])["Items"] == []
