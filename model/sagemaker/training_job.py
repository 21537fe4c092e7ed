"""Training on SageMaker, or in its container on this machine, by the SageMaker SDK's ModelTrainer.

The SDK (``sagemaker``, an extra) is imported when it is needed: it takes 5 s. It is used for training and
for the built-in algorithm's addresses alone; see `model.sagemaker.endpoint`.
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
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from model import storage
from model.data import dataset
from model.network.artifact import ARCHIVE
from model.sagemaker import image, registry
from model.sagemaker.account import (
    PROJECT,
    Account,
    explain,
    is_gone,
    tag_values,
    tags,
    translate_aws_errors,
)

CHANNEL = "training"
METRICS_FILE = "metrics.json"
COMPOSE_FILE = "docker-compose.yaml"
"""As the SDK calls it."""
BUILT_IN = "image-classification"
"""The built-in algorithm, and its repository in ECR."""
SMALL_NETWORK = 20
"""Layers: of the depths for small images (20, 32, 44, 56, 110) the one that 1000 photos can fill.
https://docs.aws.amazon.com/sagemaker/latest/dg/IC-Hyperparameter.html"""
SMALL_SIDE = 32
"""Pixels of CIFAR's photos, and of what the built-in algorithm is trained on here."""
METRICS = (
    "validation:accuracy",
    "validation:loss",
    "validation:ece",
    "validation:precision",
    "validation:coverage",
)
"""Of what `scones train` prints, as ``name=value``, those that SageMaker keeps and shows."""


class TrainingJobError(Exception):
    """The training was not begun, or did not end well; the message says why and what to do."""


@dataclass(frozen=True)
class Job:
    """How to train on SageMaker.

    Attributes
    ----------
    stage
        Whose it is.
    algorithm
        ``"ours"`` or ``"built-in"``.
    instance_type
        Such as ``ml.m5.xlarge``; the built-in algorithm needs a GPU.
    spot
        Whether to use spare capacity, which costs less, comes later, and may be taken away.
    hours
        After how many it is stopped.
    kms_key
        With which volumes and the model are encrypted; ``None`` for AWS's own keys.
    """

    stage: str = "dev"
    algorithm: str = "ours"
    instance_type: str | None = None
    spot: bool = False
    hours: float = 2
    kms_key: str | None = None

    @property
    def instance(self) -> str:
        """The instance type, or what suits the algorithm."""
        return self.instance_type or ("ml.m5.xlarge" if self.algorithm == "ours" else "ml.g4dn.xlarge")


@dataclass(frozen=True)
class Trained:
    """A training job that has ended well.

    Attributes
    ----------
    name
        The job's.
    image
        The container it ran in.
    model_url
        Where in S3 its ``model.tar.gz`` is.
    output_url
        Where in S3 the archive of its other files is.
    labels
        In their order; only the built-in algorithm's jobs say them.
    metrics
        The last value of each.
    billed_seconds
        For how long it was paid.
    """

    name: str
    image: str
    model_url: str
    output_url: str
    labels: tuple[str, ...]
    metrics: Mapping[str, float]
    billed_seconds: int

    @property
    def built_in(self) -> bool:
        """Whether the built-in algorithm made it."""
        return f"/{BUILT_IN}:" in self.image


def train_in_docker(data: Path, out: Path, hyperparameters: Mapping[str, object]) -> None:
    """Train in the very container that SageMaker would use, on this machine.

    Parameters
    ----------
    data
        What ``scones data`` wrote.
    out
        The folder for ``model.tar.gz`` and ``metrics.json``.
    hyperparameters
        Of ``scones train``.

    Raises
    ------
    TrainingJobError
        The SDK is missing, or the training failed.
    ImageError
        The container cannot be built.
    """
    with sdk() as (train, _):
        container = image.build(image.native_platform())
        # what the container made is root's, and for others to clear away at the next start
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
                raise TrainingJobError(f"the training failed: {_reason(Path(root), error)}") from error
            finally:
                _take_down(Path(root, COMPOSE_FILE))
            made = Path(root, "compressed_artifacts")
            _keep(out, (made / ARCHIVE).read_bytes(), (made / "output.tar.gz").read_bytes())


def _reason(root: Path, error: Exception) -> str:
    """Return what the training itself says went wrong, or what the SDK makes of it."""
    failure = root / "artifacts" / "output" / "failure"
    return failure.read_text().strip() if failure.is_file() else f"{error} (docker-compose is needed)"


def _take_down(compose_file: Path) -> None:
    """Delete the container and the network that the SDK leaves."""
    compose = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    if compose_file.is_file() and shutil.which(compose[0]):
        down = [*compose, "--file", str(compose_file), "down"]
        subprocess.run(down, capture_output=True, check=False)  # noqa: S603


