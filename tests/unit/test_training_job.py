"""`scones train --on sagemaker` and its failures, with moto as AWS, and without the SDK."""

import importlib.util
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import botocore.loaders
import numpy as np
import pytest
from click.testing import CliRunner, Result
from moto import mock_aws
from PIL import Image

from model.sagemaker import image, training_job
from model.sagemaker.account import AccountError, connect
from model.sagemaker.training_job import CompletedJob, Job, TrainingJobError
from scones import cli
from tests import moto_gaps
from tests.conftest import ROOT

LOADER = botocore.loaders.create_loader()

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse AWS..S3..BucketPolicy")
with_sdk = pytest.mark.skipif(
    importlib.util.find_spec("sagemaker") is None,
    reason="the SageMaker SDK is not installed: uv sync --extra sagemaker",
)


@pytest.fixture
def aws(monkeypatch, tmp_path) -> Iterator[moto_gaps.MotoExtension]:
    monkeypatch.setattr(botocore.loaders, "create_loader", lambda search_path_string=None: LOADER)
    with moto_gaps.filled() as extension, mock_aws():
        account = connect()
        account.cloudformation.create_stack(
            StackName="scones-unlimited-roles",
            TemplateBody=(ROOT / "model" / "roles.yaml").read_text(),
            Capabilities=["CAPABILITY_IAM"],
        )
        image.create_repository(account)
        media_type = "application/vnd.docker.distribution.manifest.v2+json"
        account.ecr.put_image(
            repositoryName="scones-unlimited",
            imageManifest=json.dumps({"schemaVersion": 2, "mediaType": media_type}),
            imageTag=image.tag("linux/amd64"),
        )

        def leave_model(url: str) -> None:
            bucket, _, key = url.removeprefix("s3://").partition("/")
            account.s3.put_object(Bucket=bucket, Key=key, Body=b"a model")
            output = key.replace("model.tar.gz", "output.tar.gz")
            account.s3.put_object(
                Bucket=bucket, Key=output, Body=packed("data/metrics.json", b'{"accuracy": 1}')
            )

        extension.leave_model = leave_model
        yield extension


def packed(name: str, content: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


@pytest.fixture
def data(tmp_path) -> Path:
    """A data set as `scones data` writes it."""
    from model.data.builder import LabelledPhotos, Photo, write  # noqa: PLC0415

    photos = []
    for seed in range(8):
        stream = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(
            stream, "PNG"
        )
        label, split = ("bicycle", "motorcycle")[seed % 2], ("train", "test")[seed // 6]
        photos.append(Photo(label, f"{seed}.png", f"{seed:064}", stream.getvalue(), split))
    write(tmp_path / "data", LabelledPhotos(["bicycle", "motorcycle"], photos), "a test")
    return tmp_path / "data"


def train(job: Job, data: object, out: Path) -> CompletedJob:
    return training_job.train_on_sagemaker(connect(), job, str(data), out, {"epochs": 3})


@with_sdk
def test_a_job_runs_our_container_and_its_model_is_downloaded(aws_calls, data, tmp_path):
    trained = train(Job(stage="prod"), data, tmp_path / "out")

    (request,) = aws_calls.of("CreateTrainingJob")
    account = connect()
    assert request["TrainingJobName"].startswith("scones-unlimited-prod-")
    assert request["AlgorithmSpecification"]["TrainingImage"] == image.uri(account, "linux/amd64")
    assert {"Name": "validation:accuracy", "Regex": "validation:accuracy=([0-9.eE+-]+)"} in request[
        "AlgorithmSpecification"
    ]["MetricDefinitions"]
    assert request["RoleArn"] == account.workspace.role
    assert request["HyperParameters"] == {"epochs": "3"}
    assert request["ResourceConfig"]["InstanceType"] == "ml.m5.xlarge"
    assert {tag["Key"]: tag["Value"] for tag in request["Tags"]} == {
        "project": "scones-unlimited",
        "stage": "prod",
        "labels": "bicycle/motorcycle",
    }
    (channel,) = request["InputDataConfig"]
    source = channel["DataSource"]["S3DataSource"]["S3Uri"]
    assert channel["ChannelName"] == "training"
    staged = account.s3.list_objects_v2(
        Bucket=account.workspace.bucket, Prefix=source.removeprefix(f"s3://{account.workspace.bucket}/")
    )
    assert len(staged["Contents"]) == 8 + 3
    assert not request.get("EnableManagedSpotTraining")
    assert (tmp_path / "out" / "model.tar.gz").read_bytes() == b"a model"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"accuracy": 1}
    assert trained.labels == ("bicycle", "motorcycle")
    assert not trained.built_in


@with_sdk
def test_the_built_in_algorithm_gets_hyperparameters_for_small_images_and_four_channels(
    aws_calls, data, tmp_path
):
    trained = train(Job(algorithm="built-in"), data, tmp_path / "out")

    (request,) = aws_calls.of("CreateTrainingJob")
    assert request["AlgorithmSpecification"]["TrainingImage"].endswith("/image-classification:1")
    assert request["ResourceConfig"]["InstanceType"] == "ml.g4dn.xlarge"
    assert request["HyperParameters"]["num_layers"] == "20"
    assert request["HyperParameters"]["image_shape"] == "3,32,32"
    assert request["HyperParameters"]["num_training_samples"] == "6"
    assert request["HyperParameters"]["num_classes"] == "2"
    assert {channel["ChannelName"] for channel in request["InputDataConfig"]} == {
        "train",
        "validation",
        "train_lst",
        "validation_lst",
    }
    assert {channel["ContentType"] for channel in request["InputDataConfig"]} == {"application/x-image"}
    # It rejects definitions of metrics that it has itself.
    assert not request["AlgorithmSpecification"].get("MetricDefinitions")
    assert trained.built_in
    assert (tmp_path / "out" / "model.tar.gz").exists()
    candidate = training_job.built_in_candidate(trained)
    assert (candidate.labels, candidate.input_size) == (("bicycle", "motorcycle"), 32)


@with_sdk
def test_a_spot_job_waits_for_capacity_as_long_as_it_may_run(aws_calls, data, tmp_path):
    train(Job(spot=True, hours=3, instance_type="ml.c5.xlarge"), data, tmp_path / "out")

    (request,) = aws_calls.of("CreateTrainingJob")
    assert request["EnableManagedSpotTraining"] is True
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 10800, "MaxWaitTimeInSeconds": 21600}
    assert request["ResourceConfig"]["InstanceType"] == "ml.c5.xlarge"


