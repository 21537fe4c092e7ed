"""Train on SageMaker, or in its container on this machine, with the SageMaker SDK's ModelTrainer.

The SDK (``sagemaker``, an extra) takes 5 s to import, so `sdk` imports it when it is needed. It serves for
training and for the built-in algorithm's image addresses only; see `model.sagemaker.endpoint`.
"""

import hashlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from model.data import dataset
from model.network.artifact import ARCHIVE
from model.sagemaker import image
from model.sagemaker.account import (
    PROJECT,
    Account,
    explain,
    ignore_missing,
    tag_values,
    tags,
    translate_aws_errors,
)
from model.sagemaker.registry import METRICS_FILE, SEPARATOR, Candidate
from model.storage import Storage, write_files

CHANNEL = "training"
OUTPUT_ARCHIVE = "output.tar.gz"
COMPOSE_FILE = "docker-compose.yaml"
"""The file that the SDK writes for local training."""
BUILT_IN = "image-classification"
"""The built-in algorithm, and its repository in ECR."""
NUM_LAYERS = 20
"""Of the network depths for small images (20, 32, 44, 56, 110), the one that 1000 photos suffice for.
https://docs.aws.amazon.com/sagemaker/latest/dg/IC-Hyperparameter.html"""
IMAGE_SIDE = 32
"""Pixels of CIFAR's photos, and the input size of the built-in algorithm."""
METRICS = (
    "validation:accuracy",
    "validation:loss",
    "validation:ece",
    "validation:precision",
    "validation:coverage",
)
"""The metrics that SageMaker extracts from lines ``name=value`` in the log of `scones train`."""


class TrainingJobError(Exception):
    """A training job could not be started, or failed; the message says why and what to do."""


@dataclass(frozen=True)
class Job:
    """How to train on SageMaker.

    `algorithm` is ``"ours"`` or ``"built-in"``, which needs a GPU. `spot` uses spare capacity, which is
    cheaper, may not be available at once, and can be withdrawn. `hours` is the time limit. Without a
    `kms_key`, AWS's own keys encrypt the volume and the model.
    """

    stage: str = "dev"
    algorithm: str = "ours"
    instance_type: str | None = None
    spot: bool = False
    hours: float = 2
    kms_key: str | None = None

    @property
    def built_in(self) -> bool:
        """Whether to use SageMaker's built-in algorithm."""
        return self.algorithm == "built-in"

    @property
    def instance(self) -> str:
        """The instance type, by default one that suits the algorithm."""
        return self.instance_type or ("ml.g4dn.xlarge" if self.built_in else "ml.m5.xlarge")


@dataclass(frozen=True)
class CompletedJob:
    """A completed training job: its image, its model and its other files in S3, and its final metrics."""

    name: str
    image: str
    model_url: str
    output_url: str
    labels: tuple[str, ...]
    metrics: Mapping[str, float]
    billed_seconds: int

    @property
    def built_in(self) -> bool:
        """Whether it trained SageMaker's built-in algorithm."""
        return f"/{BUILT_IN}:" in self.image


def train_in_docker(data: Path, out: Path, hyperparameters: Mapping[str, object]) -> None:
    """Train on this machine, in the container that SageMaker would use.

    `data` is a folder from ``scones data``, `out` the folder for ``model.tar.gz`` and ``metrics.json``, and
    `hyperparameters` are the options of ``scones train``.
    """
    with sdk() as (train, _):
        container = image.build(image.native_platform())
        # Files that the container wrote belong to root, so this process may not be able to delete them.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
            trainer = train.ModelTrainer(
                training_mode=train.model_trainer.Mode.LOCAL_CONTAINER,
                training_image=container,
                base_job_name=PROJECT,
                compute=train.configs.Compute(instance_type="local_cpu", instance_count=1),
                local_container_root=root,
                hyperparameters=dict(hyperparameters),
            )
            channel = train.configs.InputData(channel_name=CHANNEL, data_source=str(data.resolve()))
            try:
                trainer.train(input_data_config=[channel], wait=True)
            except (RuntimeError, OSError, ValueError, ImportError) as error:
                raise TrainingJobError(f"training failed: {_failure_reason(Path(root), error)}") from error
            finally:
                _remove_containers(Path(root, COMPOSE_FILE))
            artifacts = Path(root, "compressed_artifacts")
            _write(out, (artifacts / ARCHIVE).read_bytes(), (artifacts / OUTPUT_ARCHIVE).read_bytes())


def _failure_reason(root: Path, error: Exception) -> str:
    """Return the reason that the training program wrote down, or the SDK's."""
    failure = root / "artifacts" / "output" / "failure"
    return failure.read_text().strip() if failure.is_file() else f"{error} (docker-compose is required)"


def _remove_containers(compose_file: Path) -> None:
    """Delete the container and the network that the SDK leaves behind."""
    compose = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    if compose_file.is_file() and shutil.which(compose[0]):
        down = [*compose, "--file", str(compose_file), "down"]
        subprocess.run(down, capture_output=True, check=False)  # noqa: S603


