"""Build and run the model's container: it serves like the process here does, and it trains."""

import gc
import json
import subprocess
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.network.classifier import Classifier
from model.sagemaker import image, training_job
from pipeline import sample_images
from tests.containers import docker, missing, serving
from tests.waiting import PATIENCE

BASE = "public.ecr.aws/docker/library/python:3.13-slim"
MAX_MEMORY = 400 * 1024 * 1024

MISSING = missing(())
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"the model's container: {MISSING}")


@pytest.fixture(scope="module")
def built() -> str:
    present = subprocess.run(["docker", "image", "inspect", BASE], capture_output=True, check=False)
    if (
        present.returncode
        and subprocess.run(["docker", "pull", BASE], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"the base image {BASE} cannot be pulled")
    return image.build(image.native_platform())


PHOTOS = [
    sample_images.encoded(sample_images.picture(draw, seed))
    for draw in (sample_images.bicycle, sample_images.motorcycle)
    for seed in (1, 2)
]


def test_it_serves_the_ready_made_model_in_little_memory(built):
    with serving(built) as container:
        answers = [container.probabilities(photo) for photo in PHOTOS * 4]
        memory = container.peak_memory()
        user = container.proc("status")
    here = Classifier.load()

    for answer, photo in zip(answers, PHOTOS * 4, strict=True):
        assert answer == pytest.approx(here.classify(photo), abs=1e-5)
    assert memory < MAX_MEMORY
    assert "Uid:\t65534" in user  # nobody


def test_it_serves_a_mounted_model(built, tmp_path):
    from model.network import zero_shot  # noqa: PLC0415

    zero_shot.make(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(description | {"name": "mounted"}))
    tmp_path.chmod(0o755)

    with serving(built, "--volume", f"{tmp_path}:/opt/ml/model:ro") as container:
        assert container.probabilities(PHOTOS[0]) == pytest.approx(
            Classifier(tmp_path).classify(PHOTOS[0]), abs=1e-5
        )


@pytest.mark.parametrize("mode", [0o700, 0o744], ids=["closed folder", "folder that cannot be entered"])
def test_a_model_that_only_root_can_read_is_served_as_root(built, tmp_path, mode):
    from model.network import zero_shot  # noqa: PLC0415

    zero_shot.make(tmp_path)
    tmp_path.chmod(mode)

    with serving(built, "--volume", f"{tmp_path}:/opt/ml/model:ro") as container:
        answer = container.probabilities(PHOTOS[0])
        user = container.proc("status")
        log = subprocess.run(["docker", "logs", container.name], capture_output=True, text=True, check=True)

    assert answer == pytest.approx(Classifier(tmp_path).classify(PHOTOS[0]), abs=1e-5)
    assert "Uid:\t0" in user
    assert "Serving as root, because the user nobody cannot read the model: " in log.stderr


def test_the_built_image_has_the_manifest_format_that_sagemaker_accepts(built):
    push = docker("image", "inspect", built, "--format", "{{json .}}")

    # With a containerd image store, Docker pushes the manifest that it stores.
    stored = json.loads(push).get("Descriptor") or {"mediaType": image.MANIFEST}
    assert stored["mediaType"] == image.MANIFEST


def test_a_damaged_model_is_not_replaced_by_the_ready_made_one(built, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    tmp_path.chmod(0o755)

    done = subprocess.run(
        ["docker", "run", "--rm", "--volume", f"{tmp_path}:/opt/ml/model:ro", built, "serve"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    assert done.returncode == 1
    assert "Error: /opt/ml/model/model.json lacks" in done.stderr


TRAIN_SCRIPT = r"""#!/bin/sh
cd /opt/ml/input/data/training
[ -f fail ] && { echo "no photos of motorcycle" > /opt/ml/output/failure; exit 1; }
mkdir -p /opt/ml/output/data
cp /opt/ml/input/config/hyperparameters.json /opt/ml/output/data/metrics.json
ls > /opt/ml/model/model.json
"""


@pytest.fixture
def short_training(built, tmp_path, monkeypatch) -> Iterator[None]:
    """The container with a training script that only records its input."""
    pytest.importorskip("sagemaker", reason="needs the SageMaker SDK: make sagemaker")
    (tmp_path / "train").write_text(TRAIN_SCRIPT)
    (tmp_path / "train").chmod(0o755)
    dockerfile = f"FROM {built}\nRUN rm /usr/local/bin/train\nCOPY train /usr/local/bin/train\n"
    (tmp_path / "Dockerfile").write_text(dockerfile)
    docker("build", "--quiet", "--tag", "scones-unlimited-test", tmp_path)
    monkeypatch.setattr(image, "build", lambda platform: "scones-unlimited-test")
    yield
    docker("rmi", "--force", "scones-unlimited-test")
    with warnings.catch_warnings():
        # the SDK does not close the pipe from which it reads the container's output
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def compose_leftovers() -> str:
    containers = docker("ps", "--all", "--quiet", "--filter", "ancestor=scones-unlimited-test")
    return containers + docker("network", "ls", "--quiet", "--filter", "name=sagemaker-local")


def test_the_sdk_runs_a_job_in_the_container_here_and_leaves_only_the_model(short_training, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (data / "photo.png").touch()

    training_job.train_in_docker(data, out, {"epochs": 3})

    assert json.loads((out / "metrics.json").read_text()) == {"epochs": "3"}
    with tarfile.open(out / "model.tar.gz") as tar:
        assert tar.extractfile("model.json").read() == b"photo.png\n"
    assert compose_leftovers() == ""


def test_a_failed_training_job_reports_its_reason(short_training, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "fail").touch()

    with pytest.raises(training_job.TrainingJobError, match="training failed: no photos of motorcycle"):
        training_job.train_in_docker(data, tmp_path / "out", {})

    assert not (tmp_path / "out").exists()
    assert compose_leftovers() == ""


def test_it_stops_on_sigterm(built):
    with serving(built) as container:
        docker("stop", "--time", "10", container.name)  # after 10 s it would be killed, with exit code 137

        assert docker("inspect", container.name, "--format", "{{.State.ExitCode}}") == "0"


def test_it_trains_on_mounted_data_and_serves_the_result(built, tmp_path):
    job = tmp_path / "job"
    for folder in ("model", "output/data", "input/config"):
        (job / folder).mkdir(parents=True)
    (job / "input/config/hyperparameters.json").write_text('{"precision": "0.9"}')
    draw_data_set(tmp_path / "data")
    mounts = [f"--volume={job}:/opt/ml", f"--volume={tmp_path / 'data'}:/opt/ml/input/data/training:ro"]

    output = docker("run", "--rm", *mounts, built, "train")

    metrics = json.loads((job / "output/data/metrics.json").read_text())
    assert f"validation:accuracy={metrics['validation:accuracy']:.4f}" in output
    for name in training_job.METRICS:
        assert f"{name}=" in output
    with serving(built, f"--volume={job / 'model'}:/opt/ml/model:ro") as container:
        answers = [container.probabilities(photo) for photo in PHOTOS]
    here = Classifier(job / "model")
    for answer, photo in zip(answers, PHOTOS, strict=True):
        assert answer == pytest.approx(here.classify(photo), abs=1e-5)


def test_a_training_without_photos_writes_the_reason_for_sagemaker(built, tmp_path):
    for folder in ("job/output", "job/input/config", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "job/input/config/hyperparameters.json").write_text("{}")
    data = f"{tmp_path / 'empty'}:/opt/ml/input/data/training:ro"
    mounts = [f"--volume={tmp_path / 'job'}:/opt/ml", f"--volume={data}"]

    done = subprocess.run(
        ["docker", "run", "--rm", *mounts, built, "train"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    failure = (tmp_path / "job/output/failure").read_text()
    assert failure
    assert failure in done.stderr


def draw_data_set(folder: Path) -> None:
    """Draw pictures of CIFAR's size: enough to train on, but not to evaluate on."""
    for draw, label in ((sample_images.bicycle, "bicycle"), (sample_images.motorcycle, "motorcycle")):
        (folder / label).mkdir(parents=True)
        for seed in range(30):
            small = sample_images.picture(draw, seed).resize((32, 32))
            (folder / label / f"{seed}.png").write_bytes(sample_images.encoded(small, "PNG"))
