"""The permissions of a role or a policy, each of which can be taken away, and a count of those missed."""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from samcli.yamlhelper import yaml_parse

from tests.conftest import ROOT

type Document = dict[str, Any]

RESOURCES = yaml_parse((ROOT / "template.yaml").read_text())["Resources"]
FIGURES = ROOT / ".local" / "reliability" / "permissions.json"


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


def tell(
    removed: Iterable[Permission], noticed: Iterable[Permission], not_asked_for: Mapping[str, str] = {}
) -> None:
    """Add to the figures: which permissions were taken away, and which of these were missed."""
    told = json.loads(FIGURES.read_text()) if FIGURES.exists() else {"removed": [], "noticed": []}
    told |= {
        "removed": sorted({*told["removed"], *map(" ".join, removed)}),
        "noticed": sorted({*told["noticed"], *map(" ".join, noticed)}),
    }
    if not_asked_for:
        told["not asked for"] = dict(not_asked_for)
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps(told, indent=2) + "\n")
