"""Mutants of templates and state machines.

One entry of the YAML or JSON is dropped, one switch is reversed, or one operator of an expression, JSONata's
or DynamoDB's, is another. Text is changed in the file as it is written, so that its comments stay.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import yaml

from tests.mutation import Mutant, numbered

SECTIONS = {"Globals", "Conditions", "Resources", "Outputs", "StartAt", "TimeoutSeconds", "States"}
"""The parts of a file that are mutated; parameters are described, and their limits are tried by hand."""
FOR_PEOPLE = {"Comment", "Description", "Id", "Sid", "QueryLanguage"}
"""Names and texts, which change nothing that AWS does."""
OPERATORS = {
    " = ": " != ",
    " <> ": " = ",
    " < ": " <= ",
    " and ": " or ",
    " AND ": " OR ",
    " OR ": " AND ",
}
CALL = re.compile(r"\$\w+\(")
NUMBER = re.compile(r"(?<![\w.:\-\[])\d+\b")
SWITCHES = {"true": "false", "false": "true", '"true"': '"false"', '"false"': '"true"'}


class Cut(NamedTuple):
    """Part of a text to replace, and what was done in words."""

    start: int
    end: int
    new: str
    path: tuple[str, ...]
    change: str


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a file, in the order of their places; those that cannot be parsed are left out."""
    root = yaml.compose(source)
    assert isinstance(root, yaml.MappingNode)
    found = []
    for cut in _cuts(root, source, ()):
        text = source[: cut.start] + cut.new + source[cut.end :]
        # Without an anchor, the places that refer to it are wrong.
        if "&" not in source[cut.start : cut.end] or _parses(text):
            line, last = (source.count("\n", 0, at) + 1 for at in (cut.start, cut.end))
            found.append(Mutant(file, ".".join(cut.path), cut.change, (line, last), text))
    return numbered(found)


def _parses(text: str) -> bool:
    try:
        yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError:
        return False
    return True


def _cuts(node: yaml.Node, source: str, path: tuple[str, ...]) -> Iterator[Cut]:
    match node:
        case yaml.MappingNode():
            yield from _cuts_of_mapping(node, source, path)
        case yaml.SequenceNode():
            yield from _cuts_of_sequence(node, source, path)
        case yaml.ScalarNode():
            written = source[node.start_mark.index : node.end_mark.index]
            if written in SWITCHES:
                new = SWITCHES[written]
                yield Cut(node.start_mark.index, node.end_mark.index, new, path, f"{written} → {new}")
            if "{% " in written or path[-1] == "ConditionExpression":
                for start, end, new in _changes_of_expression(written):
                    at = node.start_mark.index
                    yield Cut(at + start, at + end, new, path, f"{written[start:end]} → {new}")


def _changes_of_expression(text: str) -> Iterator[tuple[int, int, str]]:
    for operator, other in OPERATORS.items():
        for found in re.finditer(re.escape(operator), text):
            yield found.start(), found.end(), other if "{%" in text else other.replace("!=", "<>")
    for found in NUMBER.finditer(text):
        yield found.start(), found.end(), str(int(found[0]) + 1)
    for found in CALL.finditer(text):
        arguments, end = _arguments(text, found.end())
        if found[0] == "$exists(":
            yield found.start(), end, "true"
            yield found.start(), end, "false"
        elif arguments:
            yield found.start(), end, arguments[0]


def _arguments(text: str, start: int) -> tuple[list[str], int]:
    """The arguments of a call whose parenthesis opened before `start`, and the place after its end."""
    depth, begin, found = 1, start, []
    for place in range(start, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0 or (depth == 1 and text[place] == ","):
            found.append(text[begin:place].strip())
            begin = place + 1
        if depth == 0:
            return [one for one in found if one], place + 1
    raise ValueError(text)


def _cuts_of_mapping(node: yaml.MappingNode, source: str, path: tuple[str, ...]) -> Iterator[Cut]:
    places = [(key.start_mark.index, _end(value)) for key, value in node.value]
    empty = "" if node.flow_style else "{}"
    for number, (key, value) in enumerate(node.value):
        if key.value in FOR_PEOPLE or (not path and key.value not in SECTIONS):
            continue
        if path:
            start, end, new = _removed(places, number, source, empty)
            yield Cut(start, end, new, (*path, key.value), "dropped")
        yield from _cuts(value, source, (*path, key.value))


def _cuts_of_sequence(node: yaml.SequenceNode, source: str, path: tuple[str, ...]) -> Iterator[Cut]:
    flow = source[node.start_mark.index] == "["
    # In a block sequence, an item begins with its dash.
    begins = [
        item.start_mark.index if flow else source.rindex("-", 0, item.start_mark.index) for item in node.value
    ]
    places = [(begin, _end(item)) for begin, item in zip(begins, node.value, strict=True)]
    for number, item in enumerate(node.value):
        here = (*path, _label(item, number))
        # The arguments of an intrinsic function belong together.
        if not node.tag.startswith("!"):
            start, end, new = _removed(places, number, source, "" if flow else "[]")
            yield Cut(start, end, new, here, "dropped")
        yield from _cuts(item, source, here)


def _removed(places: list[tuple[int, int]], number: int, source: str, empty: str) -> tuple[int, int, str]:
    """What to replace, and by what, so that an entry is gone and comments after it stay."""
    start, end = places[number]
    if number + 1 < len(places):
        following = places[number + 1][0]
        between = source[end:following]
        return start, following, between[between.index("#") :] if "#" in between else ""
    if number:
        return places[number - 1][1], end, ""
    return start, end, empty


def _end(node: yaml.Node) -> int:
    """Where a node's text ends; PyYAML counts the blanks and comments after a block as part of it."""
    match node:
        case yaml.CollectionNode() if node.value and not node.flow_style:
            last = node.value[-1]
            return _end(last[1] if isinstance(last, tuple) else last)
        case yaml.ScalarNode() if node.style in ("|", ">"):
            return node.end_mark.index - 1
    return int(node.end_mark.index)


def _label(item: yaml.Node, number: int) -> str:
    """How an item is called: by its Sid, Id or text, or else by its number."""
    if isinstance(item, yaml.ScalarNode):
        return item.value
    if isinstance(item, yaml.MappingNode):
        keys = {key.value: value.value for key, value in item.value if isinstance(value, yaml.ScalarNode)}
        return next((keys[name] for name in ("Sid", "Id", "PolicyName") if name in keys), str(number))
    return str(number)