@with_sdk
def test_a_kms_key_encrypts_the_volume_and_the_model(aws_calls, data, tmp_path):
    train(Job(kms_key="alias/models"), data, tmp_path / "out")

    (request,) = aws_calls.of("CreateTrainingJob")
    assert request["ResourceConfig"]["VolumeKmsKeyId"] == "alias/models"
    assert request["OutputDataConfig"]["KmsKeyId"] == "alias/models"


@with_sdk
def test_data_in_s3_is_used_from_there(aws_calls, data, tmp_path):
    from model.data.staging import stage  # noqa: PLC0415

    account = connect()
    account.s3.create_bucket(Bucket="photos")
    stage(data, "s3://photos/set")

    train(Job(), "s3://photos/set/", tmp_path / "out")

    (channel,) = aws_calls.of("CreateTrainingJob")[0]["InputDataConfig"]
    assert channel["DataSource"]["S3DataSource"]["S3Uri"] == "s3://photos/set"
    with pytest.raises(TrainingJobError, match="has no manifest"):
        train(Job(), "s3://photos/elsewhere", tmp_path / "out")


@with_sdk
def test_a_failed_job_reports_the_reason_and_leaves_no_files(aws_calls, aws, data, tmp_path):
    aws.training_failure = "AlgorithmError: there are no photos of motorcycle, exit code: 1"

    with pytest.raises(TrainingJobError, match="there are no photos of motorcycle"):
        train(Job(), data, tmp_path / "out")

    assert not (tmp_path / "out").exists()


@with_sdk
def test_an_exceeded_quota_says_what_to_do(aws_calls, aws, data, tmp_path):
    aws.errors["CreateTrainingJob"] = (
        "ResourceLimitExceeded",
        "The account-level service limit 'ml.g4dn.xlarge for training job usage' is 0 Instances",
    )

    with pytest.raises((TrainingJobError, AccountError), match=r"for training job usage.*Service Quotas"):
        train(Job(algorithm="built-in"), data, tmp_path / "out")


@with_sdk
def test_a_missing_image_is_reported_before_a_job_is_created(aws_calls, aws, data, tmp_path, monkeypatch):
    monkeypatch.setattr(image, "tag", lambda platform: "of-changed-code-amd64")

    with pytest.raises(image.ImageError, match="scones image"):
        train(Job(), data, tmp_path / "out")

    assert aws_calls.of("CreateTrainingJob") == []


def run_dry(data: Path, *arguments: str) -> Result:
    options = ["--data", str(data), "--out", "out", "--on", "sagemaker", "--dry-run", *arguments]
    return CliRunner(mix_stderr=False).invoke(cli, ["train", *options])


def test_a_dry_run_prints_the_plan_and_starts_nothing(aws_calls, data):
    plan = json.loads(run_dry(data, "--spot", "--json").stdout)

    assert (plan["photos"], plan["labels"]) == (8, ["bicycle", "motorcycle"])
    assert (plan["instance_type"], plan["spot"], plan["hours"]) == ("ml.m5.xlarge", True, 2)
    assert f"on {plan['photos']} photos" in run_dry(data).stdout
    assert "ml.g4dn.xlarge" in run_dry(data, "--algorithm", "built-in").stdout
    assert {name for name in aws_calls.operations() if name.startswith(("Create", "Put"))} == set()


def test_a_dry_run_fails_where_the_job_would_fail(aws_calls, data, monkeypatch):
    monkeypatch.setattr(image, "tag", lambda platform: "of-changed-code-amd64")

    done = run_dry(data)

    assert done.exit_code == 1
    assert "scones image" in done.stderr


def test_a_job_that_does_not_exist_is_an_error(aws_calls):
    with pytest.raises(TrainingJobError, match="No such training job in us-east-1: nothing"):
        training_job.find(connect(), "nothing")


def test_without_the_sdk_it_says_how_to_install_it(aws, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sagemaker", None)

    with pytest.raises(TrainingJobError, match="uv sync --extra sagemaker"):
        train(Job(), data, tmp_path / "out")


def test_the_built_in_hyperparameters_fit_the_data():
    manifest = {"labels": ["a", "b", "c"], "counts": {"train": {"a": 5, "b": 6, "c": 7}, "test": {"a": 1}}}

    hyperparameters = training_job.built_in_hyperparameters(manifest)

    assert (hyperparameters["num_classes"], hyperparameters["num_training_samples"]) == (3, 18)
    assert hyperparameters["mini_batch_size"] <= 18
