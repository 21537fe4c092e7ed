import io
import json
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.network import artifact
from model.network.artifact import ArtifactError
from model.network.classifier import Classifier


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def empty_user_cache(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(scope="module")
def zero_shot(cache) -> Path:
    """The folder of the zero-shot model, in a separate cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        Classifier.load()
    (folder,) = (cache / "scones-unlimited").iterdir()
    return folder


@pytest.fixture
def model(zero_shot, tmp_path) -> Path:
    """A copy of the model to modify."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in zero_shot.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def photo() -> bytes:
    stream = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def pack(model: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        for file in model.iterdir():
            tar.add(file, file.name)
    return archive


def test_the_zero_shot_model_describes_itself(zero_shot):
    description = Classifier.load().description

    assert description.labels == ("bicycle", "motorcycle", "other")
    assert (description.name, description.threshold, description.input_size) == ("zero-shot", 0.8, 224)
    assert "not calibrated" in description.threshold_reason


def test_an_answer_is_a_probability_for_each_label(zero_shot):
    answer = Classifier.load().classify(photo())

    assert len(answer) == 3
    assert all(type(probability) is float and 0 <= probability <= 1 for probability in answer)
    assert sum(answer) == pytest.approx(1, abs=1e-6)


def test_a_photo_has_the_same_probabilities_in_a_batch(zero_shot):
    classifier = Classifier.load()
    pixels = np.random.default_rng(5).integers(0, 256, (3, 224, 224, 3), np.uint8)

    together = classifier.probabilities(pixels)

    assert (together.shape, together.dtype) == ((3, 3), np.float32)
    assert np.allclose(classifier.probabilities(pixels[2:]), together[2:], atol=1e-4)


def test_it_is_built_once(zero_shot):
    made_at = (zero_shot / "model.onnx").stat().st_mtime_ns

    Classifier.load()

    assert (zero_shot / "model.onnx").stat().st_mtime_ns == made_at
    assert sorted(file.name for file in zero_shot.iterdir()) == [
        "labels.json",
        "model-card.md",
        "model.json",
        "model.onnx",
    ]


def test_features_differ_by_photo_and_not_by_batch(zero_shot):
    classifier = Classifier.load()
    pixels = np.random.default_rng(5).integers(0, 256, (3, 224, 224, 3), np.uint8)

    together = classifier.features(pixels)

    assert (together.shape, together.dtype) == ((3, 1280), np.float32)
    assert np.allclose(classifier.features(pixels[2:]), together[2:], atol=1e-4)
    assert not np.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize("damaged", ["model.onnx", "model.json"])
@pytest.mark.parametrize("content", [b"", b"{}", None], ids=["empty", "nonsense", "gone"])
def test_a_damaged_cache_is_rebuilt(zero_shot, damaged, content):
    before = (zero_shot / damaged).read_bytes()
    if content is None:
        (zero_shot / damaged).unlink()
    else:
        (zero_shot / damaged).write_bytes(content)

    Classifier.load()

    assert (zero_shot / damaged).read_bytes() == before


def load_and_answer(_: int) -> list[float]:
    return Classifier.load().classify(photo())


def test_two_processes_can_build_it_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        first, second = processes.map(load_and_answer, range(2))

    assert first == pytest.approx(second, abs=1e-6)


def test_an_unwritable_cache_is_named_with_the_remedy(monkeypatch, tmp_path):
    (tmp_path / "scones-unlimited").write_text("a file in the place of the folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(ArtifactError, match=r"scones-unlimited.*XDG_CACHE_HOME"):
        Classifier.load()


def test_a_folder_an_archive_and_a_folder_with_an_archive_all_load(model, tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    archive = pack(model, job / "model.tar.gz")

    answers = [Classifier.load(path).classify(photo()) for path in (model, archive, job)]

    assert answers[0] == answers[1] == answers[2]


def test_an_archive_that_reaches_outside_is_refused(model, tmp_path):
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(model / "model.json", "../escaped.json")

    with pytest.raises(ArtifactError, match="outside"):
        Classifier.load(archive)


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_file_that_is_not_an_archive_is_refused(tmp_path, content):
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(content)

    with pytest.raises(ArtifactError, match="cannot be unpacked"):
        Classifier.load(archive)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="is not a model"):
        Classifier.load(tmp_path)


def test_a_graph_that_does_not_match_its_description_is_refused(model):
    (model / "model.onnx").write_bytes(b"another graph")

    with pytest.raises(ArtifactError, match="sha256"):
        Classifier.load(model)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": None}, "damaged"),
        ({"labels": ["bicycle"]}, "two labels"),
        ({"labels": ["bicycle", "other"]}, "2 probabilities"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": "high"}, "damaged"),
        ({"input_size": 96}, "96 x 96"),
    ],
)
def test_an_invalid_description_is_refused(model, change, reason):
    path = model / artifact.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(ArtifactError, match=reason):
        Classifier.load(model)


def test_a_description_that_lacks_a_field_is_refused(model):
    path = model / artifact.DESCRIPTION
    values = json.loads(path.read_text())
    del values["threshold"]
    path.write_text(json.dumps(values))

    with pytest.raises(ArtifactError, match="lacks 'threshold'"):
        Classifier.load(model)
