"""GitHub's workflows, and the IAM roles of .github/oidc.yaml with which they deploy."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from click.testing import CliRunner

from scones import cli
from tests.conftest import ROOT
from tests.unit.test_template_access import SOUND, aslist, parts, statements

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
PINNED = re.compile(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40} # v\d+(\.\d+)+")
OURS = re.compile(r"\./\.github/workflows/[\w-]+\.yaml")
GITHUB = ROOT / ".github" / "oidc.yaml"

type Workflow = dict[str, Any]


def workflow(path: Any) -> Workflow:
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)


def steps(path: Any) -> Iterator[dict[str, str]]:
    yield from (step for job in workflow(path)["jobs"].values() for step in job.get("steps", []))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def path(request) -> Any:
    return request.param


def test_the_workflows_are_found():
    assert {path.stem for path in WORKFLOWS} == {"checks", "deploy", "review", "stage"}


def test_every_action_is_pinned_to_a_commit_and_says_its_version(path):
    used = [line.split("uses: ")[1] for line in path.read_text().splitlines() if "uses: " in line]

    assert [one for one in used if not PINNED.fullmatch(one) and not OURS.fullmatch(one)] == []
    assert all((ROOT / one).exists() for one in used if OURS.fullmatch(one))


def test_an_action_has_one_version():
    of = [
        line.split("uses: ")[1] for path in WORKFLOWS for line in path.read_text().splitlines() if "@" in line
    ]

    assert len({one.partition("@")[0] for one in of}) == len(set(of))


def test_a_workflow_starts_with_no_permission_and_a_job_says_what_it_needs(path):
    assert workflow(path)["permissions"] == {}
    for name, job in workflow(path)["jobs"].items():
        assert set(job["permissions"].items()) <= {("contents", "read"), ("id-token", "write")}, name


def test_only_jobs_that_deploy_may_request_credentials():
    jobs = {
        f"{path.stem}.{name}"
        for path in WORKFLOWS
        for name, job in workflow(path)["jobs"].items()
        if "id-token" in job["permissions"]
    }

    assert jobs == {"stage.run", "deploy.dev", "deploy.prod", "review.deploy", "review.destroy"}


def test_every_job_has_a_timeout(path):
    for name, job in workflow(path)["jobs"].items():
        assert "uses" in job or int(job["timeout-minutes"]) <= 60, name


def test_the_commands_of_a_step_exist(path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for step in steps(path):
        run = step.get("run", "")
        assert set(re.findall(r"\bmake ([a-z]+)", run)) <= targets
        for command in re.findall(r"scones ([a-z]+)", run):
            assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0


def test_the_demo_runs_on_every_platform_of_the_readme():
    """`make test` runs on Linux on x86-64."""
    jobs = workflow(ROOT / ".github" / "workflows" / "checks.yaml")["jobs"]

    assert jobs["demo"]["strategy"]["matrix"]["runner"] == ["macos-15", "ubuntu-24.04-arm"]
    assert [step["run"] for step in jobs["demo"]["steps"] if "run" in step] == ["make demo"]
    assert "Linux (x86-64\nor arm64), macOS 14 or later on Apple silicon" in (ROOT / "README.md").read_text()


def test_no_script_interpolates_an_expression(path):
    """A value that others choose, such as a branch's name, could run as code."""
    assert [step["run"] for step in steps(path) if "${{" in step.get("run", "")] == []


def test_the_token_stays_out_of_the_checked_out_repository(path):
    checkouts = [step for step in steps(path) if step.get("uses", "").startswith("actions/checkout@")]

    assert all(step["with"]["persist-credentials"] == "false" for step in checkouts)


def test_pull_requests_from_forks_get_no_stack():
    for job in workflow(ROOT / ".github" / "workflows" / "review.yaml")["jobs"].values():
        assert "!github.event.pull_request.head.repo.fork" in job["if"]


def test_prod_is_deployed_after_dev_in_its_environment():
    """The environment's settings at GitHub require an approval, and the role trusts only the environment."""
    jobs = workflow(ROOT / ".github" / "workflows" / "deploy.yaml")["jobs"]

    assert jobs["prod"]["with"]["environment"] == "prod"
    assert jobs["prod"]["needs"] == "dev"
    assert jobs["dev"]["needs"] == "checks"


def test_every_environment_has_a_role_that_trusts_it():
    environments = {
        job["with"]["environment"]
        for path in WORKFLOWS
        for job in workflow(path)["jobs"].values()
        if "environment" in job.get("with", {})
    }

    assert environments == set(SOUND[".github/oidc.yaml"]["Parameters"]["Stage"]["AllowedValues"])


def test_dependabots_directories_contain_what_it_updates():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]

    files = {"uv": "uv.lock", "pip": "requirements.txt", "docker": "Dockerfile", "npm": "package-lock.json"}
    files |= {"pre-commit": ".pre-commit-config.yaml", "github-actions": ".github/workflows"}
    for update in updates:
        for folder in update.get("directories", [update.get("directory")]):
            assert list((ROOT / folder.lstrip("/")).glob(files[update["package-ecosystem"]])), folder


# ── The roles ──────────────────────────────────────────────────────────────────────────────────────────

