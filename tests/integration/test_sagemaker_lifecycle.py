"""The whole lifecycle: from an empty account to a classified photo and back, on the emulator and moto."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import nbformat
import numpy as np
import pytest
from click.testing import CliRunner
from moto import mock_aws
from PIL import Image

import local.stack
from local import demo
from local.stack import Stack
from model.sagemaker import endpoint, image
from model.sagemaker.account import connect
from model.sagemaker.deployment_file import FILE, Deployment
from pipeline import sample_images, teardown
from scones import cli
from tests import moto_gaps
from tests.aws_shapes import AwsCalls, recording
from tests.conftest import ROOT

REGION = "us-east-1"
# Services that the emulator lacks; moto answers at AWS's own addresses.
AT_MOTO = ("SAGEMAKER", "APPLICATION_AUTO_SCALING", "CLOUDWATCH", "ECR", "STS", "PRICING")
HOSTS = {
    "SAGEMAKER": "api.sagemaker",
    "APPLICATION_AUTO_SCALING": "application-autoscaling",
    "CLOUDWATCH": "monitoring",
    "ECR": "api.ecr",
    "STS": "sts",
    "PRICING": "api.pricing",
}


@pytest.fixture
def aws(stack: Stack, monkeypatch, tmp_path) -> Iterator[moto_gaps.MotoExtension]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoint, "POLL_SECONDS", 0)
    monkeypatch.setattr(image, "local_images", list)
    monkeypatch.setenv("AWS_ENDPOINT_URL", stack.endpoint_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", stack.sagemaker_runtime_url)
    for service in AT_MOTO:
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", f"https://{HOSTS[service]}.{REGION}.amazonaws.com")
    local = {"mock_credentials": False, "passthrough": {"urls": [r"http://127\.0\.0\.1"]}}
    with moto_gaps.filled() as extension, mock_aws(config={"core": local}):
        yield extension


@pytest.fixture
def aws_calls(aws) -> Iterator[AwsCalls]:
    with recording() as recorded:
        yield recorded
    assert recorded.violations == []


def run(*arguments: object) -> str:
    result = CliRunner(mix_stderr=False).invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def make_roles(stack: Stack) -> None:
    done = subprocess.run(
        ["make", "roles"], cwd=ROOT, env=stack._environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def push_image() -> None:
    """Do what `scones image --push` does, without the layers."""
    account = connect()
    image.create_repository(account)
    media_type = "application/vnd.docker.distribution.manifest.v2+json"
    account.ecr.put_image(
        repositoryName="scones-unlimited",
        imageManifest=json.dumps({"schemaVersion": 2, "mediaType": media_type}),
        imageTag=image.tag("linux/amd64"),
    )


def make_stack(stack: Stack, stage: str) -> Stack:
    """Do what `make deploy` does, with the build of the local stack."""
    sam = Path(sys.executable).parent / "sam"
    config = [f"--config-file={ROOT / 'samconfig.toml'}", f"--config-env={stage}"]
    template = f"--template={stack.home / 'build' / 'template.yaml'}"
    overrides = run("parameters", "--stage", stage).splitlines()
    done = subprocess.run(
        [sam, "deploy", *config, template, "--parameter-overrides", *overrides],
        env=stack._environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = Stack(home=stack.home, ports=stack.ports, name=f"scones-unlimited-{stage}")
    (described,) = made.client("cloudformation").describe_stacks(StackName=made.name)["Stacks"]
    made.outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
    return made


@pytest.fixture
def photos(tmp_path) -> Path:
    for seed in range(6):
        path = tmp_path / "photos" / ("bicycle", "motorcycle")[seed % 2] / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(noise).save(path)
    return tmp_path / "photos"


def names(stack: Stack) -> set[str]:
    return {one["StackName"] for one in stack.client("cloudformation").describe_stacks()["Stacks"]}


def test_from_an_empty_account_to_a_classified_photo_and_back(stack, aws_calls, aws, photos):
    stacks_before = names(stack)
    buckets_before = {one["Name"] for one in stack.client("s3").list_buckets()["Buckets"]}
    assert teardown.list_resources(connect()) == []

    # empty account → role, bucket, image
    make_roles(stack)
    push_image()
    bucket = connect().workspace.bucket

    # stage
    run("data", "--source", photos, "--out", "data", "--to", f"s3://{bucket}/data")

    # train: the job writes the ready-made model
    if importlib.util.find_spec("sagemaker"):
        run("deploy")  # packs the ready-made model and uploads it to S3
        made = aws_calls.of("CreateModelPackage")[0]["InferenceSpecification"]["Containers"][0][
            "ModelDataUrl"
        ]
        key = made.removeprefix(f"s3://{bucket}/")
        content = stack.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        aws.leave_model = lambda url: leave(stack, url, content)
        run("train", "--on", "sagemaker", "--data", f"s3://{bucket}/data", "--out", "trained")
        job = aws_calls.of("CreateTrainingJob")[0]["TrainingJobName"]
        assert Path("trained", "model.tar.gz").read_bytes() == content
        from_job = ["--training-job", job]
    else:
        run("deploy")
        from_job = []
    first = Deployment.read()

    # update, by a canary, to the trained model, with another threshold
    run("deploy", *from_job, "--threshold", "0.75")
    second = Deployment.read()
    assert second.endpoint_name == first.endpoint_name
    assert aws_calls.of("UpdateEndpoint")[-1]["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert json.loads(run("status", "--json"))["model_package"] == second.model_package

    # invoke: directly, and through the stack that deployment.json describes
    photo = Path("photo.jpg")
    photo.write_bytes(sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1)))
    assert json.loads(run("predict", "--endpoint", second.endpoint_name, photo))["label"] == "bicycle"
    deployed = make_stack(stack, "dev")
    (outcome,) = demo.classify(deployed, {"photo.jpg": photo})
    assert (outcome.outcome, outcome.label) == ("accepted", "bicycle")

    # roll back
    run("rollback")
    assert Deployment.read().confidence_threshold == first.confidence_threshold

    # everything is deleted, except the resources of others
    run("destroy", "--yes")
    assert teardown.list_resources(connect()) == []
    assert names(stack) - {"aws-sam-cli-managed-default"} == stacks_before - {"aws-sam-cli-managed-default"}
    buckets = {one["Name"] for one in stack.client("s3").list_buckets()["Buckets"]}
    assert not {one for one in buckets - buckets_before if "sam-cli" not in one}
    assert remaining_in_moto() == {}
    assert not Path("deployment.json").exists()
    assert run("destroy", "--yes") == "Nothing to delete.\n"


@pytest.mark.verify
def test_the_notebook_runs_with_an_endpoint_of_sagemaker(stack, aws_calls, aws, monkeypatch, tmp_path):
    """tests/e2e/test_notebook.py runs the same cells on a local stack."""
    if (ROOT / FILE).exists():
        pytest.skip(f"there is a {FILE}, which the notebook would overwrite and delete")
    make_roles(stack)
    push_image()
    workspace = f"s3://{connect().workspace.bucket}/captures"
    monkeypatch.setenv("STACK", "scones-unlimited-dev")
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("DESTROY", "yes")
    monkeypatch.delenv("SOURCE", raising=False)
    monkeypatch.chdir(ROOT / "model")
    monkeypatch.setattr(sys, "path", [*sys.path])
    # moto works in this process only, so `make deploy` uses the emulator.
    for_make = stack._environment() | {"ARCHITECTURE": "x86_64"}
    monkeypatch.setattr(subprocess, "run", partial(subprocess.run, env=for_make))
    shown: list[object] = []
    namespace: dict[str, Any] = {"display": shown.append}

    try:
        for cell in nbformat.read(ROOT / "model" / "walkthrough.ipynb", as_version=4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, cell.id, "exec"), namespace)
            if 'cli(["train"' in cell.source:  # what SageMaker does: serve this model, and capture data
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(local.stack, "CAPTURE_URI", workspace)
                    patch.setattr(subprocess, "run", subprocess.run.func)
                    stack.serve(tmp_path / "out" / "model")
    finally:
        monkeypatch.undo()
        stack.serve(None)

    assert namespace["parameters"]["EndpointName"].startswith("scones-unlimited-dev-")
    assert namespace["parameters"]["CaptureUri"] == workspace
    assert {one.outcome for one in namespace["outcomes"]} <= {"accepted", "needs_review"}
    assert namespace["counts"].records == len(namespace["sent"]) + 1
    assert "sharpness" in namespace["report"].drifted
    assert len(shown) == 3
    assert remaining_in_moto() == {}
    assert not (ROOT / FILE).exists()


def leave(stack: Stack, url: str, content: bytes) -> None:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    stack.client("s3").put_object(Bucket=bucket, Key=key, Body=content)
    output = key.replace("model.tar.gz", "output.tar.gz")
    stack.client("s3").put_object(Bucket=bucket, Key=output, Body=content)


def remaining_in_moto() -> dict[str, list[object]]:
    """The resources that SageMaker, autoscaling, CloudWatch and ECR still list."""
    sagemaker = boto3.client("sagemaker")
    listed = {
        "endpoints": sagemaker.list_endpoints()["Endpoints"],
        "configurations": sagemaker.list_endpoint_configs()["EndpointConfigs"],
        "models": sagemaker.list_models()["Models"],
        "training jobs": sagemaker.list_training_jobs()["TrainingJobSummaries"],
        "packages": sagemaker.list_model_packages()["ModelPackageSummaryList"],
        "groups": sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"],
        "alarms": boto3.client("cloudwatch").describe_alarms()["MetricAlarms"],
        "repositories": boto3.client("ecr").describe_repositories()["repositories"],
        "targets": boto3.client("application-autoscaling").describe_scalable_targets(
            ServiceNamespace="sagemaker"
        )["ScalableTargets"],
    }
    return {what: found for what, found in listed.items() if found}
