"""`scones image`: what it tells Docker and ECR. That the container works is tested end to end."""

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
    """Where a Docker of the test writes what it is told."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def run(*arguments: str) -> Result:
    return CliRunner(mix_stderr=False).invoke(cli, ["image", *arguments])


def test_it_is_built_under_a_name_that_says_what_is_in_it(calls):
    result = run("--platform", image.native_platform())

    name = f"scones-unlimited:{image.tag(image.native_platform())}"
    assert result.stdout == f"{name}\n"
    (build,) = calls.read_text().splitlines()
    assert build.startswith("build --file")
    assert f"--tag {name}" in build
    assert "--platform" not in build


def test_another_processor_is_named(calls):
    (other,) = set(image.PLATFORMS) - {image.native_platform()}

    run("--platform", other)

    assert f"--platform={other}" in calls.read_text()


def test_the_tag_changes_with_what_is_in_it_and_the_processor(monkeypatch, tmp_path):
    monkeypatch.setattr(image, "ROOT", tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "serve.py").write_text("one")
    one = image.tag("linux/amd64")
    assert one == image.tag("linux/amd64")
    assert one.removesuffix("amd64") == image.tag("linux/arm64").removesuffix("arm64")

    (tmp_path / "model" / "serve.py").write_text("other")

    assert image.tag("linux/amd64") != one


def test_the_tag_stays_when_the_notebook_is_run(monkeypatch, tmp_path):
    monkeypatch.setattr(image, "ROOT", tmp_path)
    (tmp_path / "model" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "model" / "serve.py").write_text("one")
    one = image.tag("linux/amd64")

    (tmp_path / "model" / "walkthrough.ipynb").write_text("what it showed")
    (tmp_path / "model" / ".ipynb_checkpoints" / "serve-checkpoint.py").write_text("one")

    assert image.tag("linux/amd64") == one


def test_what_does_not_count_is_not_sent_to_docker_either():
    ignored = (image.ROOT / ".dockerignore").read_text().splitlines()

    assert {f"**/{name}" for name in (*image.LEFT_OUT, "*.ipynb")} <= set(ignored)


@pytest.mark.parametrize("fails", [False, True])
def test_pushing_makes_the_repository_and_leaves_no_password_behind(calls, monkeypatch, fails):
    monkeypatch.setenv("PUSH_FAILS", "1" if fails else "0")
    with mock_aws(), recording() as asked:
        results = [run("--platform", "linux/amd64", "--push") for _ in range(2)]

    registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    address = f"{registry}/scones-unlimited:{image.tag('linux/amd64')}"
    said = [line for line in calls.read_text().splitlines() if not line.startswith("build")]
    assert asked.violations == []
    (made,) = asked.of("CreateRepository")
    assert made["imageTagMutability"] == "IMMUTABLE"
    assert {"Key": "project", "Value": "scones-unlimited"} in made["tags"]
    assert len(asked.of("PutLifecyclePolicy")) == 1
    assert said[0] == f"login --username AWS --password-stdin {registry}"
    assert said[2:5] == [
        f"tag scones-unlimited:{image.tag('linux/amd64')} {address}",
        f"push {address}",
        f"logout {registry}",
    ]
    for result in results:
        assert result.exit_code == (1 if fails else 0)
        assert result.stdout == ("" if fails else f"{address}\n")


def test_what_is_in_ecr_already_is_neither_built_nor_pushed_again(calls):
    with mock_aws():
        account = connect()
        image.make_repository(account)
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


def test_a_dry_run_says_what_would_be_built_and_pushed_and_does_neither(calls):
    with mock_aws():
        account = connect()
        address = image.uri(account, "linux/amd64")

        told = run("--push", "--dry-run").stdout

        assert told == f"Would build {image.local_name('linux/amd64')} and push it as {address}.\n"
        assert run("--dry-run").stdout == f"Would build {image.local_name('linux/amd64')}.\n"
        assert not image.is_pushed(account, address)
    assert not calls.exists()


def test_without_docker_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    result = run()

    assert result.exit_code == 1
    assert result.stderr == "Error: there is no docker on the path: install Docker, and start it\n"


def test_an_image_of_another_account_is_not_looked_for():
    with mock_aws(), recording() as asked:
        image.require(connect(), "811284229777.dkr.ecr.us-east-1.amazonaws.com/image-classification:1")

        assert asked.of("DescribeImages") == []
        assert boto3.client("ecr").describe_repositories()["repositories"] == []
