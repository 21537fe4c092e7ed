"""The permissions of a role or a policy, each of which can be taken away."""

import copy
import json
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import boto3
from samcli.yamlhelper import yaml_parse

from local.stack import Stack
from pipeline import stack as deployed
from tests.account import note
from tests.conftest import ROOT

type Document = dict[str, Any]

RESOURCES = yaml_parse((ROOT / "template.yaml").read_text())["Resources"]


class Permission(NamedTuple):
    """An action in a statement of a role or a policy of the template."""

    resource: str
    sid: str
    action: str


class Person:
    """A person who may do what a policy of the stack allows, and no more: at first, nothing.

    ``policy`` is the document; ``stack`` is the stack as the person finds it.
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
        """Give the person this policy instead of the one before."""
        self._iam.put_user_policy(UserName=self.name, PolicyName="all", PolicyDocument=json.dumps(policy))


def of(resource: str) -> list[Permission]:
    """Every action that the template gives a role or a policy."""
    return [
        Permission(resource, statement["Sid"], action)
        for document in documents(RESOURCES[resource]["Properties"])
        for statement in map(unconditional, document["Statement"])
        for action in aslist(statement["Action"])
    ]


def noticed(removed: list[Permission]) -> Iterator[set[Permission]]:
    """Give the set for those that were missed once they were removed; count both, for docs/reliability.md."""
    found: set[Permission] = set()
    yield found
    note(removed=len(removed), noticed=len(found))


def documents(properties: Document) -> Iterator[Document]:
    yield from (policy["PolicyDocument"] for policy in properties.get("Policies", []))
    if "PolicyDocument" in properties:
        yield properties["PolicyDocument"]


def unconditional(statement: Document) -> Document:
    return statement["Fn::If"][1] if "Fn::If" in statement else statement


def without(document: Document, permission: Permission) -> Document:
    """A policy as it was deployed, but for one permission."""
    poorer = copy.deepcopy(document)
    (statement,) = [one for one in poorer["Statement"] if one["Sid"] == permission.sid]
    statement["Action"] = [one for one in aslist(statement["Action"]) if one != permission.action]
    if not statement["Action"]:
        poorer["Statement"].remove(statement)
    assert poorer != document
    return poorer


def is_missed(permission: Permission, error: str) -> bool:
    """Whether an error is about this permission and no other: it names it, or what is read without a body."""
    head_object = permission.action == "s3:GetObject" and "(403) when calling the HeadObject" in error
    return f"not authorized to perform: {permission.action}" in error or head_object


def aslist(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