def train_on_sagemaker(
    account: Account, job: Job, data: str, out: Path, hyperparameters: Mapping[str, object]
) -> CompletedJob:
    """Run a training job, show its log, and download its model.

    `data` is a data set in S3, or a folder, which is staged in the workspace bucket first. `hyperparameters`
    are the options of ``scones train``; the built-in algorithm has its own, and writes no ``metrics.json``.
    Raises `TrainingJobError` if the SDK is missing or the job failed, `ImageError` if ECR lacks the image.
    """
    with sdk() as (train, core), translate_aws_errors():
        url, manifest = _locate_data(account, data)
        if not data.startswith("s3://"):
            from model.data import staging  # noqa: PLC0415

            staging.stage(Path(data), url)
        container = (
            core.image_uris.retrieve(BUILT_IN, account.region)
            if job.built_in
            else image.uri(account, "linux/amd64")
        )
        image.require_pushed(account, container)
        bucket = account.workspace.bucket
        job_tags = tag_values(tags(job.stage, labels=SEPARATOR.join(manifest["labels"])))
        trainer = train.ModelTrainer(
            sagemaker_session=core.helper.session_helper.Session(account.session, default_bucket=bucket),
            role=account.workspace.role,
            base_job_name=f"{PROJECT}-{job.stage}",
            training_image=container,
            compute=train.configs.Compute(
                instance_type=job.instance,
                instance_count=1,
                volume_size_in_gb=30,
                enable_managed_spot_training=job.spot or None,
                volume_kms_key_id=job.kms_key,
            ),
            stopping_condition=train.configs.StoppingCondition(
                max_runtime_in_seconds=round(job.hours * 3600),
                # The wait for spot capacity counts too; allow as long again for it.
                max_wait_time_in_seconds=round(job.hours * 7200) if job.spot else None,
            ),
            output_data_config=train.configs.OutputDataConfig(
                s3_output_path=f"s3://{bucket}/training", kms_key_id=job.kms_key
            ),
            hyperparameters=built_in_hyperparameters(manifest) if job.built_in else dict(hyperparameters),
            tags=[train.configs.Tag(key=key, value=value) for key, value in job_tags.items()],
        )
        if not job.built_in:
            trainer = trainer.with_metric_definitions(
                [train.configs.MetricDefinition(name=name, regex=f"{name}=([0-9.eE+-]+)") for name in METRICS]
            )
        trainer.train(input_data_config=_channels(train, url, built_in=job.built_in), wait=False, logs=False)
        started = trainer._latest_training_job  # noqa: SLF001  AWS's examples use it too
        name = started.training_job_name
        try:
            # `find` reports the reason of a failed job.
            with suppress(core.utils.exceptions.FailedStatusError):
                started.wait(logs=True)
        except KeyboardInterrupt:
            raise TrainingJobError(
                f"{name} is still running. Stop it with: "
                f"aws sagemaker stop-training-job --training-job-name {name}"
            ) from None
        completed = find(account, name)
        files = Storage(account.s3)
        output = None if completed.built_in else files.read(completed.output_url)
        _write(out, files.read(completed.model_url), output)
    return completed


@contextmanager
def sdk() -> Iterator[tuple[Any, Any]]:
    """Import the SageMaker SDK, and yield its modules ``train`` and ``core``; raise its errors as ours."""
    os.environ.setdefault("SAGEMAKER_USER_CONFIG_OVERRIDE", str(Path(__file__).with_name("sagemaker.yaml")))
    # Validating the role needs IAM permissions that a deployer may not have.
    os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")
    # stdout is for results, and warnings about the SDK's own code help nobody here.
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # These imports take 5 s.
            import sagemaker.core.helper.session_helper  # noqa: PLC0415
            import sagemaker.core.image_uris  # noqa: PLC0415
            import sagemaker.train.configs  # noqa: PLC0415
            import sagemaker.train.model_trainer  # noqa: PLC0415
            from sagemaker.core.utils.exceptions import SageMakerCoreError  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise TrainingJobError(
                "this needs the SageMaker SDK (1 GB). Install it with: make sagemaker, or "
                "uv sync --extra sagemaker"
            ) from error
        try:
            yield sagemaker.train, sagemaker.core
        except SageMakerCoreError as error:
            raise TrainingJobError(f"the SageMaker SDK failed: {error}") from error
        except (BotoCoreError, ClientError) as error:
            raise TrainingJobError(explain(error)) from error


def plan(account: Account, job: Job, data: str) -> dict[str, Any]:
    """Describe what `train_on_sagemaker` would start, after checking what can be checked without it."""
    with translate_aws_errors():
        url, manifest = _locate_data(account, data)
        container = f"SageMaker's {BUILT_IN}" if job.built_in else image.uri(account, "linux/amd64")
        if not job.built_in:
            image.require_pushed(account, container)
    return {
        "image": container,
        "data": url,
        "photos": len(manifest["sha256"]),
        "labels": manifest["labels"],
        "instance_type": job.instance,
        "spot": job.spot,
        "hours": job.hours,
        "account": account.id,
        "region": account.region,
    }


