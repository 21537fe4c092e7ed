"""Record requests to AWS and validate them against botocore's service models.

botocore itself checks types and required members only. The services also check enums, patterns, lengths and
ranges, and so does this.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import boto3
import botocore.handlers
from botocore.model import ListShape, MapShape, OperationModel, Shape, StringShape, StructureShape

# The character classes of Java that the patterns use, as Python writes them.
CHARACTERS = {
    r"\p{L}": "a-zA-Z\u00aa-\uffdc",
    r"\p{M}": "\u0300-\u036f",
    r"\p{N}": "0-9",
    r"\p{Z}": r"\s",
    r"\p{S}": r"$+<=>^`|~",
    r"\p{P}": r"!\"#%&'()*,\-./:;?@\[\\\]_{}",
    r"\p{Alpha}": "a-zA-Z",
    r"\p{Alnum}": "a-zA-Z0-9",
    r"\p{Graph}": "!-~",
    r"\p{Print}": " -~",
    r"\p{ASCII}": r"\x00-\x7f",
}
# Other differences from Python's syntax; the last two are mistakes in the services' own models.
SPELLINGS = {
    r"\z": r"\Z",
    r"\uD800\uDC00-\uDBFF\uDFFF": "\U00010000-\U0010ffff",
    ")${": "){",
    r"[\w-_]": r"[\w\-]",
}
BRACKETS = re.compile(r"\[(?:\\.|[^\]\\])*\]")


@dataclass
class AwsCalls:
    """The requests in order, and what is invalid about them."""

    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    actions: set[str] = field(default_factory=set)
    """The operations as IAM actions, e.g. ``sagemaker:CreateModel``."""
    violations: list[str] = field(default_factory=list)

    def of(self, operation: str) -> list[dict[str, Any]]:
        return [request for name, request in self.requests if name == operation]

    def operations(self) -> list[str]:
        return [name for name, _ in self.requests]

    def record(self, params: dict[str, Any], model: OperationModel, **_: object) -> None:
        self.requests.append((model.name, params))
        self.actions.add(f"{model.service_model.signing_name}:{model.name}")
        if model.input_shape:
            self.violations += violations(params, model.input_shape, model.name)


@contextmanager
def recording() -> Iterator[AwsCalls]:
    """Record the requests of every client created in a ``with`` block."""
    recorded = AwsCalls()
    handler = ("before-parameter-build.*.*", recorded.record)
    botocore.handlers.BUILTIN_HANDLERS.append(handler)
    default, boto3.DEFAULT_SESSION = boto3.DEFAULT_SESSION, None
    try:
        yield recorded
    finally:
        boto3.DEFAULT_SESSION = default
        botocore.handlers.BUILTIN_HANDLERS.remove(handler)


def violations(value: Any, shape: Shape, where: str) -> list[str]:
    """Describe everything for which a service would reject a value of this shape."""
    match shape:
        case StructureShape():
            missing = [f"{where} lacks {name}" for name in shape.required_members if name not in value]
            unknown = [f"{where} has an unknown {name}" for name in value if name not in shape.members]
            known = [name for name in value if name in shape.members]
            inner = [violations(value[name], shape.members[name], f"{where}.{name}") for name in known]
            return missing + unknown + list(chain(*inner))
        case ListShape():
            inner = [violations(one, shape.member, f"{where}[]") for one in value]
            return out_of_range(len(value), shape, where) + list(chain(*inner))
        case MapShape():
            keys = [violations(key, shape.key, f"{where} key") for key in value]
            values = [violations(one, shape.value, f"{where}[{key}]") for key, one in value.items()]
            return out_of_range(len(value), shape, where) + list(chain(*keys, *values))
        case StringShape():
            return out_of_range(len(value), shape, where) + invalid_string(value, shape, where)
    if shape.type_name in {"integer", "long", "float", "double"}:
        return out_of_range(value, shape, where)
    return []


def out_of_range(size: float, shape: Shape, where: str) -> list[str]:
    least, most = shape.metadata.get("min", float("-inf")), shape.metadata.get("max", float("inf"))
    return [] if least <= size <= most else [f"{where}: {size} is not from {least} to {most}"]


def invalid_string(value: str, shape: StringShape, where: str) -> list[str]:
    if shape.enum:
        return [] if value in shape.enum else [f"{where}: {value!r} is not one of {', '.join(shape.enum)}"]
    pattern = shape.metadata.get("pattern")
    if not pattern or re.fullmatch(to_python(pattern), value, re.DOTALL):
        return []
    return [f"{where}: {value!r} does not match {pattern}"]


def to_python(pattern: str) -> str:
    for java, python in SPELLINGS.items():
        pattern = pattern.replace(java, python)

    def without_classes(text: str, opening: str = "", closing: str = "") -> str:
        for java, python in CHARACTERS.items():
            text = text.replace(java, f"{opening}{python}{closing}")
        return text

    inside = BRACKETS.sub(lambda found: without_classes(found[0]), pattern)
    return without_classes(inside, "[", "]")
