"""Stages that share an account cannot reach each other, by the emulator's evaluation of IAM policies."""

import itertools
from typing import Any

import pytest
from ministack.core.iam_evaluator import EvalContext, ParsedStatement, evaluate, parse_policy_document

from tests.cloudformation import ACCOUNT, REGION, arns, resolve
from tests.unit.test_template import MONITORED, documents, of_type

STACKS = {
    "dev": "scones-unlimited-dev",
    "prod": "scones-unlimited-prod",
    "review": "scones-unlimited-review7",
}
"""A stack of each of GitHub's stages."""
PAIRS = list(itertools.permutations(STACKS, 2))
CODE = "arn:aws:s3:::aws-sam-cli-managed-default-samclisourcebucket-1a2b3c"
WORKSPACE = "arn:aws:s3:::scones-unlimited-roles-workspacebucket-1a2b3c"

type Policies = list[list[ParsedStatement]]


def github(stage: str) -> dict[str, Any]:
    """The resources of .github/oidc.yaml for a stage."""
    return resolve(
        ".github/oidc.yaml", f"scones-unlimited-github-{stage}", Repository="owner/name", Stage=stage
    )


def boundary_arn(stage: str) -> str:
    return arns(
        ".github/oidc.yaml", f"scones-unlimited-github-{stage}", Repository="owner/name", Stage=stage
    )["Boundary"]


def monitored(stack: str) -> dict[str, str]:
    """The parameters of a stack as `make deploy` sets them."""
    endpoint = f"{stack}-20261201-101010-1a2b"
    return MONITORED | {
        "EndpointName": endpoint,
        "CaptureUri": f"s3://{WORKSPACE.rpartition(':')[2]}/captures",
        "BaselineUri": "",
    }


def policies_of(resource: dict[str, Any]) -> Policies:
    properties = resource.get("Properties", resource)
    return [parse_policy_document(one) for one in documents(properties.get("Policies", properties))]


