"""Unit tests open no socket: what needs one belongs to another ring."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_socket
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from tests.aws_shapes import AwsCalls, recording


@pytest.fixture(autouse=True)
def no_sockets() -> None:
    pytest_socket.disable_socket(allow_unix_socket=True)


@pytest.fixture
def context() -> LambdaContext:
    """What Lambda hands to a handler."""
    context = LambdaContext()
    context._function_name = "function-under-test"
    context._memory_limit_in_mb = 512
    context._invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:function-under-test"
    context._aws_request_id = "52fdfc07-2182-454f-963f-5f0f9a621d72"
    return context


@pytest.fixture
def logged(capsys, monkeypatch) -> Callable[[Logger], list[dict[str, Any]]]:
    """Call it with a function's logger, then again after the handler: it returns the lines written."""

    def lines(logger: Logger) -> list[dict[str, Any]]:
        monkeypatch.setattr(logger.registered_handler, "stream", sys.stdout)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return lines


@pytest.fixture
def metrics(capsys) -> Callable[[], dict[str, tuple[str, list[float]]]]:
    """Call it after a handler: it returns the unit and the values of each metric, without Powertools' own."""

    def published() -> dict[str, tuple[str, list[float]]]:
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {
            metric["Name"]: (metric["Unit"], line[metric["Name"]])
            for line in lines
            if "_aws" in line
            for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]
            if metric["Name"] != "ColdStart"
        }

    return published


@pytest.fixture
def aws_calls(aws) -> Iterator[AwsCalls]:
    """The requests of a test to AWS, which have to be valid."""
    with recording() as recorded:
        yield recorded
    assert recorded.violations == []
