"""Check, before anything is created, that an account lets a deployment and its later updates succeed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from model.sagemaker.account import Account, AccountError, connect, explain, paginate
from model.sagemaker.endpoint import Endpoint, EndpointError, Hosting

type Status = Literal["ok", "unknown", "failed"]

SERVERLESS_QUOTA = "Maximum total concurrency that can be allocated across all serverless endpoints"
LAMBDA_MINIMUM = 10
"""Concurrent executions below which even a lone photo may be throttled: three functions, and retries.
New accounts have 10 (Lambda Developer Guide, "Lambda quotas")."""
LAMBDA_COMFORTABLE = 100
"""Below this a burst of photos mostly waits for Lambda."""

ACTIONS: Mapping[str, tuple[str, ...]] = {
    "scones deploy": (
        "sagemaker:CreateEndpoint",
        "sagemaker:CreateEndpointConfig",
        "sagemaker:CreateModel",
        "sagemaker:CreateModelPackage",
        "sagemaker:UpdateEndpoint",
        "application-autoscaling:RegisterScalableTarget",
        "cloudwatch:PutMetricAlarm",
    ),
    "scones image --push": ("ecr:CreateRepository", "ecr:GetAuthorizationToken", "ecr:PutImage"),
    "make deploy": (
        "cloudformation:CreateChangeSet",
        "iam:CreateRole",
        "lambda:CreateFunction",
        "states:CreateStateMachine",
    ),
}
"""The permissions that most often are missing, by the command that fails without them."""


@dataclass(frozen=True)
class Check:
    """What was checked, the result, and what to do about it, if anything.

    The status is ``unknown`` if the caller may not see the answer; only ``failed`` predicts a failure.
    """

    name: str
    status: Status
    finding: str
    advice: str = ""


def check_account() -> tuple[list[Check], Account | None]:
    """Check region and credentials; return the account too, if both are usable."""
    region = boto3.Session().region_name
    if not region:
        advice = "Set AWS_REGION, or run `aws configure set region us-east-1`."
        return [Check("region", "failed", "not set", advice)], None
    checks = [Check("region", "ok", region)]
    try:
        account = connect()
    except AccountError as error:
        advice = "Then run `aws sts get-caller-identity`."
        return [*checks, Check("credentials", "failed", str(error), advice)], None
    return [*checks, Check("credentials", "ok", f"account {account.id}")], account


def needed_instances(hosting: Hosting, serving: Endpoint | None) -> int:
    """Return how many instances of the type exist at once, at most, while deploying, updating or scaling out.

    An update starts a second fleet beside the first (blue/green), of at least two instances for the canary;
    before that, the new model passes a smoke test on one instance of its own.
    """
    current = max(hosting.instances, serving.instances if serving else 0)
    return max(hosting.max_instances, current + max(2, current))


def check_quotas(account: Account, hosting: Hosting, serving: Endpoint | None) -> Iterator[Check]:
    """Compare what a deployment and its updates need with the account's quotas."""
    if hosting.instance_type:
        name = f"{hosting.instance_type} for endpoint usage"
        yield _check_quota(account, name, needed_instances(hosting, serving), "instances")
    else:
        # The configurations of the endpoint and of the smoke test count at the same time.
        yield _check_quota(account, SERVERLESS_QUOTA, 2 * hosting.concurrency, "concurrent requests")
    yield _check_lambda(account)


def _check_quota(account: Account, name: str, needed: int, unit: str) -> Check:
    client = account.session.client("service-quotas")
    try:
        quotas = paginate(client, "list_service_quotas", "Quotas", ServiceCode="sagemaker")
        value = next((quota["Value"] for quota in quotas if quota["QuotaName"] == name), None)
    except (BotoCoreError, ClientError) as error:
        advice = "Look it up: Service Quotas, Amazon SageMaker."
        return Check("quota", "unknown", f"{name}: {explain(error)}", advice)
    if value is None:
        return Check("quota", "unknown", f"{name}: not listed in {account.region}")
    if value < needed:
        finding = f"{name} is {value:g}; a deployment and its updates need up to {needed} {unit}"
        where = f"(Service Quotas, Amazon SageMaker, region {account.region})"
        return Check("quota", "failed", finding, f"Request an increase to {needed} {where}.")
    return Check("quota", "ok", f"{name} is {value:g}, {needed} needed")


def _check_lambda(account: Account) -> Check:
    try:
        limits = account.session.client("lambda").get_account_settings()["AccountLimit"]
    except (BotoCoreError, ClientError) as error:
        return Check("quota", "unknown", f"Lambda concurrency: {explain(error)}")
    unreserved = limits["UnreservedConcurrentExecutions"]
    finding = f"Lambda has {unreserved} unreserved concurrent executions"
    advice = f"Request an increase to {LAMBDA_COMFORTABLE} or more (Service Quotas, AWS Lambda)."
    if unreserved < LAMBDA_MINIMUM:
        return Check("quota", "failed", f"{finding}; the pipeline needs {LAMBDA_MINIMUM}", advice)
    if unreserved < LAMBDA_COMFORTABLE:
        return Check("quota", "ok", f"{finding}: enough, but bursts of photos wait", advice)
    return Check("quota", "ok", finding)


def check_permissions(account: Account) -> Iterator[Check]:
    """Simulate the caller's policies for the actions that commands fail without, as far as the caller may."""
    try:
        denied = _denied_actions(account)
    except (BotoCoreError, ClientError) as error:
        yield Check("permissions", "unknown", f"cannot be simulated: {explain(error)}")
        return
    advice = "Attach the stack scones-unlimited-roles' DeployerPolicyArn (docs/aws.md)."
    for command, actions in ACTIONS.items():
        if missing := [action for action in actions if action in denied]:
            yield Check("permissions", "failed", f"{command} lacks {', '.join(missing)}", advice)
        else:
            yield Check("permissions", "ok", f"{command}: {len(actions)} actions allowed")


def _principal(caller: str) -> str:
    """Return the role of an assumed-role session, whose own ARN IAM does not simulate."""
    account, _, session = caller.partition(":assumed-role/")
    if not session:
        return caller
    return f"{account.replace(':sts:', ':iam:')}:role/{session.partition('/')[0]}"


def _denied_actions(account: Account) -> set[str]:
    caller = account.session.client("sts").get_caller_identity()["Arn"]
    results = paginate(
        account.session.client("iam"),
        "simulate_principal_policy",
        "EvaluationResults",
        PolicySourceArn=_principal(caller),
        ActionNames=[action for actions in ACTIONS.values() for action in actions],
    )
    return {result["EvalActionName"] for result in results if result["EvalDecision"] != "allowed"}


def require_quotas(account: Account, hosting: Hosting, serving: Endpoint | None) -> None:
    """Raise `EndpointError` if a quota is known to be too low for a deployment and its updates."""
    for check in check_quotas(account, hosting, serving):
        if check.status == "failed":
            raise EndpointError(f"{check.finding}. {check.advice}")
