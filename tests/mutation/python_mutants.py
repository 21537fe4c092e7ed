"""Mutants of Python source: mutmut's operators, and those that it lacks.

mutmut's own runner cannot be used here: it mutates neither decorated functions, such as every handler, nor
the arguments of clients and constants, and it removes no statements. Its operators are applied one at a time.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import libcst as cst
import libcst.matchers as m
from libcst.metadata import CodePosition, MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation import mutators

from tests.mutation import Mutant, numbered

NOT_MEANINGFUL = m.OneOf(
    m.Annotation(),
    m.TypeAlias(),
    m.Decorator(decorator=m.Name() | m.Call(func=m.Name("dataclass"))),
    m.Import(),
    m.ImportFrom(),
    m.If(test=m.BooleanOperation(left=m.Name("TYPE_CHECKING"))),
    m.If(test=m.Name("TYPE_CHECKING")),
    m.Assert(),
    # Texts for people: a log's and an error's.
    m.Call(func=m.Attribute(value=m.Name("logger"))),
    m.Raise(exc=m.Call()),
    m.Call(func=m.Attribute(attr=m.Name("add_note"))),
)
"""What is not mutated, with everything in it."""


def drop_statement(node: cst.SimpleStatementLine) -> Iterator[cst.CSTNode]:
    """Drop what is done for its effect: a call, an assignment to an item or attribute, raise, return."""
    (statement, *more) = node.body
    done = m.matches(
        statement,
        m.Expr(value=m.Call() | m.Await())
        | m.AugAssign()
        | m.Assign(targets=[m.AssignTarget(target=m.Subscript() | m.Attribute())])
        | m.Raise()
        | m.Del()
        | m.Continue(),
    )
    if done and not more:
        yield cst.Pass()


def negate(test: cst.BaseExpression) -> Iterator[cst.CSTNode]:
    inner = test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield cst.UnaryOperation(cst.Not(), inner)


def drop_exception(caught: cst.Tuple) -> Iterator[cst.CSTNode]:
    """Catch one class of errors less."""
    for element in caught.elements:
        yield caught.with_changes(elements=[one for one in caught.elements if one is not element])


def mark_string(node: cst.BaseString) -> Iterator[cst.CSTNode]:
    """mutmut's first mutation of a string, and not those of its case; sentences are for people."""
    sentence = isinstance(node, cst.SimpleString) and re.search(r" .*\w[.!?]$", str(node.evaluated_value))
    if not sentence:
        yield from list(mutators.operator_string(node))[:1]


def drop_argument(node: cst.Call) -> Iterator[cst.CSTNode]:
    """Pass a named argument not at all, and another one as None; mutmut tries both for each."""
    for number, argument in enumerate(node.args):
        before, after = node.args[:number], node.args[number + 1 :]
        if argument.keyword:
            yield node.with_changes(args=[*before, *after])
        elif not argument.star and not m.matches(argument.value, m.Name("None")):
            yield node.with_changes(args=[*before, argument.with_changes(value=cst.Name("None")), *after])


def drop_returned(node: cst.Return) -> Iterator[cst.CSTNode]:
    if node.value and not m.matches(node.value, m.Name("None")):
        yield node.with_changes(value=cst.Name("None"))


def unassign(node: cst.Assign | cst.AnnAssign) -> Iterator[cst.CSTNode]:
    """Assign None, which is not another value where False is meant."""
    if node.value and not m.matches(node.value, m.Name("False")):
        yield from mutators.operator_assignment(node)


REPLACED = (
    mutators.operator_assignment,
    mutators.operator_string,
    mutators.operator_arg_removal,
    mutators.operator_dict_arguments,
)
OPERATORS = [
    *((kind, one) for kind, one in mutators.mutation_operators if one not in REPLACED),
    (cst.BaseString, mark_string),
    (cst.Call, drop_argument),
    (cst.Assign, unassign),
    (cst.AnnAssign, unassign),
    (cst.SimpleStatementLine, drop_statement),
    (cst.Return, drop_returned),
]


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of their places."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    visitor = _Visitor(file, wrapper.module)
    wrapper.visit(visitor)
    return numbered(visitor.found)


class _Visitor(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)

    def __init__(self, file: str, module: cst.Module) -> None:
        self.file, self.module, self.source = file, module, module.code
        self.begins = [0, *itertools.accumulate(map(len, self.source.splitlines(keepends=True)))]
        self.found: list[Mutant] = []
        self.scope: list[str] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self.scope.append(node.name.value)
        if self._is_meaningless(node):
            if isinstance(node, cst.SimpleStatementLine):
                self._add(node, drop_statement(node))
            return False
        for kind, operator in OPERATORS:
            if isinstance(node, kind) and not self._is_tuning(node):
                self._add(node, operator(node))
        if isinstance(node, cst.If | cst.While | cst.CompIf):
            self._add(node.test, negate(node.test))
        if isinstance(node, cst.ExceptHandler) and isinstance(node.type, cst.Tuple):
            self._add(node.type, drop_exception(node.type))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self.scope.pop()

    def _is_meaningless(self, node: cst.CSTNode) -> bool:
        docstring = m.SimpleStatementLine(body=[m.Expr(value=m.SimpleString() | m.ConcatenatedString())])
        raised = m.SimpleStatementLine(body=[m.Raise(exc=m.Call())])
        logged = m.SimpleStatementLine(body=[m.Expr(value=m.Call(func=m.Attribute(value=m.Name("logger"))))])
        return m.matches(node, NOT_MEANINGFUL | docstring | raised) or m.matches(node, logged)

    def _is_tuning(self, node: cst.CSTNode) -> bool:
        """Whether a number is a constant of the module, which is not wrong when it is one more."""
        return isinstance(node, cst.BaseNumber) and not self._in_function(node)

    def _in_function(self, node: cst.CSTNode) -> bool:
        parent: cst.CSTNode | None = node
        while parent is not None:
            if isinstance(parent, cst.FunctionDef):
                return True
            parent = self.get_metadata(ParentNodeProvider, parent, None)
        return False

    def _add(self, node: cst.CSTNode, changed: Iterable[Any]) -> None:
        for new in changed:
            span = self.get_metadata(PositionProvider, node)
            start, end = self._index(span.start), self._index(span.end)
            # A part of a file is written again with its own indentation, except for a block.
            text = (
                self.module.deep_replace(node, new).code
                if isinstance(node, cst.Match)
                else self.source[:start] + self.module.code_for_node(new) + self.source[end:]
            )
            self.found.append(
                Mutant(
                    self.file,
                    ".".join(self.scope) or "module",
                    f"{self._shown(node)} → {self._shown(new)}",
                    (span.start.line, span.end.line),
                    text,
                )
            )

    def _index(self, place: CodePosition) -> int:
        return self.begins[place.line - 1] + place.column

    def _shown(self, node: cst.CSTNode) -> str:
        bare = node.with_changes(leading_lines=[]) if hasattr(node, "leading_lines") else node
        text = " ".join(self.module.code_for_node(bare).split())
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


LONGEST = 90
"""Characters of a changed piece of code in a mutant's name."""
