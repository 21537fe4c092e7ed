"""``scones train`` on a few drawn pictures, half of them sharp and half of them small."""

import hashlib
import json
import shutil
import tarfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result

from model.data import dataset
from model.data.dataset import Dataset
from model.network import artifact
from model.network.classifier import Classifier
from model.network.fusion import FusionWeights, Head
from model.photo import read_pixels
from model.training import fitting
from model.training import trainer as training
from model.training.fitting import Fit
from model.training.paths import TrainingPaths
from pipeline import sample_images
from scones import cli
from tests import photos

DRAWN = {
    "bicycle": sample_images.bicycle,
    "motorcycle": sample_images.motorcycle,
    "other": sample_images.scone,
}
EACH = 6
FILES = ["baseline.json", "labels.json", "model-card.md", "model.json", "model.onnx"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A data set as `scones data` writes it, of photos of each label."""
    folder = tmp_path_factory.mktemp("drawn")
    lines = []
    for target, (label, subject) in enumerate(DRAWN.items()):
        (folder / "train" / label).mkdir(parents=True)
        for seed in range(EACH):
            image = sample_images.picture(subject, seed)
            path = f"train/{label}/{seed}.png"
            (folder / path).write_bytes(
                sample_images.encoded(image.resize((32, 32)) if seed % 2 else image, "PNG")
            )
            lines.append(f"{len(lines)}\t{target}\t{path}\n")
    (folder / "train.lst").write_text("".join(lines))
    (folder / "manifest.json").write_text(json.dumps({"labels": list(DRAWN)}))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def train(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def trained(drawn, cache, tmp_path_factory) -> tuple[Path, Result]:
    """The output folder of a training, and its output."""
    out = tmp_path_factory.mktemp("trained") / "not" / "there"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        result = train("--data", drawn, "--out", out)
    assert result.exit_code == 0, result.output
    return out, result


@pytest.fixture
def folders(drawn, trained, tmp_path) -> Path:
    """A copy as a plain folder of a sub-folder a label, two labels of two photos, to change."""
    for label in ("bicycle", "motorcycle"):
        (tmp_path / "folders" / label).mkdir(parents=True)
        for seed in range(2):
            shutil.copy(drawn / "train" / label / f"{seed}.png", tmp_path / "folders" / label)
    return tmp_path / "folders"


def read(out: Path, name: str) -> bytes:
    with tarfile.open(out / "model.tar.gz") as tar:
        return tar.extractfile(name).read()


def forbid_embedding(monkeypatch):
    """Let the network fail if it is run."""

    class Forbidden:
        def __init__(self, *_: object, **__: object) -> None: ...

        def run(self, *_: object) -> None:
            raise AssertionError("a photo was embedded again")

    monkeypatch.setattr(onnxruntime, "InferenceSession", Forbidden)


# Output


def test_an_archive_the_metrics_and_a_baseline_are_written(trained):
    out, _ = trained

    assert sorted(path.name for path in out.iterdir()) == [
        "baseline.json",
        "metrics.json",
        "model.tar.gz",
    ]
    with tarfile.open(out / "model.tar.gz") as tar:
        assert sorted(tar.getnames()) == FILES


def test_the_model_describes_what_it_is_and_how_it_was_made(trained, drawn):
    out, _ = trained

    says = json.loads(read(out, "model.json"))

    assert says["labels"] == json.loads(read(out, "labels.json")) == list(DRAWN)
    assert 0 < says["threshold"] <= 1
    assert "at least 99.0%" in says["threshold_reason"]
    assert f"6-fold cross-validation on {3 * EACH} training photos" in says["threshold_reason"]
    assert set(says["calibration"]) == {field.name for field in fields(FusionWeights)}
    manifest = hashlib.sha256((drawn / "manifest.json").read_bytes()).hexdigest()
    assert says["made"]["manifest_sha256"] == manifest
    assert says["version"] == manifest[:12]
    assert says["made"]["photos"] == "bicycle 6, motorcycle 6, other 6"
    assert says["graph_sha256"] == hashlib.sha256(read(out, "model.onnx")).hexdigest()


def test_the_card_names_threshold_and_hashes(trained):
    out, _ = trained

    card, says = read(out, "model-card.md").decode(), json.loads(read(out, "model.json"))

    assert f"confidence of at least {says['threshold']}:" in card
    assert says["made"]["manifest_sha256"] in card
    assert says["made"]["weights_sha256"] in card


def test_metrics_are_the_same_in_the_model_in_the_file_and_in_the_output(trained):
    out, result = trained

    metrics, says = json.loads((out / "metrics.json").read_text()), json.loads(read(out, "model.json"))

    assert metrics == {"threshold": says["threshold"], "photos": 3 * EACH, **says["metrics"]}
    assert metrics["validation:precision"] >= 0.99
    assert 0 < metrics["validation:coverage"] <= 2 / 3
    for name, value in says["metrics"].items():
        assert f"{name}={value:.4f}" in result.output.splitlines()


def test_the_served_model_classifies_the_drawings_correctly(trained, drawn):
    out, _ = trained
    classifier = Classifier.load(out)

    for label, subject in DRAWN.items():
        answer = classifier.classify(sample_images.encoded(sample_images.picture(subject, seed=EACH)))
        assert classifier.description.labels[int(np.argmax(answer))] == label
        assert sum(answer) == pytest.approx(1, abs=1e-5)


def test_the_served_model_answers_like_the_fitted_head(trained, drawn):
    """The whole graph from pixels agrees with the cached embeddings and the head in numpy."""
    out, _ = trained
    shown = training.sample(dataset.read(drawn), most=EACH)
    embeddings = training.embed_photos(shown)
    head = fitting.fit(embeddings, shown.targets, shown.labels).head
    pixels = np.stack([read_pixels(path.read_bytes(), 224) for path in shown.paths[:4]])

    served = Classifier.load(out).probabilities(pixels)

    assert np.abs(served - head.predict_proba(embeddings)[:4]).max() < 1e-3


def test_predict_uses_the_model(trained, drawn):
    out, _ = trained

    result = CliRunner().invoke(cli, ["predict", "--model", str(out), str(drawn / "train/bicycle/0.png")])

    assert result.exit_code == 0
    assert json.loads(result.stdout)["label"] == "bicycle"


def test_photos_of_a_large_label_are_sampled_evenly():
    paths = tuple(Path(f"{k}.png") for k in range(13))
    data = Dataset(("bicycle", "van"), paths, np.array([0, 1] * 3 + [0] * 7), None)

    chosen = training.sample(data, most=4)

    assert [path.name for path in chosen.paths] == [
        *("0.png", "6.png", "9.png", "12.png"),
        *("1.png", "3.png", "5.png"),
    ]
    assert chosen.targets.tolist() == [0] * 4 + [1] * 3


# Evaluation on held-out predictions

HELD_OUT = [
    ("bicycle", [0.95, 0.03, 0.02]),
    ("motorcycle", [0.10, 0.90, 0.00]),
    ("motorcycle", [0.80, 0.15, 0.05]),
    ("bicycle", [0.70, 0.10, 0.20]),
    ("bicycle", [0.01, 0.00, 0.99]),
    ("other", [0.02, 0.00, 0.98]),
]


def evaluated(precision: float, held_out: list[tuple[str, list[float]]] = HELD_OUT) -> training.Result:
    """The evaluation of photos whose labels have the numbers 0, 1 (other) and 2."""
    labels = ("bicycle", "other", "motorcycle")
    targets = np.array([labels.index(label) for label, _ in held_out])
    head = Head(("bicycle", "motorcycle", "other"), labels, classifier=None, detector=None, weights=None)
    fit = Fit(head, np.array([answer for _, answer in held_out]), penalty=3, folds=2)
    shown = Dataset(labels, (Path(),) * len(held_out), targets, None)
    return training.evaluate("scones", shown, fit, precision)


@pytest.mark.parametrize(
    ("precision", "threshold", "right", "accepted"), [(1, 0.9, 2, 2), (0.75, 0.7, 3, 4), (0.7, 0.7, 3, 4)]
)
def test_the_threshold_is_chosen_among_predictions_of_a_vehicle(precision, threshold, right, accepted):
    result = evaluated(precision)

    assert result.threshold.value == threshold
    assert result.metrics["validation:precision"] == right / accepted
    assert result.metrics["validation:coverage"] == accepted / 6
    assert f"{right} of {accepted} in 2-fold cross-validation on 6 training photos" in result.threshold_reason


def test_an_unreachable_precision_is_reported():
    surest_is_wrong = [("motorcycle", HELD_OUT[0][1]), *HELD_OUT[1:]]

    result = evaluated(0.9, surest_is_wrong)

    assert (result.threshold.value, result.threshold.meets_target) == (0.95, False)
    assert "no threshold reaches that precision" in result.threshold_reason


def test_accuracy_loss_and_calibration_cover_all_predictions():
    metrics = evaluated(0.9).metrics

    true = [0.95, 0.90, 0.15, 0.70, 0.01, 0.98]
    sure, right = [0.95, 0.90, 0.80, 0.70, 0.99, 0.98], [1, 1, 0, 1, 0, 1]
    assert metrics["validation:accuracy"] == pytest.approx(4 / 6)
    assert metrics["validation:loss"] == pytest.approx(-np.log(true).mean(), rel=1e-6)
    # .95, .99 and .98 share a bin, as do no others of the fifteen
    bins = [[0, 4, 5], [1], [2], [3]]
    gaps = [abs(sum(sure[k] - right[k] for k in each)) / 6 for each in bins]
    assert metrics["validation:ece"] == pytest.approx(sum(gaps))


# A second training


def test_the_same_photos_make_the_same_bytes_and_are_not_embedded_again(
    trained, drawn, tmp_path, monkeypatch
):
    forbid_embedding(monkeypatch)

    again = train("--data", drawn, "--out", tmp_path)

    assert again.exit_code == 0, again.output
    for name in ("model.tar.gz", "metrics.json", "baseline.json"):
        assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes()


def test_a_damaged_cache_entry_is_ignored(trained, folders, cache, tmp_path):
    (embeddings,) = (cache / "scones-unlimited").glob("embeddings-*")
    key = hashlib.sha256((folders / "bicycle/0.png").read_bytes()).hexdigest()
    whole = (embeddings / key).read_bytes()
    (embeddings / key).write_bytes(whole[: len(whole) // 2])

    result = train("--data", folders, "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    assert np.allclose(
        *(np.frombuffer(one, np.float32) for one in (whole, (embeddings / key).read_bytes())), atol=1e-4
    )


def test_a_cache_that_cannot_be_written_is_ignored(folders, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the place of the folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    result = train("--data", folders, "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model.tar.gz").exists()


def test_the_model_has_the_label_other_even_without_photos_of_it(folders, tmp_path):
    result = train("--data", folders, "--out", tmp_path / "out", "--name", "couriers", "--precision", "0.5")

    assert result.exit_code == 0, result.output
    says = Classifier.load(tmp_path / "out").description
    assert says.labels == ("bicycle", "motorcycle", "other")
    assert (says.name, says.made["manifest_sha256"]) == ("couriers", "a plain folder")
    assert says.version == says.graph_sha256[:12]
    assert "at least 50.0%" in says.threshold_reason


# What can go wrong


def failed(result: Result, out: Path) -> str:
    """The one line of a failure that left nothing behind."""
    assert result.exit_code == 1, result.output
    assert not (out.exists() and list(out.iterdir()))
    (line,) = result.output.splitlines()
    return line


def test_no_such_folder(tmp_path):
    assert f"No such folder: {tmp_path / 'nowhere'}" in failed(
        train("--data", tmp_path / "nowhere", "--out", tmp_path / "out"), tmp_path / "out"
    )


def test_a_label_with_one_photo(folders, tmp_path):
    (folders / "bicycle/0.png").unlink()

    line = failed(train("--data", folders, "--out", tmp_path / "out"), tmp_path / "out")

    assert "at least two training photos" in line
    assert "bicycle (1)" in line


def test_one_label_alone(folders, tmp_path):
    shutil.rmtree(folders / "motorcycle")

    assert "The only label is bicycle" in failed(
        train("--data", folders, "--out", tmp_path / "out"), tmp_path / "out"
    )


def test_a_file_that_is_not_a_photo(folders, tmp_path):
    (folders / "bicycle/2.jpg").write_bytes(photos.text_called_jpg())

    line = failed(train("--data", folders, "--out", tmp_path / "out"), tmp_path / "out")

    assert "bicycle/2.jpg cannot be read as a photo: it is not a JPEG" in line


def test_labels_without_information(folders, tmp_path, monkeypatch):
    """If no held-out photo is classified as a vehicle, there is no prediction to choose a threshold on."""
    whole = fitting.fit

    def unsure(*arguments):
        made = whole(*arguments)
        made.held_out[:] = [0.1, 0.1, 0.8]
        return made

    monkeypatch.setattr(fitting, "fit", unsure)

    line = failed(train("--data", folders, "--out", tmp_path / "out"), tmp_path / "out")

    assert "Check the labels." in line


def test_a_folder_that_cannot_be_made(folders, tmp_path):
    (tmp_path / "file").write_text("")

    result = train("--data", folders, "--out", tmp_path / "file" / "out")

    assert result.exit_code == 1
    assert "file/out cannot be written: Not a directory" in result.output
    assert len(result.output.splitlines()) == 1


def test_a_full_disk(folders, tmp_path, monkeypatch):
    """The system's error names no file; the message does."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)

    line = failed(train("--data", folders, "--out", tmp_path / "out"), tmp_path / "out")

    assert f"{tmp_path / 'out'} cannot be written: No space left on device" in line


@pytest.mark.parametrize(
    "arguments",
    [[], ["--data", "."], ["--out", "trained"], ["--data", ".", "--out", "trained", "--precision", "0.2"]],
)
def test_a_usage_error_is_exit_code_2(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert train(*arguments).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_a_usage_error(folders, tmp_path):
    (tmp_path / "file").write_text("mine")

    assert train("--data", folders, "--out", tmp_path / "file").exit_code == 2
    assert (tmp_path / "file").read_text() == "mine"


# In a SageMaker training job


@pytest.fixture
def job(folders, tmp_path, monkeypatch) -> Path:
    """A training job's folders, the photos in the channel."""
    for variable in ("SM_CHANNEL_TRAINING", "SM_MODEL_DIR", "SM_OUTPUT_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    ml = tmp_path / "ml"
    for folder in ("input/config", "input/data", "model", "output/data"):
        (ml / folder).mkdir(parents=True)
    folders.rename(ml / "input/data/training")
    (ml / "input/config/hyperparameters.json").write_text("{}")
    monkeypatch.setattr("model.training.paths.JOB_INPUT", ml / "input/data/training")
    monkeypatch.setattr("model.training.paths.JOB_MODEL", ml / "model")
    monkeypatch.setattr("model.training.paths.JOB_OUTPUT", ml / "output/data")
    for module in ("model.training.paths", "model.commands.train"):
        monkeypatch.setattr(f"{module}.HYPERPARAMETERS", ml / "input/config/hyperparameters.json")
    monkeypatch.setattr("model.training.paths.FAILURE", ml / "output/failure")
    return ml


def give(job: Path, **hyperparameters: str) -> None:
    (job / "input/config/hyperparameters.json").write_text(json.dumps(hyperparameters))


def test_a_job_uses_its_folders_and_leaves_the_packing_to_sagemaker(job):
    give(job, name="from-the-job", precision="0.75")

    result = train()

    assert result.exit_code == 0, result.output
    says = artifact.check(job / "model")
    assert sorted(path.name for path in (job / "model").iterdir()) == FILES
    assert sorted(path.name for path in (job / "output/data").iterdir()) == ["baseline.json", "metrics.json"]
    assert not (job / "output/failure").exists()
    assert says.name == "from-the-job"
    assert "at least 75.0%" in says.threshold_reason


def test_a_given_option_overrides_a_hyperparameter(job):
    give(job, name="from-the-job", precision="0.75")

    result = train("--name", "given", "--precision", "0.5")

    assert result.exit_code == 0, result.output
    says = artifact.check(job / "model")
    assert says.name == "given"
    assert "at least 50.0%" in says.threshold_reason


def test_a_failed_job_writes_the_reason(job):
    (job / "input/data/training/bicycle/2.jpg").write_bytes(b"")

    result = train()

    assert result.exit_code == 1
    reason = (job / "output/failure").read_text()
    assert reason.endswith("bicycle/2.jpg cannot be read as a photo: it is empty")
    assert reason in result.output
    assert list((job / "model").iterdir()) == []


@pytest.mark.parametrize("precision", ["2", "high"])
def test_an_invalid_hyperparameter_writes_the_reason(job, precision):
    give(job, precision=precision)

    result = train()

    assert result.exit_code == 2
    assert "precision" in (job / "output/failure").read_text()
    assert list((job / "model").iterdir()) == []


def test_hyperparameters_that_are_not_json_write_the_reason(job):
    (job / "input/config/hyperparameters.json").write_text("{")

    result = train()

    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1
    assert (job / "output/failure").read_text()


def test_sagemakers_environment_variables_override_the_folders(job, monkeypatch):
    for variable in ("SM_CHANNEL_TRAINING", "SM_MODEL_DIR", "SM_OUTPUT_DATA_DIR"):
        monkeypatch.setenv(variable, f"/elsewhere/{variable}")

    assert TrainingPaths.resolve(None, None) == TrainingPaths(
        Path("/elsewhere/SM_CHANNEL_TRAINING"),
        Path("/elsewhere/SM_MODEL_DIR"),
        Path("/elsewhere/SM_OUTPUT_DATA_DIR"),
        packed_later=True,
    )
    # a given folder is packed at once
    assert TrainingPaths.resolve(None, Path("out")) == TrainingPaths(
        Path("/elsewhere/SM_CHANNEL_TRAINING"), Path("out"), Path("out"), packed_later=False
    )
