"""What model/roles.yaml allows SageMaker, deployers and users of Studio, by the emulator's evaluation."""

import ast
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from ministack.core.iam_evaluator import evaluate, parse_policy_document

from tests.cloudformation import ACCOUNT, REGION, resolve
from tests.conftest import ROOT
from tests.unit.test_template import KEY, ROLES, documents
from tests.unit.test_template_policies import request

BUCKET = ROLES["WorkspaceBucketPolicy"]["Properties"]["PolicyDocument"]["Statement"][0]["Resource"][0]


def arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"


def may(who: str, action: str, resource: str, **context: Any) -> bool:
    """Whether a role or policy allows something, with the policies that are attached to the role."""
    properties = ROLES[who]["Properties"]
    policies = documents(properties)
    for attached in properties.get("ManagedPolicyArns", []):
        policies += documents(ROLES[attached.rpartition("-")[2]])
    parsed = [parse_policy_document(policy) for policy in policies]
    return evaluate(request(action, resource, **context), parsed).decision == "Allow"


# ── SageMaker ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("folder", ["data", "models", "training", "captures", "other"])
def test_sagemaker_reads_data_and_models_and_writes_models_and_captures(folder):
    file = f"{BUCKET}/{folder}/a"

    assert may("ExecutionRole", "s3:GetObject", file) == (folder in {"data", "models", "training"})
    for action in ("s3:PutObject", "s3:AbortMultipartUpload"):
        assert may("ExecutionRole", action, file) == (folder in {"training", "captures"})
    assert may("ExecutionRole", "s3:ListBucket", BUCKET)


PULL = ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage")
"""Amazon ECR User Guide, "Using Amazon ECR Images with Amazon SageMaker AI"."""


@pytest.mark.parametrize("action", PULL)
def test_sagemaker_pulls_the_projects_image_and_the_built_in_algorithms(action):
    built_in = f"arn:aws:ecr:{REGION}:811284229777:repository/image-classification"

    assert may("ExecutionRole", action, arn("ecr", "repository/scones-unlimited"))
    assert may("ExecutionRole", action, built_in)
    assert not may("ExecutionRole", action, arn("ecr", "repository/other"))
    assert may("ExecutionRole", "ecr:GetAuthorizationToken", "*")


def test_sagemaker_logs_and_publishes_its_own_metrics_only():
    for action in ("CreateLogGroup", "CreateLogStream", "PutLogEvents", "DescribeLogStreams"):
        for group in ("TrainingJobs", "Endpoints/scones-unlimited-dev"):
            assert may("ExecutionRole", f"logs:{action}", arn("logs", f"log-group:/aws/sagemaker/{group}:x"))
    for namespace, allowed in (("AWS/SageMaker", True), ("/aws/sagemaker/Endpoints", True), ("Other", False)):
        published = may("ExecutionRole", "cloudwatch:PutMetricData", "*", cloudwatch_namespace=namespace)
        assert published is allowed


def test_sagemaker_reads_what_an_update_needs():
    """Alarms for the rollback, and the package from which a model is created."""
    assert may("ExecutionRole", "cloudwatch:DescribeAlarms", arn("cloudwatch", "alarm:scones-unlimited-dev"))
    package = arn("sagemaker", "model-package/scones-unlimited/3")
    assert may("ExecutionRole", "sagemaker:DescribeModelPackage", package)


@pytest.mark.parametrize("who", ["ExecutionRole", "StudioRole"])
def test_a_key_of_your_own_encrypts_models_captures_and_volumes(who):
    """The instances' volumes by a grant, which only AWS's services may use (API_CreateEndpointConfig)."""
    for action in ("Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey"):
        assert may(who, f"kms:{action}", KEY)
    assert may(who, "kms:CreateGrant", KEY, kms_grantisforawsresource="true")
    assert not may(who, "kms:CreateGrant", KEY, kms_grantisforawsresource="false")
    assert not may(who, "kms:CreateGrant", KEY)


# ── Deployers ───────────────────────────────────────────────────────────────────────────────────────────────

CLIENTS = {
    "sagemaker": "sagemaker",
    "autoscaling": "application-autoscaling",
    "cloudwatch": "cloudwatch",
    "cloudformation": "cloudformation",
    "ecr": "ecr",
    "logs": "logs",
    "s3": "s3",
    "runtime": "sagemaker-runtime",
    "pricing": "pricing",
}
"""The services of the clients in the code, by the names of their variables."""
RESOURCES = {
    "sagemaker": ("endpoint", "endpoint-config", "model", "training-job"),
    "ecr": ("repository/scones-unlimited",),
}
PREFIXES = {"sagemaker-runtime": "sagemaker"}
NAMES = {
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:DeleteObjects": "s3:DeleteObjectVersion",
}
"""Operations whose permission has another name (Service Authorization Reference)."""
NOT_DEPLOYERS = {"cloudformation:DeleteStack", "sagemaker:DeleteDomain"}
"""Who deletes a stack has an administrator's permissions, as who creates one."""


