"""Every role, policy and resource policy of the templates under parliament, a linter of IAM policies.

A finding is mended, or it is accepted here with its reason. https://github.com/duo-labs/parliament
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cloudformation import ACCOUNT, resolve, translate
from tests.conftest import ROOT

LINTER = ("tool", "run", "--quiet", "--from", "parliament==1.6.4", "--with", "setuptools<81", "parliament")
"""parliament imports ``pkg_resources``, which setuptools 81 no longer has."""

CAPTURES = {"CaptureUri": "s3://scones-unlimited-workspace/captures", "CapturePercent": "10"}
BASELINE = {"BaselineUri": "s3://scones-unlimited-workspace/models/1/baseline.json"}
PROVIDER = f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.githubusercontent.com"
DEPLOYMENTS: dict[str, list[dict[str, str]]] = {
    "template.yaml": [
        {"EndpointName": "scones-unlimited-prod", **CAPTURES, **BASELINE},
        {"EndpointName": "scones-unlimited-prod", "WorkflowType": "EXPRESS"},
    ],
    "model/roles.yaml": [
        {
            "Studio": "yes",
            "StudioVpcId": "vpc-0a1b2c3d",
            "KmsKeyArn": f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        },
        {},
    ],
    ".github/oidc.yaml": [
        {"Repository": "owner/name", "Stage": "review"},
        {"Repository": "owner/name", "Stage": "prod", "ProviderArn": PROVIDER},
    ],
    "events/subscriber.yaml": [{"ResultsBusName": "scones-unlimited-prod-results"}],
}
"""Parameters with which each template has all of its policies, both branches of a condition among them."""


class Finding(NamedTuple):
    """What parliament says about a resource: an issue, and the action that it is about or a detail."""

    resource: str
    issue: str
    about: str


class Accepted(NamedTuple):
    """Findings of one issue about one resource that stay, and why. ``about`` is a regular expression."""

    resource: str
    issue: str
    about: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        same = (finding.resource, finding.issue) == (self.resource, self.issue)
        return same and bool(re.match(self.about, finding.about))


ACCEPTED = [
    Accepted(
        "ClassifyStateMachinePhotoUploadedRole",
        "NO_VERSION",
        "$",
        "SAM writes this policy, and it uses nothing that the earlier version lacks.",
    ),
    Accepted("AlarmKey", "RESOURCE_STAR", "kms:", "In a key's policy, * is that key."),
    Accepted(
        "BackfillStateMachineRole",
        "RESOURCE_MISMATCH",
        "states:DescribeExecution",
        "Standard executions are described; Express ones are another type of resource.",
    ),
    Accepted(
        "BackfillMapRunPolicy",
        "RESOURCE_MISMATCH",
        "states:DescribeExecution",
        "The children of a map run are Standard executions.",
    ),
    *(
        Accepted(
            policy,
            "RESOURCE_MISMATCH",
            "states:(DescribeExecution|ListExecutions)",
            "Standard executions of a state machine, not Express ones, and not a map run's.",
        )
        for policy in ("BackfillPolicy", "TrafficPolicy")
    ),
    Accepted(
        "DeployerPolicy",
        "RESOURCE_STAR",
        "application-autoscaling:",
        "A scalable target gets its ARN when it is made; the condition limits the statement to SageMaker's.",
    ),
    Accepted(
        "DeployerPolicy",
        "UNKNOWN_CONDITION_FOR_ACTION",
        "application-autoscaling:service-namespace for action application-autoscaling:(Describe|TagResource)",
        "With IfExists the condition is true for these; it limits the other actions of the statement.",
    ),
    Accepted(
        "DeployerPolicy",
        "RESOURCE_STAR",
        "cloudwatch:DescribeAlarms",
        "Composite alarms are returned only for * (API Reference, DescribeAlarms).",
    ),
    Accepted(
        "CloudFormationRole",
        "RESOURCE_STAR",
        "cloudwatch:DescribeAlarms",
        "Composite alarms are returned only for * (API Reference, DescribeAlarms).",
    ),
    Accepted(
        "CloudFormationRole",
        "RESOURCE_STAR",
        "kms:",
        "A key's ARN is not known before the key exists; the statement is limited to the project's tag.",
    ),
    Accepted(
        "DeployRole",
        "INVALID_ARN",
        "Account expected",
        "SAM's transform is in the account aws (CloudFormation User Guide).",
    ),
    Accepted(
        "DeployRole",
        "RESOURCE_MISMATCH",
        "states:DescribeExecution",
        "A backfill is a Standard execution; Express ones are another type of resource.",
    ),
    Accepted("DeployRole", "UNKNOWN_FEDERATION_SOURCE", PROVIDER, "The linter knows SAML's providers alone."),
    Accepted(
        "DeployRole",
        "UNKNOWN_CONDITION_FOR_ACTION",
        "token.actions.githubusercontent.com:(aud|sub) for action sts:AssumeRoleWithWebIdentity",
        "A provider's keys begin with its name (IAM User Guide, Available keys for AWS OIDC federation).",
    ),
    # Actions that are newer than the linter's list; cfn-lint, in `make lint`, knows them.
    Accepted("CloudFormationRole", "UNKNOWN_ACTION", "s3:GetBucketAbac", "The action is new."),
    Accepted("CloudFormationRole", "UNKNOWN_ACTION", "lambda:GetFunctionScalingConfig", "The action is new."),
    Accepted("DeployerPolicy", "UNKNOWN_ACTION", "sagemaker:DeleteTrainingJob", "The action is new."),
]


def policies(template: str, parameters: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each policy document of a template, with the name of its resource."""
    for name, resource in resolve(template, **parameters).items():
        for document in documents(resource["Properties"]):
            yield name, document


