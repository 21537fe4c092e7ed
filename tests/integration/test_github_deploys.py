"""Deploy and delete a review's stack with the permissions of the deploying role in .github/oidc.yaml.

The emulator does not check iam:PassRole, and ignores the role of CloudFormation, whose permissions
tests/unit/test_github.py checks.
"""

import importlib.util
import io
import json
import marshal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from urllib.request import urlopen

import boto3
import pytest
from botocore.exceptions import ClientError
from samcli.yamlhelper import yaml_parse

from local.stack import Stack
from pipeline import activation
from tests.binaries import machines
from tests.conftest import ROOT

STAGE = "review7"
NAME = f"scones-unlimited-{STAGE}"
UNCHECKED = (0b01).to_bytes(4, "little")
"""Flags of a bytecode file that Python uses without checking its source (PEP 552)."""
PROVIDER = "arn:aws:iam::000000000000:oidc-provider/token.actions.githubusercontent.com"


def run(stack: Stack, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=stack._environment() | env, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def roles(stack: Stack) -> Iterator[Mapping[str, str]]:
    """The outputs of the stack that `make github` deploys for reviews."""
    made = run(stack, "make", "github", "STAGE=review", "REPOSITORY=scones/unlimited", f"PROVIDER={PROVIDER}")
    assert made.returncode == 0, made.stderr
    cloudformation = stack.client("cloudformation")
    (described,) = cloudformation.describe_stacks(StackName="scones-unlimited-github-review")["Stacks"]
    yield {one["OutputKey"]: one["OutputValue"] for one in described["Outputs"]}
    cloudformation.delete_stack(StackName="scones-unlimited-github-review")


@pytest.fixture(scope="module")
def workflow(stack: Stack, roles: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The environment of a workflow: the credentials of a user with the permissions of the role."""
    iam, role = stack.client("iam"), roles["DeployRoleArn"].rpartition("/")[2]
    document = iam.get_role_policy(RoleName=role, PolicyName="deploy")["PolicyDocument"]
    iam.create_user(UserName="workflow")
    iam.put_user_policy(UserName="workflow", PolicyName="deploy", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName="workflow")["AccessKey"]
    yield {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "CI": "true",
        "ARCHITECTURE": "x86_64",
        "ENDPOINT": "vehicle-classifier",
        "PARAMETERS": "",
        "CLOUDFORMATION_ROLE": roles["CloudFormationRoleArn"],
        "PERMISSIONS_BOUNDARY": roles["BoundaryArn"],
    }
    iam.delete_access_key(UserName="workflow", AccessKeyId=key["AccessKeyId"])
    iam.delete_user_policy(UserName="workflow", PolicyName="deploy")
    iam.delete_user(UserName="workflow")


def test_a_review_is_deployed_and_destroyed(stack, roles, workflow):
    deployed = run(stack, "make", "deploy", **workflow, STAGE=STAGE)

    assert deployed.returncode == 0, deployed.stderr
    # make, if called by another make, also reports the folder that it leaves
    assert "\nUploads start executions. No photo was uploaded before.\n" in deployed.stdout
    cloudformation = stack.client("cloudformation")
    (described,) = cloudformation.describe_stacks(StackName=NAME)["Stacks"]
    assert {tag["Key"]: tag["Value"] for tag in described["Tags"]} == {
        "project": "scones-unlimited",
        "stage": STAGE,
    }
    # ministack does not give roles their boundary; tests/unit/test_stages.py tests what it allows.
    given = {one["ParameterKey"]: one["ParameterValue"] for one in described["Parameters"]}
    assert given["PermissionsBoundary"] == roles["BoundaryArn"]
    assert_no_function_compiles(stack)
    assert_libraries_match_architecture(stack, "x86_64")
    bucket = next(
        one["OutputValue"] for one in described["Outputs"] if one["OutputKey"] == "UploadBucketName"
    )
    stack.client("s3").put_object(Bucket=bucket, Key="archive/left.jpg", Body=b"a remaining photo")
    assert_earlier_photos_are_classified(stack, bucket, workflow)

    destroyed = run(stack, sys.executable, "-m", "scones", "destroy", "--stack", NAME, "--yes", **workflow)

    assert destroyed.returncode == 0, destroyed.stderr
    assert NAME not in str(cloudformation.describe_stacks()["Stacks"])


def assert_earlier_photos_are_classified(stack: Stack, bucket: str, workflow: Mapping[str, str]) -> None:
    """The workflow's role may activate a stack that has photos already."""
    s3 = stack.client("s3")
    s3.delete_object(Bucket=bucket, Key=activation.MARKER)
    s3.put_object(Bucket=bucket, Key="uploads/early.jpg", Body=b"no photo")

    command = (sys.executable, "-m", "scones", "activate", "--stack", NAME, "--json")
    activated = run(stack, *command, **workflow)

    assert activated.returncode == 0, activated.stderr
    report = json.loads(activated.stdout)
    assert (report["already_active"], report["backfill"]["done"]) == (False, 1)


def assert_no_function_compiles(stack: Stack) -> None:
    """Every deployed function contains bytecode for its runtime's version, which Python uses unchecked."""
    runtime = f"python{sys.version_info.major}.{sys.version_info.minor}"
    functions = stack.client("lambda").list_functions()["Functions"]
    ours = [one for one in functions if one["FunctionName"].startswith(NAME)]
    assert {one["Runtime"] for one in ours} == {runtime}
    for one in ours:
        found = stack.client("lambda").get_function(FunctionName=one["FunctionName"])
        with urlopen(found["Code"]["Location"]) as response:
            package = zipfile.ZipFile(io.BytesIO(response.read()))
        compiled = package.read(f"__pycache__/app.{sys.implementation.cache_tag}.pyc")
        assert compiled[:8] == importlib.util.MAGIC_NUMBER + UNCHECKED
        assert marshal.loads(compiled[16:]).co_filename == "/var/task/app.py"
        sources = [name for name in package.namelist() if name.endswith(".py")]
        assert len(sources) == sum(name.endswith(".pyc") for name in package.namelist())


def assert_libraries_match_architecture(stack: Stack, architecture: str) -> None:
    """The built template, its libraries and the deployed functions agree on the architecture."""
    build = ROOT / ".aws-sam" / "build"
    template = yaml_parse((build / "template.yaml").read_text())
    functions = stack.client("lambda").list_functions()["Functions"]
    assert template["Globals"]["Function"]["Architectures"] == [architecture]
    assert machines(build) == {architecture}
    assert {tuple(one["Architectures"]) for one in functions if one["FunctionName"].startswith(NAME)} == {
        (architecture,)
    }


def test_by_default_libraries_and_template_are_for_arm64(stack):
    """SAM takes the architecture from the template: `sam local invoke`, and `sam deploy` without options."""
    built = run(stack, "make", "build")

    assert built.returncode == 0, built.stderr
    build = ROOT / ".aws-sam" / "build"
    template = yaml_parse((build / "template.yaml").read_text())
    assert machines(build) == {"arm64"}
    assert template["Globals"]["Function"]["Architectures"] == ["arm64"]


@pytest.mark.parametrize("name", ["scones-unlimited-dev", "scones-unlimited-prod", "scones-unlimited-roles"])
def test_the_role_cannot_change_another_stage(stack, workflow, name):
    keys = (workflow["AWS_ACCESS_KEY_ID"], workflow["AWS_SECRET_ACCESS_KEY"])
    cloudformation = boto3.Session(*keys, region_name=stack.region).client(
        "cloudformation", endpoint_url=stack.endpoint_url
    )

    with pytest.raises(ClientError, match="not authorized to perform: cloudformation:CreateChangeSet"):
        cloudformation.create_change_set(StackName=name, ChangeSetName="one", TemplateBody="{}")
    with pytest.raises(ClientError, match="not authorized to perform: cloudformation:DeleteStack"):
        cloudformation.delete_stack(StackName=name)