def everything_of(stage: str) -> set[str]:
    """The ARNs of what a stage has in the account."""
    stack = STACKS[stage]
    found = set(arns("template.yaml", stack, **monitored(stack)).values())
    found |= set(
        arns(".github/oidc.yaml", f"scones-unlimited-github-{stage}", Repository="o/n", Stage=stage).values()
    )
    found.discard(f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.githubusercontent.com")
    machines = {one for one in found if ":stateMachine:" in one}
    found |= {one.replace(":stateMachine:", ":execution:") + ":1a2b" for one in machines}
    found |= {one.replace(":stateMachine:", ":mapRun:") + "/photos:1a2b" for one in machines}
    bucket = next(one for one in found if one.startswith("arn:aws:s3:::"))
    found |= {f"{bucket}/{key}" for key in ("uploads/a.jpg", "activation/1", "backfills/1/a.json")}
    endpoint = monitored(stack)["EndpointName"]
    return found | {
        f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{stack}/1a2b",
        f"arn:aws:sqs:{REGION}:{ACCOUNT}:{stack}-activation-1a2b",
        f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{stack}-activation-1a2b",
        f"arn:aws:cloudwatch::{ACCOUNT}:dashboard/{stack}-{REGION}",
        f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/{endpoint}",
        f"{CODE}/{stack}/0123456789abcdef",
        f"{WORKSPACE}/captures/{endpoint}/AllTraffic/2026/12/01/10/a.jsonl",
    }


def may(policies: Policies, action: str, resource: str, stage: str, *limits: Policies) -> bool:
    """Whether policies allow an action on something of a stage, which has its tags and its boundary."""
    tag = {"dev": "dev", "prod": "prod", "review": "review7"}[stage]
    service = {
        "iam:permissionsboundary": boundary_arn(stage),
        "aws:resourcetag/stage": tag,
        "aws:resourcetag/project": "scones-unlimited",
        "aws:requesttag/stage": tag,
        "aws:requesttag/project": "scones-unlimited",
        "s3:prefix": f"captures/{STACKS[stage]}" if WORKSPACE in resource else "uploads/",
        "iam:passedtoservice": "cloudformation.amazonaws.com"
        if "github" in resource
        else "lambda.amazonaws.com",
    }
    context = EvalContext(
        principal_arn=f"arn:aws:iam::{ACCOUNT}:role/any",
        principal_type="AssumedRole",
        principal_account=ACCOUNT,
        action=action,
        resource_arn=resource,
        region=REGION,
        secure_transport=True,
        service_context=service,
    )
    return evaluate(context, policies, *limits).decision == "Allow"


WITHOUT_RESOURCES = {
    *("cloudwatch:DescribeAlarms", "logs:DescribeIndexPolicies", "logs:DescribeLogGroups"),
    *("logs:DescribeResourcePolicies", "sns:GetSubscriptionAttributes", "sns:SetSubscriptionAttributes"),
    "sns:Unsubscribe",
}
"""Actions that AWS authorizes for all resources or for none (Service Authorization Reference)."""


def applies(action: str, arn: str) -> bool:
    """Whether action and resource are of the same service."""
    return action.partition(":")[0] == arn.split(":")[2]


def granted(policies: Policies) -> set[str]:
    return {action for one in itertools.chain.from_iterable(policies) for action in one.actions}


@pytest.mark.parametrize("role", ["DeployRole", "CloudFormationRole"])
@pytest.mark.parametrize(("own", "other"), PAIRS)
def test_github_reaches_nothing_of_another_stage(role, own, other):
    policies = policies_of(github(own)[role])
    actions = granted(policies) - WITHOUT_RESOURCES

    reached = {
        (action, arn)
        for action, arn in itertools.product(actions, everything_of(other))
        if applies(action, arn) and may(policies, action, arn, other)
    }

    assert reached == set()


@pytest.mark.parametrize("role", ["DeployRole", "CloudFormationRole"])
@pytest.mark.parametrize("stage", STACKS)
def test_github_may_do_something_of_its_stage_with_each_action(role, stage):
    policies = policies_of(github(stage)[role])
    transform = f"arn:aws:cloudformation:{REGION}:aws:transform/Serverless-2016-10-31"
    places = everything_of(stage) | {transform, f"arn:aws:s3:::{STACKS[stage]}-uploadbucket"}

    useless = {
        action for action in granted(policies) if not any(may(policies, action, arn, stage) for arn in places)
    }

    assert useless == set()


EVERYTHING = [parse_policy_document({"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})]


@pytest.mark.parametrize(("own", "other"), PAIRS)
def test_a_role_that_a_branch_lets_do_anything_reaches_nothing_of_another_stage(own, other):
    limit = policies_of(github(own)["Boundary"])
    actions = {action for action in granted(limit) if action.split(":")[0] not in {"logs", "xray"}}

    reached = {
        (action, arn)
        for action in actions | {"iam:CreateRole", "iam:PassRole", "sts:AssumeRole", "lambda:CreateFunction"}
        for arn in everything_of(other)
        if may(EVERYTHING, action, arn, other, limit)
    }

    assert reached == set()


def test_a_stack_calls_another_stages_endpoint_only_if_that_is_named_and_reaches_nothing_else_of_it():
    named = monitored(STACKS["dev"])["EndpointName"]
    limit = policies_of(
        resolve(
            ".github/oidc.yaml",
            "scones-unlimited-github-review",
            Repository="owner/name",
            Stage="review",
            EndpointName=named,
        )["Boundary"]
    )

    reached = {
        (action, arn)
        for action in granted(limit) - WITHOUT_RESOURCES
        for arn in everything_of("dev")
        if applies(action, arn) and may(EVERYTHING, action, arn, "dev", limit)
    }

    endpoint = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/{named}"
    assert {one for one in reached if not one[0].startswith("logs:")} == {
        ("sagemaker:InvokeEndpoint", endpoint)
    }


@pytest.mark.parametrize("workflow", ["STANDARD", "EXPRESS"])
@pytest.mark.parametrize("stage", STACKS)
def test_the_boundary_allows_what_the_roles_of_the_template_do(stage, workflow):
    limit, stack = policies_of(github(stage)["Boundary"]), STACKS[stage]
    parameters = monitored(stack) | {"WorkflowType": workflow, "CapturePercent": "1"}
    resources = resolve("template.yaml", stack, **parameters)
    roles = of_type(resources, "AWS::IAM::Role") | of_type(resources, "AWS::IAM::Policy")

    cut = set()
    for name, role in roles.items():
        for one in itertools.chain.from_iterable(policies_of(role)):
            for action, resource in itertools.product(one.actions, one.resources):
                concrete = resource if resource == "*" else resource.replace("*", "any")
                if not may(EVERYTHING, action, concrete, stage, limit):
                    cut.add((name, action, resource))

    assert cut == set()


def test_every_role_of_the_stack_has_the_boundary():
    boundary = boundary_arn("dev")
    stack = STACKS["dev"]
    bounded = of_type(
        resolve("template.yaml", stack, **monitored(stack), PermissionsBoundary=boundary), "AWS::IAM::Role"
    )
    free = of_type(resolve("template.yaml", stack, **monitored(stack)), "AWS::IAM::Role")

    assert {one.get("PermissionsBoundary") for one in bounded.values()} == {boundary}
    assert {one.get("PermissionsBoundary") for one in free.values()} == {None}


@pytest.mark.parametrize(
    "action",
    ["iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:PutRolePermissionsBoundary"],
)
def test_github_makes_and_changes_only_roles_within_the_boundary(action):
    policies = policies_of(github("dev")["CloudFormationRole"])
    role = f"arn:aws:iam::{ACCOUNT}:role/{STACKS['dev']}-any"

    assert may(policies, action, role, "dev")
    # `may` gives a role the boundary of the stage that it is told.
    assert not may(policies, action, role, "prod")


def test_the_workflow_hands_its_role_to_cloudformation_only():
    policies = policies_of(github("dev")["DeployRole"])
    own = arns(".github/oidc.yaml", "scones-unlimited-github-dev", Repository="owner/name", Stage="dev")[
        "CloudFormationRole"
    ]

    assert may(policies, "iam:PassRole", own, "dev")
    assert not may(policies, "iam:PassRole", own.replace("-github-", "-"), "dev")