def train_on_sagemaker(
    account: Account, job: Job, data: str, out: Path, hyperparameters: Mapping[str, object]
) -> Trained:
    """Run a training job, following it, and fetch what it made.

    Parameters
    ----------
    account, job
        Where and how.
    data
        A data set in S3, or a folder, which is staged to the workspace's bucket first.
    out
        The folder for ``model.tar.gz`` and, of our own algorithm, ``metrics.json``.
    hyperparameters
        Of ``scones train``; the built-in algorithm has its own.

    Raises
    ------
    TrainingJobError
        The SDK is missing, or the job was refused or failed.
    ImageError
        Our image is not in ECR.
    """
    with sdk() as (train, core), translate_aws_errors():
        url, manifest = stage(account, data)
        our_own = job.algorithm == "ours"
        container = (
            image.uri(account, "linux/amd64")
            if our_own
            else core.image_uris.retrieve(BUILT_IN, account.region)
        )
        image.require(account, container)
        bucket = account.workspace.bucket
        labels = registry.SEPARATOR.join(manifest["labels"])
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
                **({"volume_kms_key_id": job.kms_key} if job.kms_key else {}),
            ),
            stopping_condition=train.configs.StoppingCondition(
                max_runtime_in_seconds=round(job.hours * 3600),
                # with spot, that and as long again to wait for capacity
                **({"max_wait_time_in_seconds": round(job.hours * 7200)} if job.spot else {}),
            ),
            output_data_config=train.configs.OutputDataConfig(
                s3_output_path=f"s3://{bucket}/training",
                **({"kms_key_id": job.kms_key} if job.kms_key else {}),
            ),
            hyperparameters=dict(hyperparameters) if our_own else built_in_hyperparameters(manifest),
            tags=[
                train.configs.Tag(key=key, value=value)
                for key, value in tag_values(tags(job.stage, labels=labels)).items()
            ],
        )
        if our_own:
            trainer = trainer.with_metric_definitions(
                [train.configs.MetricDefinition(name=name, regex=f"{name}=([0-9.eE+-]+)") for name in METRICS]
            )
        trainer.train(input_data_config=channels(train, url, built_in=not our_own), wait=False, logs=False)
        started = trainer._latest_training_job  # noqa: SLF001  AWS's examples do so too
        name = started.training_job_name
        try:
            # of a job that fails, SageMaker says why when it is looked at
            with suppress(core.utils.exceptions.FailedStatusError):
                started.wait(logs=True)
        except KeyboardInterrupt:
            raise TrainingJobError(
                f"{name} goes on without us: aws sagemaker stop-training-job --training-job-name {name}"
            ) from None
        trained = find(account, name)
        output = None if trained.built_in else _fetch(account, trained.output_url)
        _keep(out, _fetch(account, trained.model_url), output)
    return trained


@contextmanager
def sdk() -> Iterator[tuple[Any, Any]]:
    """Import the SageMaker SDK, as quiet as it can be; its failures become ours.

    Raises
    ------
    TrainingJobError
        It is not installed, or something in it failed.
    """
    os.environ.setdefault("SAGEMAKER_USER_CONFIG_OVERRIDE", str(Path(__file__).with_name("sagemaker.yaml")))
    # asking IAM whether the role will do needs permissions that a deployer need not have
    os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")
    # stdout is for what is made; what the SDK's own code makes Python warn of is of no use to anyone here
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # all of it takes 5 s
            import sagemaker.core.helper.session_helper  # noqa: PLC0415
            import sagemaker.core.image_uris  # noqa: PLC0415
            import sagemaker.train.configs  # noqa: PLC0415
            import sagemaker.train.model_trainer  # noqa: PLC0415
            from sagemaker.core.utils.exceptions import SageMakerCoreError  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise TrainingJobError(
                "this needs the SageMaker SDK (a gigabyte): make sagemaker, or uv sync --extra sagemaker"
            ) from error
        try:
            yield sagemaker.train, sagemaker.core
        except SageMakerCoreError as error:
            raise TrainingJobError(f"the SageMaker SDK gave up: {error}") from error
        except (BotoCoreError, ClientError) as error:
            raise TrainingJobError(explain(error)) from error


def foreseen(account: Account, job: Job, data: str) -> dict[str, Any]:
    """Say what `train_on_sagemaker` would start, having checked what can be without starting it.

    Raises
    ------
    TrainingJobError
        There is no data set of ours there.
    ImageError
        Our image is not in ECR.
    """
    with translate_aws_errors():
        url, manifest = place(account, data)
        our_own = job.algorithm == "ours"
        container = image.uri(account, "linux/amd64") if our_own else f"SageMaker's {BUILT_IN}"
        if our_own:
            image.require(account, container)
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


def stage(account: Account, data: str) -> tuple[str, dict[str, Any]]:
    """Have a data set in S3; return where it is, without a slash at the end, and its manifest.

    Raises
    ------
    TrainingJobError
        There is no data set of ours there.
    """
    url, manifest = place(account, data)
    if not data.startswith("s3://"):
        from model.data import staging  # noqa: PLC0415

        staging.stage(Path(data), url)
    return url, manifest


