"""Walk through a state machine as Step Functions does, with the reference implementation of JSONata.

It covers what the definitions use: Pass, Task, Wait, Choice, Succeed and Fail in JSONata, and the fields of a
distributed Map in JSONPath. https://states-language.net/spec.html
"""

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from samcli.yamlhelper import yaml_parse

from tests.cloudformation import ACCOUNT, REGION, resolve
from tests.conftest import ROOT

FILES: dict[str, str] = {
    name: resource["Properties"]["DefinitionUri"]
    for name, resource in yaml_parse((ROOT / "template.yaml").read_text())["Resources"].items()
    if resource["Type"] == "AWS::Serverless::StateMachine"
}
"""The definition of each state machine in template.yaml."""
FOLDER = ROOT / "tests" / "validators"
EXECUTION = "0f1e2d3c-aaaa-bbbb-cccc-0123456789ab"
ENTERED = "2026-03-04T18:39:40.123Z"

type Task = Callable[[str, Any], Any]
"""Gives the result of a task by its state's name and its arguments, or raises :class:`TaskFailedError`."""


class TaskFailedError(Exception):
    """A task fails with an error, and often, but not always, with a cause."""

    def __init__(self, error: str, cause: str | None = None) -> None:
        super().__init__(error)
        self.output = {"Error": error} | ({} if cause is None else {"Cause": cause})


class QueryEvaluationError(Exception):
    """Step Functions fails a state in which an expression has an error or is undefined."""


class Node:
    """The process that evaluates expressions and checks definitions."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def evaluate(self, expression: str, bindings: dict[str, Any]) -> Any:
        """Evaluate JSONata, without the braces around it."""
        answer = self._ask({"expression": expression, "bindings": bindings})
        if "value" not in answer:
            raise QueryEvaluationError(f"{answer.get('error', 'undefined')}: {expression}")
        return answer["value"]

    def errors(self, definition: dict[str, Any]) -> list[str]:
        """Say what asl-validator finds wrong with a definition."""
        return self._ask({"definition": definition})["errors"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def definition(machine: str, **parameters: str) -> dict[str, Any]:
    """Return a state machine's definition with the values that CloudFormation substitutes."""
    text = (ROOT / FILES[machine]).read_text()
    resources = resolve("template.yaml", **parameters)
    for name, value in resources[machine]["Properties"]["DefinitionSubstitutions"].items():
        text = text.replace(f"${{{name}}}", str(value))
    return json.loads(text)


