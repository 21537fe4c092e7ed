"""Whom the deploy role for GitHub trusts: rendered by moto, its trust policy evaluated by ministack."""

import boto3
import pytest
from ministack.core.iam_evaluator import EvalContext, evaluate_trust_policy
from moto import mock_aws

from tests.conftest import ROOT

ISSUER = "token.actions.githubusercontent.com"
PROVIDER = f"arn:aws:iam::123456789012:oidc-provider/{ISSUER}"
REPOSITORY = {"Repository": "ada/scones", "Stage": "dev", "ProviderArn": PROVIDER}
IDS = {"OwnerId": "11", "RepositoryId": "22"}


def trust_policy(**parameters: str) -> dict:
    with mock_aws():
        boto3.client("cloudformation", "us-east-1").create_stack(
            StackName="github",
            TemplateBody=(ROOT / ".github" / "oidc.yaml").read_text(),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[
                {"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()
            ],
        )
        roles = boto3.client("iam", "us-east-1").list_roles()["Roles"]
    (policy,) = (role["AssumeRolePolicyDocument"] for role in roles if "DeployRole" in role["RoleName"])
    return policy


def trusts(policy: dict, subject: str, audience: str = "sts.amazonaws.com") -> bool:
    token = {f"{ISSUER}:sub": subject, f"{ISSUER}:aud": audience}
    context = EvalContext(
        principal_arn=PROVIDER,
        principal_type="FederatedUser",
        principal_account="123456789012",
        action="sts:AssumeRoleWithWebIdentity",
        resource_arn="*",
        region="us-east-1",
        principal_keys=token,
        service_context=token,
    )
    return evaluate_trust_policy(policy, PROVIDER, context)


def test_a_repository_with_plain_subjects_gets_the_role():
    assert trusts(trust_policy(**REPOSITORY), "repo:ada/scones:environment:dev")


def test_a_repository_whose_subjects_have_ids_gets_the_role():
    assert trusts(trust_policy(**REPOSITORY, **IDS), "repo:ada@11/scones@22:environment:dev")


@pytest.mark.parametrize(
    "subject",
    [
        "repo:eve/scones:environment:dev",
        "repo:ada/other:environment:dev",
        "repo:ada/scones:environment:prod",
        "repo:ada/scones:ref:refs/heads/main",
        "repo:ada/scones:pull_request",
        "repo:ada@11/scones@22:environment:dev",
    ],
)
def test_no_other_plain_subject_gets_the_role(subject):
    assert not trusts(trust_policy(**REPOSITORY), subject)


@pytest.mark.parametrize(
    "subject",
    [
        "repo:ada@12/scones@22:environment:dev",
        "repo:ada@11/scones@23:environment:dev",
        "repo:ada@11/scones@22:environment:prod",
        "repo:ada/scones:environment:dev",
    ],
    ids=["name taken by another owner", "another repository", "another stage", "a subject without ids"],
)
def test_with_ids_no_other_subject_gets_the_role(subject):
    assert not trusts(trust_policy(**REPOSITORY, **IDS), subject)


def test_a_token_for_another_service_gets_nothing():
    assert not trusts(trust_policy(**REPOSITORY), "repo:ada/scones:environment:dev", "vault.example.com")
