"""`scones image`: its calls of Docker and ECR. Tests in e2e cover the container itself."""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result
from moto import mock_aws

from model.sagemaker import image, image_cleanup
from model.sagemaker.account import connect
from scones import cli
from tests import moto_gaps
from tests.aws_shapes import recording

DOCKER = """#!/bin/sh
[ "$1 $2" = "buildx version" ] && exit "${BUILDX_FAILS:-1}"
echo "$@" >> "$DOCKER_CALLS"
case "$1" in
  login) cat >> "$DOCKER_CALLS"; echo >> "$DOCKER_CALLS" ;;
  push) exit "${PUSH_FAILS:-0}" ;;
esac
"""


@pytest.fixture
def calls(tmp_path, monkeypatch) -> Path:
    """The file to which a fake Docker writes its arguments and its input."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


OCI = "application/vnd.oci.image.manifest.v1+json"


def put(account, tag: str, media_type: str = image.MANIFEST) -> None:
    """Put an image into ECR, as `docker push` does."""
    manifest = {"schemaVersion": 2, "mediaType": media_type, "config": {"digest": tag}}
    account.ecr.put_image(repositoryName="scones-unlimited", imageManifest=json.dumps(manifest), imageTag=tag)


@pytest.fixture
def pushes(calls, monkeypatch) -> dict[str, str]:
    """A fake Docker that pushes manifests of the type under ``media_type`` to moto's ECR."""
    pushed, docker = {"media_type": image.MANIFEST}, image.docker

    def push(*arguments: str, **options: Any) -> None:
        docker(*arguments, **options)
        if arguments[0] == "push":
            put(connect(), arguments[1].rpartition(":")[2], pushed["media_type"])

    monkeypatch.setattr(image, "docker", push)
    return pushed


def run(*arguments: str) -> Result:
    return CliRunner(mix_stderr=False).invoke(cli, ["image", *arguments])


def test_the_image_is_named_after_its_content(calls):
    result = run("--platform", image.native_platform())

    name = f"scones-unlimited:{image.tag(image.native_platform())}"
    assert result.stdout == f"{name}\n"
    (build,) = calls.read_text().splitlines()
    assert build.startswith("build --file")
    assert f"--tag {name}" in build
    assert "--platform" not in build


def test_buildx_is_told_to_write_the_manifest_that_sagemaker_accepts(calls, monkeypatch):
    monkeypatch.setenv("BUILDX_FAILS", "0")

    run("--platform", image.native_platform())

    (build,) = calls.read_text().splitlines()
    assert build.startswith("buildx build --output=type=docker,oci-mediatypes=false --file")


def test_a_pushed_oci_manifest_is_deleted_again_and_reported(pushes):
    pushes["media_type"] = OCI
    with mock_aws():
        result = run("--push")

        assert result.exit_code == 1
        assert f"a manifest of the type {OCI}, which SageMaker rejects" in result.stderr
        assert image.manifest_type(connect(), image.uri(connect(), "linux/amd64")) is None

        pushes["media_type"] = image.MANIFEST
        assert run("--push").exit_code == 0


def test_an_oci_image_of_an_earlier_version_is_refused_and_replaced(pushes):
    with mock_aws():
        account = connect()
        image.create_repository(account)
        put(account, image.tag("linux/amd64"), OCI)
        address = image.uri(account, "linux/amd64")

        with pytest.raises(image.ImageError, match="Replace it with: scones image --platform linux/amd64"):
            image.require_pushed(account, address)
        assert run("--push").stdout == f"{address}\n"

        image.require_pushed(account, address)


def test_no_tagged_image_expires_even_in_a_repository_of_an_earlier_version(pushes):
    rule = {
        "rulePriority": 1,
        "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 10},
        "action": {"type": "expire"},
    }
    with mock_aws():
        ecr = connect().ecr
        ecr.create_repository(repositoryName="scones-unlimited")
        ecr.put_lifecycle_policy(
            repositoryName="scones-unlimited", lifecyclePolicyText=json.dumps({"rules": [rule]})
        )

        run("--push")

        policy = ecr.get_lifecycle_policy(repositoryName="scones-unlimited")["lifecyclePolicyText"]
        assert {rule["selection"]["tagStatus"] for rule in json.loads(policy)["rules"]} == {"untagged"}


@pytest.mark.parametrize("kept", [timedelta(days=7), timedelta(seconds=-60)], ids=["new", "old"])
def test_a_push_deletes_old_images_that_nothing_uses(pushes, monkeypatch, kept):
    monkeypatch.setattr(image_cleanup, "KEPT", kept)
    with mock_aws(), recording() as aws_calls:
        account = connect()
        image.create_repository(account)
        prefix = image.uri(account, "linux/amd64").rpartition(":")[0]
        for name in ("registered", "served", "trained", "unused"):
            put(account, name)
        register(account, f"{prefix}:registered")
        account.sagemaker.create_model(
            ModelName="scones-unlimited-prod-1",
            ExecutionRoleArn=ROLE,
            PrimaryContainer={"Image": f"{prefix}:served"},
        )
        train(account, f"{prefix}:trained")

        result = run("--push")

        remaining = account.ecr.describe_images(repositoryName="scones-unlimited")["imageDetails"]
        expected = {"registered", "served", "trained", image.tag("linux/amd64")}
        if kept > timedelta():
            expected.add("unused")
        assert {tag for found in remaining for tag in found["imageTags"]} == expected
        assert result.exit_code == 0
        assert ("Deleted the unused image unused." in result.stderr) == (kept < timedelta())
        assert aws_calls.violations == []


ROLE = "arn:aws:iam::123456789012:role/execution"


