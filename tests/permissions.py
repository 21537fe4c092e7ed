"""The permissions of a role or a policy, each of which a test can remove."""

import copy
import json
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import boto3
from samcli.yamlhelper import yaml_parse

from local.stack import Stack
from pipeline import stack as deployed
from tests.conftest import ROOT
from tests.photo_ledger import record_figures

type Document = dict[str, Any]

RESOURCES = yaml_parse((ROOT / "template.yaml").read_text())["Resources"]


class Permission(NamedTuple):
    """An action in a statement of a role or a policy of the template."""

    resource: str
    sid: str
    action: str


class Person:
    """An IAM user who may do what a policy of the stack allows, and nothing before `may` is called.

    ``policy`` is the policy's document; ``stack`` is the stack with this user's credentials.
    """

    def __init__(self, stack: Stack, policy_output: str) -> None:
        self._iam = stack.client("iam")
        arn = stack.outputs[policy_output]
        version = self._iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        described = self._iam.get_policy_version(PolicyArn=arn, VersionId=version)
        self.policy: Document = described["PolicyVersion"]["Document"]
        self.name = f"person-{uuid.uuid4().hex[:8]}"
        self._iam.create_user(UserName=self.name)
        key = self._iam.create_access_key(UserName=self.name)["AccessKey"]
        session = boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name=stack.region)
        self.stack = deployed.Stack(stack.name, session, stack.outputs, stack.endpoint_url)

    def may(self, policy: Document) -> None:
        """Replace the user's policy."""
        self._iam.put_user_policy(UserName=self.name, PolicyName="all", PolicyDocument=json.dumps(policy))


def of(resource: str) -> list[Permission]:
    """Return every action that the template allows a role or a policy."""
    return [
        Permission(resource, statement["Sid"], action)
        for document in documents(RESOURCES[resource]["Properties"])
        for statement in map(unconditional, document["Statement"])
        for action in as_list(statement["Action"])
    ]


def noticed(removed: list[Permission]) -> Iterator[set[Permission]]:
    """Yield a set for the permissions whose removal was noticed; count both for docs/reliability.md."""
    found: set[Permission] = set()
    yield found
    record_figures(removed=len(removed), noticed=len(found))


def documents(properties: Document) -> Iterator[Document]:
    yield from (policy["PolicyDocument"] for policy in properties.get("Policies", []))
    if "PolicyDocument" in properties:
        yield properties["PolicyDocument"]


def unconditional(statement: Document) -> Document:
    return statement["Fn::If"][1] if "Fn::If" in statement else statement


def without(document: Document, permission: Permission) -> Document:
    """Return a deployed policy without one permission."""
    reduced = copy.deepcopy(document)
    (statement,) = [one for one in reduced["Statement"] if one["Sid"] == permission.sid]
    statement["Action"] = [one for one in as_list(statement["Action"]) if one != permission.action]
    if not statement["Action"]:
        reduced["Statement"].remove(statement)
    assert reduced != document
    return reduced


def is_missed(permission: Permission, error: str) -> bool:
    """Tell whether an error is about this permission; the answer to HeadObject has no body to name it in."""
    head_object = permission.action == "s3:GetObject" and "(403) when calling the HeadObject" in error
    return f"not authorized to perform: {permission.action}" in error or head_object


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