@contextmanager
def node() -> Iterator[Node]:
    """Run Node for a ``with`` block."""
    command = ["node", "evaluate.mjs"]
    with subprocess.Popen(
        command, cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Node(process)
        assert process.stdin
        process.stdin.close()


def expressions(value: Any) -> Iterator[str]:
    """Yield each JSONata expression in a definition, with its braces."""
    if isinstance(value, str) and value.startswith("{%"):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from expressions(one)


@dataclass
class Walk:
    """One execution: the states that it entered, the arguments of its tasks, and how it ended."""

    machine: dict[str, Any]
    given: Any
    task: Task
    node: Node
    evaluated: set[str]
    """Every expression that was evaluated, of all walks that share this set."""
    entered: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    error: dict[str, str] | None = None
    waited: list[int] = field(default_factory=list)
    """Seconds of each Wait; they pass in the context's times only."""

    @property
    def context(self) -> dict[str, Any]:
        """The context object: https://docs.aws.amazon.com/step-functions/latest/dg/input-output-contextobject.html."""
        arn = f"arn:aws:states:{REGION}:{ACCOUNT}"
        return {
            "Execution": {
                "Id": f"{arn}:execution:classify:{EXECUTION}",
                "Input": self.given,
                "Name": EXECUTION,
                "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/classify",
                "StartTime": ENTERED,
            },
            "State": {"EnteredTime": self._now(), "Name": self.entered[-1], "RetryCount": 0},
            "StateMachine": {"Id": f"{arn}:stateMachine:classify", "Name": "classify"},
        }

    def run(self) -> "Walk":
        name: str | None = self.machine["StartAt"]
        state_input = self.given
        while name:
            self.entered.append(name)
            state = self.machine["States"][name]
            name, state_input = getattr(self, f"_{state['Type'].lower()}")(state, state_input)
        self.output = None if self.error else state_input
        return self

    def _now(self) -> str:
        now = datetime.fromisoformat(ENTERED) + timedelta(seconds=sum(self.waited))
        return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _wait(self, state: dict[str, Any], given: Any) -> tuple[str | None, Any]:
        seconds = self._value(state["Seconds"], {"input": given})
        assert seconds == int(seconds) >= 0, seconds
        self.waited.append(int(seconds))
        return self._next(state), self._finish(state, {"input": given}, given)

    def _pass(self, state: dict[str, Any], given: Any) -> tuple[str | None, Any]:
        return self._next(state), self._finish(state, {"input": given}, given)

    def _succeed(self, state: dict[str, Any], given: Any) -> tuple[None, Any]:
        return None, self._finish(state, {"input": given}, given)

    def _fail(self, state: dict[str, Any], given: Any) -> tuple[None, Any]:
        self.error = {key: self._value(state[key], {"input": given}) for key in ("Error", "Cause")}
        assert all(isinstance(text, str) for text in self.error.values())
        return None, None

    def _choice(self, state: dict[str, Any], given: Any) -> tuple[str, Any]:
        for rule in state["Choices"]:
            holds = self._value(rule["Condition"], {"input": given})
            assert isinstance(holds, bool), f"a condition has to be true or false: {rule['Condition']}"
            if holds:
                return rule["Next"], self._finish(rule, {"input": given}, given)
        return state["Default"], self._finish(state, {"input": given}, given)

    def _task(self, state: dict[str, Any], given: Any) -> tuple[str | None, Any]:
        name = self.entered[-1]
        try:
            self.arguments[name] = self._value(state["Arguments"], {"input": given})
            result = self.task(name, self.arguments[name])
        except TaskFailedError as fault:
            for catch in state.get("Catch", []):
                if {"States.ALL", fault.output["Error"]} & set(catch["ErrorEquals"]):
                    states = {"input": given, "errorOutput": fault.output}
                    return catch["Next"], self._finish(catch, states, fault.output)
            self.error = fault.output
            return None, None
        return self._next(state), self._finish(state, {"input": given, "result": result}, result)

    def _map(self, state: dict[str, Any], given: Any) -> tuple[str | None, Any]:
        """Evaluate what a distributed Map says about its run; its children are executions of their own."""
        paths = {key: value for key, value in state.items() if key.endswith("Path")}
        paths |= {key: path for key, path in state["ItemReader"]["Parameters"].items() if key.endswith(".$")}
        self.arguments[self.entered[-1]] = {
            key: given[path.removeprefix("$.")] for key, path in paths.items()
        }
        return self._next(state), {}

    @staticmethod
    def _next(state: dict[str, Any]) -> str | None:
        assert ("Next" in state) != state.get("End", False)
        return state.get("Next")

    def _finish(self, holder: dict[str, Any], states: dict[str, Any], default: Any) -> Any:
        """Give the output and set the variables, both from the variables as they were before."""
        assigned = self._value(holder.get("Assign", {}), states)
        output = self._value(holder["Output"], states) if "Output" in holder else default
        self.variables |= assigned
        return copy.deepcopy(output)

    def _value(self, template: Any, states: dict[str, Any]) -> Any:
        if isinstance(template, dict):
            return {key: self._value(value, states) for key, value in template.items()}
        if isinstance(template, list):
            return [self._value(value, states) for value in template]
        if not isinstance(template, str) or not template.startswith("{%"):
            return template
        assert template.endswith("%}"), template
        self.evaluated.add(template)
        bindings = {**self.variables, "states": {"context": self.context, **states}}
        return self.node.evaluate(template.removeprefix("{%").removesuffix("%}"), bindings)
