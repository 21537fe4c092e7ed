"""`scones destroy --stack` on the emulator: it deletes a stack with photos, and nothing else."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

NAME = "to-destroy"
TEMPLATE = {
    "Resources": {
        "UploadBucket": {
            "Type": "AWS::S3::Bucket",
            "Properties": {"VersioningConfiguration": {"Status": "Enabled"}},
        }
    },
    "Outputs": {"UploadBucketName": {"Value": {"Ref": "UploadBucket"}}},
}


def destroy(stack, *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scones", "destroy", "--stack", NAME, *arguments],
        cwd=ROOT,
        env={**os.environ, "AWS_ENDPOINT_URL": stack.endpoint_url},
        input=answer,
        capture_output=True,
        text=True,
        check=False,
    )


def stacks(stack) -> set[str]:
    return {one["StackName"] for one in stack.client("cloudformation").describe_stacks()["Stacks"]}


def deploy(stack, template=TEMPLATE) -> None:
    cloudformation = stack.client("cloudformation")
    cloudformation.create_stack(StackName=NAME, TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_create_complete").wait(StackName=NAME, WaiterConfig={"Delay": 1})


@pytest.fixture
def bucket(stack) -> str:
    deploy(stack)
    (deployed,) = stack.client("cloudformation").describe_stacks(StackName=NAME)["Stacks"]
    bucket = deployed["Outputs"][0]["OutputValue"]
    for content in (b"first", b"second"):
        stack.client("s3").put_object(Bucket=bucket, Key="uploads/photo.jpg", Body=content)
    yield bucket
    destroy(stack, "--yes")


def test_a_stack_is_deleted_with_every_version_of_every_photo(stack, bucket):
    done = destroy(stack, "--yes")

    assert done.returncode == 0, done.stderr
    assert f"Deleted stack {NAME}, with everything in s3://{bucket}." in done.stdout
    assert stacks(stack) >= {stack.name}
    assert NAME not in stacks(stack)
    assert bucket not in {one["Name"] for one in stack.client("s3").list_buckets()["Buckets"]}


def test_a_dry_run_lists_the_stack_and_deletes_nothing(stack, bucket):
    done = destroy(stack, "--dry-run")

    assert done.returncode == 0
    assert done.stdout == f"stack {NAME}, with everything in s3://{bucket}\n"
    assert len(stack.client("s3").list_object_versions(Bucket=bucket)["Versions"]) == 2


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_any_answer_other_than_yes_deletes_nothing(stack, bucket, answer):
    done = destroy(stack, answer=answer)

    assert done.returncode == 1
    assert NAME in stacks(stack)
    assert len(stack.client("s3").list_object_versions(Bucket=bucket)["Versions"]) == 2


def test_a_stack_that_does_not_exist_is_not_an_error(stack):
    done = destroy(stack, "--yes")

    assert done.returncode == 0
    assert done.stdout == f"No such stack: {NAME}. Nothing to delete.\n"


def test_a_stack_of_others_is_not_deleted(stack):
    deploy(
        stack, {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}, "Outputs": {"Name": {"Value": "theirs"}}}
    )

    done = destroy(stack, "--yes")

    assert done.returncode == 1
    assert (
        done.stderr == f"Error: {NAME} is not a stack of this project: it has no output UploadBucketName.\n"
    )
    assert NAME in stacks(stack)
    stack.client("cloudformation").delete_stack(StackName=NAME)