UNUSED = re.compile(
    r"""(?x)
    # services that no resource of the template uses
    ^(ec2|elasticfilesystem|firehose|kinesis|s3files|s3tables):
    # properties that none of its resources has
    | dynamodb:(\w*Item$|Scan|Query|Import|DescribeImport|\w*TableReplica|\w*KinesisStreaming\w*$)
    | dynamodb:(\w*ResourcePolicy$|UpdateContributorInsights)
    | iam:(\w*(User|Group)Policy$|CreateServiceLinkedRole)
    | lambda:(\w*CodeSigning\w*$|GetLayerVersion|Pass|PublishVersion)
    | lambda:(Put|Delete)Function(Concurrency|ScalingConfig|RecursionConfig) | lambda:PutRuntime
    | logs:(CreateLog(Delivery|Stream)|DescribeLogStreams|PutLogEvents|AssociateKms|DisassociateKms|PutBearer)
    | logs:((Put|Delete)(DataProtection|Index|Resource)Poli\w+$|PutLogGroupDeletion)
    | s3:\w*(Analytics|Inventory|CORS|Cors|Metrics|Website|Accelerate|Replication|ObjectLock|Logging|Tiering)
    | s3:\w*(Metadata|Acl$|Abac)
    | sns:PutDataProtectionPolicy | events:(PutPermission|RemovePermission)
    # customer-managed keys: the table and the logs use AWS's keys
    | kms:(CreateGrant|RevokeGrant|ListAliases|Encrypt|Decrypt|GenerateDataKey|ReEncrypt|(En|Dis)ableKey$)
    # content of buckets, which CloudFormation does not delete
    | s3:DeleteObject
    """
)
"""Actions that resources of the template's types may need, but its own resources do not."""
NO_ACTIONS = {
    *("s3:DeleteBucketEncryption", "s3:DeleteBucketLifecycle", "s3:GetObjectMetadata", "s3:REST.PUT.OBJECT"),
    "s3:ListTagsForResource",  # of Storage Lens and access grants alone
}
"""CloudFormation's schemas name these, but the authorization reference lacks them or uses them elsewhere."""


def needed() -> set[str]:
    """The actions that CloudFormation needs for the template, according to its resource schemas."""
    types = {resource["Type"] for resource in SOUND["template.yaml"]["Resources"].values()}
    actions = set()
    for kind in types:
        handlers = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema["handlers"]
        for name in ("create", "read", "update", "delete"):
            required = {re.sub("^S3:", "s3:", one) for one in handlers.get(name, {}).get("permissions", [])}
            # Reading fetches every property that a resource could have.
            actions |= {one for one in required if name == "read" or not UNUSED.match(one)}
    return actions - NO_ACTIONS - {"kms:Decrypt", "iam:DeleteRolePermissionsBoundary"}


def allowed(role: str) -> set[str]:
    properties = SOUND[".github/oidc.yaml"]["Resources"][role]["Properties"]
    return {action for one in statements(properties["Policies"]) for action in aslist(one["Action"])}


def test_cloudformation_is_allowed_exactly_what_the_template_needs():
    assert allowed("CloudFormationRole") == needed()


def test_the_policies_of_cloudformations_role_are_within_iams_size_limit():
    """10,240 characters, white space not counted (IAM User Guide, "IAM and AWS STS quotas")."""
    policies = SOUND[".github/oidc.yaml"]["Resources"]["CloudFormationRole"]["Properties"]["Policies"]
    text = "".join(str(policies).split()).replace("${AWS::Partition}", "aws")

    assert len(text) < 10_240


@pytest.mark.parametrize("stage", ["dev", "prod", "review"])
def test_the_names_of_a_stage_do_not_match_another(stage):
    """A wildcard after a stage's name matches no other stage, nor the roles' own stacks."""
    stages = {"dev", "prod", "review1", "roles", f"github-{stage}"}

    assert {one for one in stages if one.startswith(stage)} == {"review1" if stage == "review" else stage}


@pytest.mark.parametrize("role", ["DeployRole", "CloudFormationRole"])
def test_each_role_is_restricted_to_its_stage(role):
    properties = SOUND[".github/oidc.yaml"]["Resources"][role]["Properties"]
    named = [
        text
        for text in parts(properties["Policies"])
        if isinstance(text, str) and "scones-unlimited-" in text
    ]

    assert named
    assert [text for text in named if "scones-unlimited-${Stage}*" not in text] == []


def test_only_this_repository_in_this_environment_gets_the_role():
    trust = SOUND[".github/oidc.yaml"]["Resources"]["DeployRole"]["Properties"]["AssumeRolePolicyDocument"]
    (statement,) = trust["Statement"]

    issuer = "token.actions.githubusercontent.com"
    assert statement["Condition"] == {
        "StringEquals": {
            f"{issuer}:aud": "sts.amazonaws.com",
            f"{issuer}:sub": {
                "Fn::If": [
                    "HasIds",
                    {
                        "Fn::Sub": [
                            "repo:${Owner}@${OwnerId}/${Name}@${RepositoryId}:environment:${Stage}",
                            {
                                "Owner": {"Fn::Select": [0, {"Fn::Split": ["/", {"Ref": "Repository"}]}]},
                                "Name": {"Fn::Select": [1, {"Fn::Split": ["/", {"Ref": "Repository"}]}]},
                            },
                        ]
                    },
                    {"Fn::Sub": "repo:${Repository}:environment:${Stage}"},
                ]
            },
        }
    }


def test_only_review_stacks_can_be_deleted_from_github():
    """Every stage may delete the probes of `scones activate`, and their queue and rule, but nothing else."""
    properties = SOUND[".github/oidc.yaml"]["Resources"]["DeployRole"]["Properties"]
    (policy,) = properties["Policies"]
    always = [one for one in policy["PolicyDocument"]["Statement"] if "Fn::If" not in one]
    deleting = [one for one in always if "Delete" in str(one["Action"])]

    named = {one["Sid"]: one["Resource"]["Fn::Sub"].partition("${Stage}*")[2] for one in deleting}
    assert named == {
        "UploadAndDeleteProbes": "/activation/*",
        "ReceiveProbes": "-activation-*",
        "MatchProbes": "-activation-*",
    }
