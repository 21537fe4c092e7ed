"""Executions of the state machine by the hundred, as in AWS, where all photos of a burst start at once.

Each runs in a thread: the states from Classify to its outcome, with the definition's own retry rules and
expressions, and the real classify function, which calls a real server. The emulator runs only a few
executions at a time.
"""

import random
import subprocess
import sys
import threading
import time
import uuid
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import boto3
import jsonata
import pytest
from botocore.config import Config

from functions.classify import app
from tests.conftest import ROOT
from tests.state_machines import TaskFailedError, Walk, definition

IMAGE = b64encode(b"\xff\xd8 a small photo").decode()
END = {"Filter": "classified", "Notify": "failed"}
"""The states that follow Classify, by what they mean for the photo."""
handler = app.lambda_handler.__wrapped__.__wrapped__
"""Without the decorators, which keep the state of one invocation at a time."""


class Expressions:
    """Evaluates JSONata; all threads share the compiled expressions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._compiled = cache(self._compile)

    def evaluate(self, expression: str, bindings: dict[str, Any]) -> Any:
        with self._lock:
            return self._compiled(expression).evaluate(None, bindings)

    @staticmethod
    def _compile(expression: str) -> jsonata.Jsonata:
        compiled = jsonata.Jsonata.jsonata(expression)
        compiled.register_lambda("random", random.random)
        compiled.register_lambda("uuid", lambda: str(uuid.uuid4()))
        return compiled


@dataclass
class Execution(Walk):
    """An execution in real time, or `speed` times as fast."""

    speed: float = 1
    started_at: float = field(default_factory=time.time)
    attempts: int = 0

    def run(self) -> "Execution":
        name, state_input = "Classify", self.given
        while name not in END:
            self.entered.append(name)
            self.entered_at = self._now()
            state = self.machine["States"][name]
            name, state_input = getattr(self, f"_{state['Type'].lower()}")(state, state_input)
        self.entered.append(name)
        self.seconds = time.time() - self.started_at
        return self

    @property
    def context(self) -> dict[str, Any]:
        context = super().context
        context["Execution"]["StartTime"] = _iso(self.started_at)
        context["State"]["EnteredTime"] = self.entered_at
        return context

    @property
    def transitions(self) -> int:
        """Billed state transitions, each retry included."""
        return len(self.entered) + self.attempts - self.entered.count("Classify")

    def _now(self) -> str:
        return _iso(self.started_at + (time.time() - self.started_at) * self.speed)

    def _wait(self, state: dict[str, Any], given: Any) -> tuple[str | None, Any]:
        after = super()._wait(state, given)
        time.sleep(self.waited[-1] / self.speed)
        return after

    def _task(self, state: dict[str, Any], given: Any) -> tuple[str | None, Any]:
        """Call the task, again as often as the state's Retry says."""
        call, retried = self.task, Counter[int]()

        def with_retries(name: str, arguments: Any) -> Any:
            while True:
                self.attempts += 1
                try:
                    return call(name, arguments)
                except TaskFailedError as fault:
                    delay = _delay(state["Retry"], fault.output["Error"], retried)
                    if delay is None:
                        raise
                    time.sleep(delay / self.speed)

        self.task = with_retries
        try:
            return super()._task(state, given)
        finally:
            self.task = call


def _delay(retriers: list[dict[str, Any]], error: str, retried: Counter[int]) -> float | None:
    """Return the seconds until the next attempt; ``None`` if there is none (Developer Guide, Retry)."""
    for number, retrier in enumerate(retriers):
        if {error, "States.ALL"} & set(retrier["ErrorEquals"]):
            if retried[number] >= retrier["MaxAttempts"]:
                return None
            delay = retrier["IntervalSeconds"] * retrier["BackoffRate"] ** retried[number]
            retried[number] += 1
            assert retrier["JitterStrategy"] == "FULL"
            return random.uniform(0, min(delay, retrier["MaxDelaySeconds"]))
    return None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def classify(name: str, arguments: Any) -> Any:
    """Invoke the function, with its exception as Step Functions sees it."""
    try:
        return {"Payload": handler(arguments["Payload"], None), "StatusCode": 200}
    except Exception as error:
        raise TaskFailedError(type(error).__name__, str(error)) from error


@dataclass
class Pipeline:
    """Starts executions, and waits for all of them."""

    speed: float = 1
    machine: dict[str, Any] = field(
        default_factory=lambda: definition("ClassifyStateMachine", EndpointName="any")
    )
    expressions: Expressions = field(default_factory=Expressions)
    executions: list[Execution] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, photos: int, priority: str = "normal") -> list[Execution]:
        """Start an execution for each photo, all at once."""
        started = [self._execution(priority) for _ in range(photos)]
        self.executions += started
        self.threads += [threading.Thread(target=one.run, daemon=True) for one in started]
        for thread in self.threads[-photos:]:
            thread.start()
        return started

    def join(self) -> None:
        for thread in self.threads:
            thread.join()

    def outcomes(self) -> Counter[str]:
        return Counter(END[one.entered[-1]] for one in self.executions)

    def _execution(self, priority: str) -> Execution:
        given = {"image_data": IMAGE, "content_type": "image/jpeg"}
        execution = Execution(self.machine, given, classify, self.expressions, set(), speed=self.speed)
        execution.variables = {"inference_id": "1", "priority": priority}
        return execution


@contextmanager
def slow_endpoint(photos_per_second: float, port: int = 0) -> Iterator[str]:
    """Serve a slow model in a process of its own; give its URL."""
    command = [sys.executable, "-m", "tests.slow_endpoint", str(photos_per_second), str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def calls_to(url: str) -> Iterator[Counter[str]]:
    """Let the classify function call this endpoint; give the counts of its metrics."""
    counts, lock = Counter[str](), threading.Lock()
    # A function has a connection of its own; here, one pool serves all.
    config = app.RUNTIME.meta.config.merge(Config(max_pool_connections=1000))

    def count(name: str, unit: object, value: float) -> None:
        with lock:
            counts[name] += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENDPOINT_NAME", "any")
        patch.setattr(app, "RUNTIME", boto3.client("sagemaker-runtime", endpoint_url=url, config=config))
        patch.setattr(app.metrics, "add_metric", count)
        app.logger.setLevel("ERROR")
        yield counts