def calls() -> Iterator[str]:
    """The permission of each call to AWS in the code of the model's life, by the names of boto3's methods."""
    paths = [*(ROOT / "model").rglob("*.py"), ROOT / "pipeline" / "teardown.py"]
    methods = {
        variable: boto3.client(service, "us-east-1").meta.method_to_api_mapping
        for variable, service in CLIENTS.items()
    }
    for node in (node for path in paths for node in ast.walk(ast.parse(path.read_text()))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = getattr(node.func.value, "attr", getattr(node.func.value, "id", ""))
        method = node.func.attr
        if method == "get_paginator" and isinstance(node.args[0], ast.Constant):
            method = node.args[0].value
        if method in methods.get(owner, {}):
            service = PREFIXES.get(CLIENTS[owner], CLIENTS[owner])
            action = f"{service}:{methods[owner][method]}"
            yield NAMES.get(action, action)


def deployers() -> set[str]:
    statements = ROLES["DeployerPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    found = [one["Action"] for one in statements]
    return {action for one in found for action in (one if isinstance(one, list) else [one])}


@pytest.mark.parametrize("action", sorted(set(calls()) - NOT_DEPLOYERS))
def test_deployers_may_make_every_call_of_the_commands(action):
    assert action in deployers()


PUSH = (
    *("ecr:BatchCheckLayerAvailability", "ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload"),
    *("ecr:PutImage", "ecr:UploadLayerPart", "ecr:BatchGetImage"),
)
"""Amazon ECR User Guide, "IAM permissions for pushing an image"."""


def test_docker_may_push_the_projects_image_with_a_deployers_token():
    for action in PUSH:
        assert may("DeployerPolicy", action, arn("ecr", "repository/scones-unlimited"))
        assert not may("DeployerPolicy", action, arn("ecr", "repository/other"))
    assert may("DeployerPolicy", "ecr:GetAuthorizationToken", "*")


NAMED = [
    ("sagemaker", "endpoint/scones-unlimited-dev", "sagemaker:UpdateEndpoint"),
    ("sagemaker", "endpoint-config/scones-unlimited-dev-1", "sagemaker:CreateEndpointConfig"),
    ("sagemaker", "model/scones-unlimited-dev-1", "sagemaker:CreateModel"),
    ("sagemaker", "model-package/scones-unlimited/1", "sagemaker:CreateModelPackage"),
    ("sagemaker", "training-job/scones-unlimited-1", "sagemaker:StopTrainingJob"),
    ("cloudwatch", "alarm:scones-unlimited-dev-errors", "cloudwatch:PutMetricAlarm"),
    ("cloudwatch", "alarm:TargetTracking-endpoint/scones-unlimited-dev", "cloudwatch:PutMetricAlarm"),
    ("logs", "log-group:/aws/sagemaker/TrainingJobs:log-stream:scones-unlimited-1", "logs:GetLogEvents"),
    ("logs", "log-group:/aws/sagemaker/Endpoints/scones-unlimited-dev", "logs:DeleteLogGroup"),
]


@pytest.mark.parametrize(("service", "resource", "action"), NAMED)
def test_deployers_change_only_what_is_named_after_the_project(service, resource, action):
    assert may("DeployerPolicy", action, arn(service, resource))
    assert not may("DeployerPolicy", action, arn(service, resource.replace("scones-unlimited", "other"))) or (
        "TrainingJobs" in resource  # all jobs share a log group
    )


def test_deployers_register_packages_in_the_projects_group():
    group = arn("sagemaker", "model-package-group/scones-unlimited")

    assert may("DeployerPolicy", "sagemaker:CreateModelPackageGroup", group)
    assert may("DeployerPolicy", "sagemaker:AddTags", group)


def test_deployers_pass_the_execution_role_to_sagemaker_alone():
    role = f"arn:aws:iam::{ACCOUNT}:role/scones-unlimited-dev-ExecutionRole"

    assert may("DeployerPolicy", "iam:PassRole", role, iam_passedtoservice="sagemaker.amazonaws.com")
    assert not may("DeployerPolicy", "iam:PassRole", role, iam_passedtoservice="lambda.amazonaws.com")
    assert not may("DeployerPolicy", "iam:PassRole", role)


def test_deployers_scale_endpoints_and_nothing_else():
    scaled = {True: "sagemaker", False: "dynamodb"}
    for allowed, namespace in scaled.items():
        context = {"application-autoscaling_service-namespace": namespace}
        for action in ("RegisterScalableTarget", "PutScalingPolicy", "TagResource"):
            done = may("DeployerPolicy", f"application-autoscaling:{action}", "*", **context)
            assert done is allowed
    service = "sagemaker.application-autoscaling.amazonaws.com"
    name = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
    role = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/{service}/{name}"
    create = "iam:CreateServiceLinkedRole"
    assert may("DeployerPolicy", create, role, iam_awsservicename=service)
    assert not may("DeployerPolicy", create, role, iam_awsservicename="lex.amazonaws.com")


def test_autoscaling_changes_capacities_on_behalf_of_a_deployer():
    """Application Auto Scaling User Guide, "SageMaker AI endpoint variants": the caller needs it too."""
    endpoint = arn("sagemaker", "endpoint/scones-unlimited-dev")

    assert may("DeployerPolicy", "sagemaker:UpdateEndpointWeightsAndCapacities", endpoint)


def test_deployers_stage_files_in_parts_and_empty_the_bucket():
    for action in ("GetObject", "PutObject", "AbortMultipartUpload", "DeleteObject", "DeleteObjectVersion"):
        assert may("DeployerPolicy", f"s3:{action}", f"{BUCKET}/data/1/a.jpg")
    for action in ("ListBucket", "ListBucketVersions"):
        assert may("DeployerPolicy", f"s3:{action}", BUCKET)


def test_studio_and_a_key_of_your_own_exist_only_on_request():
    plain = resolve("model/roles.yaml")

    gone = {"StudioRole", "StudioDomain", "StudioUser", "KeyPolicy"}
    assert ROLES.keys() - plain.keys() == gone
    assert not plain["ExecutionRole"]["Properties"].get("ManagedPolicyArns")


def test_doctor_may_read_quotas_and_simulate_its_callers_permissions():
    assert {"servicequotas:ListServiceQuotas", "lambda:GetAccountSettings"} <= deployers()
    assert may("DeployerPolicy", "pricing:GetProducts", "*")
    assert "iam:SimulatePrincipalPolicy" in deployers()


# ── Studio ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_studios_users_are_deployers_who_run_applications():
    assert may("StudioRole", "sagemaker:CreateEndpoint", arn("sagemaker", "endpoint/scones-unlimited-dev"))
    for kind in ("App", "Space"):
        for do in ("Create", "Delete", "Describe"):
            assert may("StudioRole", f"sagemaker:{do}{kind}", arn("sagemaker", f"{kind.lower()}/d-1/lab"))
    for action, resource in (
        ("CreatePresignedDomainUrl", "user-profile/d-1/ada"),
        ("DescribeDomain", "domain/d-1"),
        ("DescribeUserProfile", "user-profile/d-1/ada"),
        ("UpdateSpace", "space/d-1/lab"),
        ("AddTags", "app/d-1/lab"),
    ):
        assert may("StudioRole", f"sagemaker:{action}", arn("sagemaker", resource))
    for kind in ("Apps", "Domains", "Spaces", "UserProfiles"):
        assert may("StudioRole", f"sagemaker:List{kind}", "*")


def test_studio_tags_a_space_only_while_it_creates_it():
    space = arn("sagemaker", "space/d-1/lab")

    assert may("StudioRole", "sagemaker:AddTags", space, sagemaker_taggingaction="CreateSpace")
    assert not may("StudioRole", "sagemaker:AddTags", space)


def test_an_idle_application_is_stopped_and_the_network_is_the_chosen_one():
    domain = ROLES["StudioDomain"]["Properties"]
    settings = domain["DefaultUserSettings"]
    idle = settings["JupyterLabAppSettings"]["AppLifecycleManagement"]["IdleSettings"]

    assert (idle["LifecycleManagement"], idle["IdleTimeoutInMinutes"]) == ("ENABLED", 60)
    assert settings["ExecutionRole"].endswith("-StudioRole")
    assert (domain["VpcId"], domain["SubnetIds"]) == ("vpc-1", "subnet-1")
    assert (
        domain["AppNetworkAccessType"] == "PublicInternetOnly"
    )  # the default, said because it is a decision
    for name in ("StudioDomain", "StudioUser"):
        assert {"Key": "project", "Value": "scones-unlimited"} in ROLES[name]["Properties"]["Tags"]