def _locate_data(account: Account, data: str) -> tuple[str, dict[str, Any]]:
    """Return the address in S3 of a data set, or of a folder once it is staged, and its manifest."""
    if not data.startswith("s3://"):
        folder = Path(data)
        dataset.read(folder)
        if not (folder / dataset.MANIFEST).exists():
            raise TrainingJobError(
                f"{data} was not written by `scones data`. Convert it with: scones data --source {data}"
            )
        content = (folder / dataset.MANIFEST).read_bytes()
        # The address contains the hash, so that later changes to the folder do not affect a running job.
        url = f"s3://{account.workspace.bucket}/data/{hashlib.sha256(content).hexdigest()[:16]}"
        return url, json.loads(content)
    url = data.rstrip("/")
    try:
        return url, json.loads(Storage(account.s3).read(f"{url}/{dataset.MANIFEST}"))
    except FileNotFoundError as error:
        raise TrainingJobError(
            f"{data} has no {dataset.MANIFEST}. Stage a data set with: scones data --to {data}"
        ) from error


def _channels(train: Any, url: str, *, built_in: bool) -> list[Any]:  # noqa: ANN401  the SDK's modules
    if not built_in:
        return [train.configs.InputData(channel_name=CHANNEL, data_source=url)]
    sources = {
        # Paths in the lists are relative to the channel's address.
        "train": f"{url}/",
        "validation": f"{url}/",
        "train_lst": f"{url}/{dataset.index_name('train')}",
        "validation_lst": f"{url}/{dataset.index_name('test')}",
    }
    return [
        train.configs.InputData(channel_name=name, data_source=source, content_type="application/x-image")
        for name, source in sources.items()
    ]


def built_in_hyperparameters(manifest: Mapping[str, Any]) -> dict[str, object]:
    """Return the hyperparameters that AWS recommends for small images.

    The baseline design used 152 layers, which are meant for images of 224 pixels.
    https://docs.aws.amazon.com/sagemaker/latest/dg/IC-Hyperparameter.html
    """
    samples = sum(manifest["counts"]["train"].values())
    return {
        "num_layers": NUM_LAYERS,
        "image_shape": f"3,{IMAGE_SIDE},{IMAGE_SIDE}",
        "num_classes": len(manifest["labels"]),
        "num_training_samples": samples,
        "mini_batch_size": min(32, samples),
        "epochs": 30,
        "learning_rate": 0.1,
        "lr_scheduler_step": "15,25",
        "augmentation_type": "crop",
        "use_pretrained_model": 0,
    }


def find(account: Account, name: str) -> CompletedJob:
    """Look up a training job; a `TrainingJobError` if it does not exist or has not completed."""
    job = ignore_missing(lambda: account.sagemaker.describe_training_job(TrainingJobName=name))
    if job is None:
        raise TrainingJobError(f"No such training job in {account.region}: {name}")
    if job["TrainingJobStatus"] != "Completed":
        reason = job.get("FailureReason") or job["SecondaryStatus"]
        raise TrainingJobError(f"training job {name} is {job['TrainingJobStatus']}: {reason}")
    job_tags = tag_values(account.sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"])
    labels = job_tags.get("labels", "")
    model_url = job["ModelArtifacts"]["S3ModelArtifacts"]
    return CompletedJob(
        name=name,
        image=job["AlgorithmSpecification"]["TrainingImage"],
        model_url=model_url,
        output_url=f"{model_url.rpartition('/')[0]}/{OUTPUT_ARCHIVE}",
        labels=tuple(labels.split(SEPARATOR)) if labels else (),
        metrics={metric["MetricName"]: metric["Value"] for metric in job.get("FinalMetricDataList", [])},
        billed_seconds=job.get("BillableTimeInSeconds", 0),
    )


def built_in_candidate(job: CompletedJob) -> Candidate:
    """Describe a model of the built-in algorithm, which has no threshold of its own."""
    return Candidate(
        name=f"{BUILT_IN} {job.name}",
        labels=job.labels,
        threshold=math.nan,
        input_size=IMAGE_SIDE,
        sha256=job.name,
        url=job.model_url,
    )


def _write(out: Path, model: bytes, output: bytes | None) -> None:
    """Write a job's model, and the metrics from its output archive, into a folder."""
    files = {ARCHIVE: model}
    if output is not None:
        with tarfile.open(fileobj=io.BytesIO(output)) as tar:
            for member in tar.getmembers():
                if Path(member.name).name == METRICS_FILE and (metrics := tar.extractfile(member)):
                    files[METRICS_FILE] = metrics.read()
    write_files(out, files)