def documents(properties: Any) -> Iterator[dict[str, Any]]:
    """Yield each policy document in a resource's properties.

    A trust policy names no resource, since it is about its role; parliament wants one.
    """
    inner = properties.values() if isinstance(properties, dict) else properties
    if not isinstance(properties, dict | list):
        return
    if isinstance(properties, dict) and "Statement" in properties:
        trusts = [
            {"Resource": f"arn:aws:iam::{ACCOUNT}:role/itself", **readable(one)}
            for one in properties["Statement"]
        ]
        yield properties | {"Statement": trusts}
        return
    for value in inner:
        yield from documents(value)


def readable(statement: dict[str, Any]) -> dict[str, Any]:
    """Leave out a condition on ``events:TargetArn``, at whose type (ArrayOfARN) parliament stops."""
    condition = {
        operator: keys
        for operator, keys in statement.get("Condition", {}).items()
        if "events:TargetArn" not in keys
    }
    without = {key: value for key, value in statement.items() if key != "Condition"}
    return without | ({"Condition": condition} if condition else {})


def lint(named: list[tuple[str, dict[str, Any]]], folder: Path) -> set[Finding]:
    """Run parliament over policies, each under the name of its resource."""
    for number, (name, document) in enumerate(named):
        (folder / f"{name}.{number}.json").write_text(json.dumps(document))
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".local" / "uv" / "bin" / "uv")
    command = [uv, *LINTER, "--directory", str(folder), "--json", "--minimum_severity", "LOW"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    # 1 is for findings: an error of parliament's own has the same code, but prints none
    assert done.returncode == 0 or findings, done.stderr
    return {
        Finding(Path(found["location"]["filepath"]).name.partition(".")[0], found["issue"], about)
        for found in findings
        for about in abouts(found["detail"])
    }


def abouts(detail: Any) -> Iterator[str]:
    """Yield what a finding is about: an action each, where parliament lists them."""
    for one in detail if isinstance(detail, list) else [detail]:
        text = one["action"] if isinstance(one, dict) else str(one or "")
        yield text.removeprefix("Unknown action ").removeprefix("Unknown condition ")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> set[Finding]:
    named = [
        policy
        for template, deployments in DEPLOYMENTS.items()
        for parameters in deployments
        for policy in policies(template, parameters)
    ]
    return lint(named, tmp_path_factory.mktemp("policies"))


def test_every_finding_about_a_policy_is_accepted_with_a_reason(findings: set[Finding]):
    assert {finding for finding in findings if not any(one.covers(finding) for one in ACCEPTED)} == set()


def test_nothing_is_accepted_that_is_no_longer_found(findings: set[Finding]):
    assert [one for one in ACCEPTED if not any(map(one.covers, findings))] == []


def test_every_template_is_linted():
    found = [
        *ROOT.glob("*.yaml"),
        *ROOT.glob("[!.]*/*.yaml"),
        *ROOT.glob("[!.]*/*/*.yaml"),
        *ROOT.glob(".github/*.yaml"),
    ]
    templates = {
        path.relative_to(ROOT).as_posix()
        for path in found
        # the baseline's design, in tests/bench, is not deployed
        if "AWSTemplateFormatVersion" in path.read_text() and not path.is_relative_to(ROOT / "tests")
    }

    assert DEPLOYMENTS.keys() == templates


@pytest.mark.parametrize("template", DEPLOYMENTS)
def test_every_policy_of_a_template_is_in_one_of_its_deployments(template: str):
    resources = translate(template)["Resources"].items()
    written = {name for name, resource in resources if any(documents(resource.get("Properties", {})))}

    assert written == {
        name for parameters in DEPLOYMENTS[template] for name, _ in policies(template, parameters)
    }


BROKEN = {
    "RESOURCE_MISMATCH": {"Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket"},
    "UNKNOWN_ACTION": {"Action": "s3:GetObjects", "Resource": "arn:aws:s3:::bucket/*"},
    "RESOURCE_STAR": {"Action": "dynamodb:PutItem", "Resource": "*"},
    "UNKNOWN_CONDITION_FOR_ACTION": {
        "Action": "sqs:SendMessage",
        "Resource": f"arn:aws:sqs:eu-west-1:{ACCOUNT}:queue",
        "Condition": {"StringEquals": {"s3:prefix": "uploads/"}},
    },
    "UNKNOWN_PRINCIPAL": {"Action": "sts:AssumeRole", "Principal": {"AWS": "somebody"}},
    "MALFORMED": {"Action": "s3:GetObject", "NotAction": "s3:PutObject", "Resource": "*"},
}


def test_the_linter_notices_each_kind_of_defect(tmp_path: Path):
    named = [
        (issue.title().replace("_", ""), document)
        for issue, statement in BROKEN.items()
        for document in documents({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})
    ]

    found = {(finding.resource, finding.issue) for finding in lint(named, tmp_path)}

    assert {(issue.title().replace("_", ""), issue) for issue in BROKEN} <= found