def place(account: Account, data: str) -> tuple[str, dict[str, Any]]:
    """Return where in S3 a data set is, or is to be, without a slash at the end, and its manifest.

    Raises
    ------
    TrainingJobError
        There is no data set of ours there.
    """
    if not data.startswith("s3://"):
        folder = Path(data)
        dataset.read(folder)
        if not (folder / dataset.MANIFEST).exists():
            raise TrainingJobError(f"{data} was not written by `scones data`: scones data --source {data}")
        content = (folder / dataset.MANIFEST).read_bytes()
        # the address holds the hash: what a job reads is never changed under it
        url = f"s3://{account.workspace.bucket}/data/{hashlib.sha256(content).hexdigest()[:16]}"
        return url, json.loads(content)
    url = data.rstrip("/")
    try:
        return url, json.loads(_fetch(account, f"{url}/{dataset.MANIFEST}"))
    except ClientError as error:
        if is_gone(error):
            raise TrainingJobError(f"{data} has no {dataset.MANIFEST}: scones data --to {data}") from error
        raise


def channels(train: Any, url: str, *, built_in: bool) -> list[Any]:  # noqa: ANN401  the SDK's modules
    """Return what the job gets to read."""
    if not built_in:
        return [train.configs.InputData(channel_name=CHANNEL, data_source=url)]
    places = {
        # paths in the lists begin where the lists are
        "train": f"{url}/",
        "validation": f"{url}/",
        "train_lst": f"{url}/{dataset.index_name('train')}",
        "validation_lst": f"{url}/{dataset.index_name('test')}",
    }
    return [
        train.configs.InputData(channel_name=name, data_source=place, content_type="application/x-image")
        for name, place in places.items()
    ]


def built_in_hyperparameters(manifest: Mapping[str, Any]) -> dict[str, object]:
    """Return the settings that AWS recommends for small images, for a data set.

    The original used 152 layers, which are meant for pictures of 224 pixels.
    https://docs.aws.amazon.com/sagemaker/latest/dg/IC-Hyperparameter.html
    """
    samples = sum(manifest["counts"]["train"].values())
    return {
        "num_layers": SMALL_NETWORK,
        "image_shape": f"3,{SMALL_SIDE},{SMALL_SIDE}",
        "num_classes": len(manifest["labels"]),
        "num_training_samples": samples,
        "mini_batch_size": min(32, samples),
        "epochs": 30,
        "learning_rate": 0.1,
        "lr_scheduler_step": "15,25",
        "augmentation_type": "crop",
        "use_pretrained_model": 0,
    }


def find(account: Account, name: str) -> Trained:
    """Look at a training job that has ended.

    Raises
    ------
    TrainingJobError
        There is none of that name, or it has not ended well.
    """
    try:
        job = account.sagemaker.describe_training_job(TrainingJobName=name)
    except ClientError as error:
        if is_gone(error):
            raise TrainingJobError(f"there is no training job {name} in {account.region}") from error
        raise
    if job["TrainingJobStatus"] != "Completed":
        reason = job.get("FailureReason") or job["SecondaryStatus"]
        raise TrainingJobError(f"training job {name} is {job['TrainingJobStatus']}: {reason}")
    listed = account.sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
    labels = tag_values(listed).get("labels", "")
    model_url = job["ModelArtifacts"]["S3ModelArtifacts"]
    return Trained(
        name=name,
        image=job["AlgorithmSpecification"]["TrainingImage"],
        model_url=model_url,
        output_url=f"{model_url.rpartition('/')[0]}/output.tar.gz",
        labels=tuple(labels.split(registry.SEPARATOR)) if labels else (),
        metrics={one["MetricName"]: one["Value"] for one in job.get("FinalMetricDataList", [])},
        billed_seconds=job.get("BillableTimeInSeconds", 0),
    )


def built_in_candidate(trained: Trained) -> registry.Candidate:
    """Describe a model of the built-in algorithm, which does not say from which confidence to accept."""
    return registry.Candidate(
        name=f"{BUILT_IN} {trained.name}",
        labels=trained.labels,
        threshold=math.nan,
        input_size=SMALL_SIDE,
        sha256=trained.name,
        url=trained.model_url,
    )


def _fetch(account: Account, url: str) -> bytes:
    parts = urlsplit(url, allow_fragments=False)
    return account.s3.get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"].read()


def _keep(out: Path, model: bytes, output: bytes | None) -> None:
    files = {ARCHIVE: model}
    if output is not None:
        with tarfile.open(fileobj=io.BytesIO(output)) as tar:
            for member in tar.getmembers():
                if Path(member.name).name == METRICS_FILE and (metrics := tar.extractfile(member)):
                    files[METRICS_FILE] = metrics.read()
    storage.write_files(out, files)
