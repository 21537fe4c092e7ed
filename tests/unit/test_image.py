"""`scones image`: its calls of Docker and ECR. Tests in e2e cover the container itself."""

import json
import os
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner, Result
from moto import mock_aws

from model.sagemaker import image
from model.sagemaker.account import connect
from scones import cli
from tests.aws_shapes import recording

DOCKER = """#!/bin/sh
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
def test_push_creates_the_repository_and_leaves_no_password_behind(calls, monkeypatch, fails):
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
