"""The permissions of a role or a policy, each of which can be taken away."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

from samcli.yamlhelper import yaml_parse

from tests.conftest import ROOT

type Document = dict[str, Any]

RESOURCES = yaml_parse((ROOT / "template.yaml").read_text())["Resources"]


class Permission(NamedTuple):
    """An action in a statement of a role or a policy of the template."""

    resource: str
    sid: str
    action: str


def of(resource: str) -> list[Permission]:
    """Every action that the template gives a role or a policy."""
    return [
        Permission(resource, statement["Sid"], action)
        for document in documents(RESOURCES[resource]["Properties"])
        for statement in map(unconditional, document["Statement"])
        for action in aslist(statement["Action"])
    ]


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