def register(account, address: str) -> None:
    account.sagemaker.create_model_package_group(ModelPackageGroupName="scones-unlimited")
    account.sagemaker.create_model_package(
        ModelPackageGroupName="scones-unlimited",
        InferenceSpecification={
            "Containers": [{"Image": address, "ModelDataUrl": "s3://bucket/model.tar.gz"}],
            "SupportedContentTypes": ["image/jpeg"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )


def train(account, address: str) -> None:
    account.sagemaker.create_training_job(
        TrainingJobName="scones-unlimited-dev-1",
        RoleArn=ROLE,
        AlgorithmSpecification={"TrainingImage": address, "TrainingInputMode": "File"},
        OutputDataConfig={"S3OutputPath": "s3://bucket/training"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )


def test_a_failed_clean_up_does_not_fail_the_push(pushes):
    with moto_gaps.filled() as extension, mock_aws():
        extension.errors["ListModels"] = ("AccessDeniedException", "not authorized")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(image_cleanup, "KEPT", timedelta(seconds=-60))
            result = run("--push")

        assert result.exit_code == 0
        assert "Unused images could not be deleted: not authorized" in result.stderr


def test_another_platform_is_passed_to_docker(calls):
    (other,) = set(image.PLATFORMS) - {image.native_platform()}

    run("--platform", other)

    assert f"--platform={other}" in calls.read_text()


def test_the_tag_changes_with_the_content_and_the_platform(monkeypatch, tmp_path):
    monkeypatch.setattr(image, "ROOT", tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "serve.py").write_text("one")
    one = image.tag("linux/amd64")
    assert one == image.tag("linux/amd64")
    assert one.removesuffix("amd64") == image.tag("linux/arm64").removesuffix("arm64")

    (tmp_path / "model" / "serve.py").write_text("other")

    assert image.tag("linux/amd64") != one


def test_running_the_notebook_does_not_change_the_tag(monkeypatch, tmp_path):
    monkeypatch.setattr(image, "ROOT", tmp_path)
    (tmp_path / "model" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "model" / "serve.py").write_text("one")
    one = image.tag("linux/amd64")

    (tmp_path / "model" / "walkthrough.ipynb").write_text("its output")
    (tmp_path / "model" / ".ipynb_checkpoints" / "serve-checkpoint.py").write_text("one")

    assert image.tag("linux/amd64") == one


def test_docker_ignores_what_the_tag_ignores():
    ignored = (image.ROOT / ".dockerignore").read_text().splitlines()

    assert {f"**/{name}" for name in (*image.IGNORED_FOLDERS, "*.ipynb")} <= set(ignored)


@pytest.mark.parametrize("fails", [False, True])
def test_push_creates_the_repository_and_leaves_no_password_behind(calls, pushes, monkeypatch, fails):
    monkeypatch.setenv("PUSH_FAILS", "1" if fails else "0")
    with mock_aws(), recording() as aws_calls:
        results = [run("--platform", "linux/amd64", "--push") for _ in range(2)]

    registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    address = f"{registry}/scones-unlimited:{image.tag('linux/amd64')}"
    docker_calls = [line for line in calls.read_text().splitlines() if not line.startswith("build")]
    assert aws_calls.violations == []
    (created,) = aws_calls.of("CreateRepository")
    assert created["imageTagMutability"] == "IMMUTABLE"
    assert {"Key": "project", "Value": "scones-unlimited"} in created["tags"]
    assert len(aws_calls.of("PutLifecyclePolicy")) == 1
    assert docker_calls[0] == f"login --username AWS --password-stdin {registry}"
    assert docker_calls[2:5] == [
        f"tag scones-unlimited:{image.tag('linux/amd64')} {address}",
        f"push {address}",
        f"logout {registry}",
    ]
    for result in results:
        assert result.exit_code == (1 if fails else 0)
        assert result.stdout == ("" if fails else f"{address}\n")


def test_an_image_in_ecr_is_neither_built_nor_pushed_again(calls):
    with mock_aws():
        account = connect()
        image.create_repository(account)
        media_type = "application/vnd.docker.distribution.manifest.v2+json"
        manifest = json.dumps({"schemaVersion": 2, "mediaType": media_type})
        pushed = account.ecr.put_image(
            repositoryName="scones-unlimited", imageManifest=manifest, imageTag=image.tag("linux/amd64")
        )["image"]["imageId"]["imageDigest"]

        result = run("--platform", "linux/amd64", "--push")

        address = image.uri(account, "linux/amd64")
        assert result.stdout == f"{address}\n"
        assert not calls.exists()
        assert image.is_pushed(account, f"{address.rpartition(':')[0]}@{pushed}")
        assert not image.is_pushed(account, f"{address.rpartition(':')[0]}@sha256:{'0' * 64}")


def test_a_dry_run_prints_what_would_be_built_and_pushed_and_does_neither(calls):
    with mock_aws():
        account = connect()
        address = image.uri(account, "linux/amd64")

        printed = run("--push", "--dry-run").stdout

        assert printed == f"Would build {image.local_name('linux/amd64')} and push it as {address}.\n"
        assert run("--dry-run").stdout == f"Would build {image.local_name('linux/amd64')}.\n"
        assert not image.is_pushed(account, address)
    assert not calls.exists()


def test_without_docker_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    result = run()

    assert result.exit_code == 1
    assert result.stderr == "Error: docker is not on the PATH: install and start Docker\n"


def test_an_image_of_another_account_is_not_checked():
    with mock_aws(), recording() as aws_calls:
        image.require_pushed(connect(), "811284229777.dkr.ecr.us-east-1.amazonaws.com/image-classification:1")

        assert aws_calls.of("DescribeImages") == []
        assert boto3.client("ecr").describe_repositories()["repositories"] == []
