"""AWS_REGION is the region of every command, as it is for the AWS CLI."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

WITHOUT_ACCOUNT = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=WITHOUT_ACCOUNT | env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"AWS_REGION": "eu-west-1"}, "no AWS credentials"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "no AWS credentials"),
        ({}, "no region: set AWS_REGION"),
    ],
)
def test_without_an_account_a_command_fails_because_of_what_is_missing(env, reason):
    done = run("-m", "scones", "status", **env)

    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {reason}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("package", ["model", "pipeline.stack", "local.stack", "scones"])
def test_every_package_prefers_it(package):
    shown = run(
        "-c",
        f"import {package}, boto3; print(boto3.Session().region_name)",
        AWS_REGION="eu-west-1",
        AWS_DEFAULT_REGION="us-east-1",
    )

    assert shown.stdout == "eu-west-1\n", shown.stderr
