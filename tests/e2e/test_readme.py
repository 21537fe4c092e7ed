"""Run each command of the README in a clone whose path contains a space."""

import functools
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from moto import mock_aws

from local.stack import ENDPOINT_NAME, Stack
from model.sagemaker import image
from model.sagemaker.account import Account, connect
from model.sagemaker.deployment_file import Deployment
from pipeline import sample_images
from scones import cli
from tests import moto_gaps, readme
from tests.conftest import ROOT, free_port
from tests.waiting import PATIENCE, eventually

# moto does not support bucket policies in CloudFormation
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse AWS..S3..BucketPolicy")


OURS = ("MAKE", "MFLAGS", "SCONES_HOME")
TERMINAL = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
"""The environment of a terminal, without the variables that `make` and other tests set."""


@dataclass(frozen=True)
class Clone:
    """A clone of the repository with the packages installed here, and a folder of photos."""

    folder: Path
    pictures: Path
    ports: dict[str, str]

    def run(self, command: str, **env: str) -> str:
        """Run one of the README's commands, and return its output."""
        done = subprocess.run(
            ["bash", "-c", f"{readme.ACTIVATE} && {command.replace('~/Pictures', str(self.pictures))}"],
            cwd=self.folder,
            check=False,
            # The shared .venv has an editable install of this repository, not of the clone.
            env={**TERMINAL, **self.ports, "COLUMNS": "120", "PYTHONPATH": str(self.folder), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=6 * PATIENCE,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    home = tmp_path_factory.mktemp("home")
    for subject in (sample_images.bicycle, sample_images.motorcycle):
        for seed in range(24):
            folder = home / "Pictures" / (f"ours/{subject.__name__}" if seed else "couriers")
            folder.mkdir(parents=True, exist_ok=True)
            photo = sample_images.encoded(sample_images.picture(subject, seed))
            (folder / f"{subject.__name__}-{seed}.jpg").write_bytes(photo)
    parent = home / "my projects"
    parent.mkdir()
    cloning = readme.CLONE.replace("<this repository>", str(ROOT))
    subprocess.run(["bash", "-c", cloning], cwd=parent, check=True, capture_output=True)
    folder = parent / "scones-unlimited"
    install(folder)
    ports = {"EMULATOR_PORT": str(free_port()), "ENDPOINT_PORT": str(free_port())}
    return Clone(folder, home / "Pictures", ports)


def install(folder: Path) -> None:
    """Link the packages installed here, so that `make setup` has nothing to install."""
    (folder / ".venv").symlink_to(ROOT / ".venv")
    for name in ("pyproject.toml", "uv.lock", ".python-version"):
        os.utime(folder / name, (0, 0))
    if (ROOT / ".local" / "uv").exists():
        (folder / ".local").mkdir()
        (folder / ".local" / "uv").symlink_to(ROOT / ".local" / "uv")


@pytest.fixture
def account() -> Iterator[Account]:
    """An account with the role and without resources of stage dev."""
    with moto_gaps.filled(), mock_aws():
        account = connect()
        account.cloudformation.create_stack(
            StackName="scones-unlimited-roles",
            TemplateBody=(ROOT / "model" / "roles.yaml").read_text(),
            Capabilities=["CAPABILITY_IAM"],
        )
        yield account


@pytest.mark.verify
@pytest.mark.parametrize("command", [readme.DEMO, readme.OWN_PHOTOS, readme.PREDICT])
def test_the_demo_and_predict_classify_photos(clone, command):
    shown = clone.run(command)

    assert "accepted" in shown
    assert "motorcycle" in shown


@pytest.mark.verify
def test_a_trained_model_and_a_stack_that_stays_up(clone):
    clone.run(readme.TRAIN)
    assert (clone.folder / ".local" / "evaluation" / "report.html").is_file()
    assert readme.DOWN in clone.run(readme.UP)
    try:
        assert "has drifted since" in clone.run(readme.DRIFT)
    finally:
        stopped = clone.run(readme.DOWN)
    assert stopped == "Stopped the endpoint and the emulator.\n"


@pytest.mark.verify
def test_the_deployed_stack_classifies_a_photo(clone):
    clone.run(readme.UP)
    try:
        stack = Stack.find(home=clone.folder / ".local")
        aws = {"AWS_ENDPOINT_URL": stack.endpoint_url}
        clone.run(readme.ROLES, **aws)
        deployment().write(clone.folder / "deployment.json")
        clone.run(f"{readme.DEPLOY} ARCHITECTURE=x86_64", **aws)
        assert outcome_of_a_photo(stack, "scones-unlimited-dev") == "accepted"
    finally:
        clone.run(readme.DOWN)
        (clone.folder / "deployment.json").unlink(missing_ok=True)


def deployment() -> Deployment:
    """Return the deployment.json of the local stack's endpoint."""
    return Deployment(
        stage="dev",
        region="us-east-1",
        account="000000000000",
        endpoint_name=ENDPOINT_NAME,
        class_labels=("bicycle", "motorcycle", "other"),
        confidence_threshold=0.8,
        image_size=224,
        capture_uri=None,
        model="zero-shot 1",
        model_package="arn:aws:sagemaker:us-east-1:000000000000:model-package/scones-unlimited/1",
        deployed_at="2026-03-04T18:39:41Z",
    )


def outcome_of_a_photo(stack: Stack, name: str) -> str:
    """Upload a photo to a stack, and return its outcome."""
    (described,) = stack.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
    bucket, key = outputs["UploadBucketName"], "uploads/photo.jpg"
    photo = sample_images.encoded(sample_images.picture(sample_images.bicycle, 1))
    stack.client("s3").put_object(Bucket=bucket, Key=key, Body=photo)
    result_key = {"photo": {"S": f"s3://{bucket}/{key}"}}
    read = functools.partial(stack.client("dynamodb").get_item, TableName=outputs["ResultsTableName"])
    item = eventually(lambda: read(Key=result_key).get("Item"))
    return str(item["outcome"]["S"])


def run_in_process(command: str, *options: str) -> str:
    """Run a `scones` command line in this process, where moto replaces AWS."""
    arguments = shlex.split(command.partition("scones ")[2])
    done = CliRunner(mix_stderr=False).invoke(cli, [*arguments, *options])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_image_and_deploy_have_a_dry_run(account):
    address = image.uri(account, "linux/amd64")
    assert f"push it as {address}" in run_in_process(readme.IMAGE, "--dry-run")
    image.create_repository(account)
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
    account.ecr.put_image(
        repositoryName=image.REPOSITORY,
        imageManifest=json.dumps(manifest),
        imageTag=image.tag("linux/amd64"),
    )

    assert run_in_process(readme.IMAGE, "--dry-run") == f"{address} exists.\n"
    shown = run_in_process(readme.MODEL, "--dry-run")
    assert shown.startswith("Would create an endpoint (account 123456789012")


def test_destroy_reports_that_there_is_nothing_to_delete(account, monkeypatch):
    monkeypatch.setattr(image, "local_images", list)
    recipe = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", *readme.DESTROY.split()[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[-1]

    assert run_in_process(recipe.replace("$STAGE", "dev")) == "Nothing to delete for stage dev.\n"
