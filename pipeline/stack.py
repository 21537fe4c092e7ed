"""Find the stack that a command works on: the local one that `make up` started, or one in AWS by its name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from model.sagemaker.account import RETRY_CONFIG, connect, describe_stack, stack_outputs
from pipeline import HOME

DESCRIPTION = HOME / "stack.json"
"""The file in which `make up` describes the local stack: its addresses and outputs."""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""The local stack's credentials, as environment variables."""
NO_HOST_PREFIX = Config(inject_host_prefix=False)
"""Some APIs put a prefix before the host name; the local stack's host is an IP address, which takes none."""


class StackError(Exception):
    """The stack was not found or cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Stack:
    """A deployed stack, and boto3's clients for it."""

    name: str
    session: boto3.Session
    outputs: Mapping[str, str]
    endpoint_url: str | None = None  # of every service of a local stack; None in AWS
    home: Path | None = None  # the folder of a local stack's files
    _clients: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def client(self, service: str) -> Any:  # noqa: ANN401  boto3 creates its clients' types at run time
        """Return boto3's client for a service."""
        if service not in self._clients:
            config = RETRY_CONFIG.merge(NO_HOST_PREFIX) if self.endpoint_url else RETRY_CONFIG
            self._clients[service] = self.session.client(  # type: ignore[call-overload]
                service, endpoint_url=self.endpoint_url, config=config
            )
        return self._clients[service]

    def output(self, name: str) -> str:
        """Return an output; raise `StackError` if the stack's template is older than the output."""
        try:
            return self.outputs[name]
        except KeyError:
            raise StackError(f"Stack {self.name} has no output {name}. Deploy it again.") from None

    def result_key(self, uri: str) -> dict[str, Any]:
        """Return the parameters of DynamoDB's calls that select a photo's item in the results table."""
        return {"TableName": self.output("ResultsTableName"), "Key": {"photo": {"S": uri}}}

    def start_execution(self, state_machine: str, execution_input: object, **name: str) -> str:
        """Start an execution of the state machine whose ARN is this output; return the execution's ARN."""
        execution = self.client("stepfunctions").start_execution(
            stateMachineArn=self.output(state_machine), input=json.dumps(execution_input), **name
        )
        return str(execution["executionArn"])


def lists_executions(step_functions: Any, state_machine: str) -> bool:  # noqa: ANN401  see Stack.client
    """Tell whether a state machine's executions can be listed; Express ones appear only in its log."""
    return bool(step_functions.describe_state_machine(stateMachineArn=state_machine)["type"] == "STANDARD")


def find_stack(name: str | None) -> Stack:
    """Find a stack in AWS by its name, or a local one by its JSON file; ``None`` is the one of `make up`.

    Raises `StackError` if there is no such stack, or it does not belong to this project; `AccountError` if
    AWS denies access or cannot be reached.
    """
    if name is None or name.endswith(".json"):
        return _read_local_stack(Path(name) if name else DESCRIPTION)
    account = connect()
    stack = describe_stack(account.cloudformation, name)
    if stack is None:
        raise StackError(
            f"No such stack in account {account.id}, {account.region}: {name}. Deploy it with: make deploy"
        )
    outputs = stack_outputs(stack)
    if "StateMachineArn" not in outputs:
        raise StackError(
            f"Stack {name} has no output StateMachineArn: it is another project's, or not deployed yet."
        )
    return Stack(name, account.session, outputs)


def local_session(region: str) -> boto3.Session:
    """Return a session with the local stack's credentials."""
    access_key, secret = CREDENTIALS.values()
    return boto3.Session(access_key, secret, region_name=region)


def _read_local_stack(file: Path) -> Stack:
    try:
        stack = json.loads(file.read_bytes())
        session = local_session(stack["region"])
        return Stack(stack["stack_name"], session, stack["outputs"], stack["endpoint_url"], file.parent)
    except FileNotFoundError:
        not_running = "No local stack is running. Start it with `make up`, or name one in AWS with --stack."
        raise StackError(not_running if file == DESCRIPTION else f"No such file: {file}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackError(
            f"{file} does not describe a local stack ({error}). Restart it: `make down`, then `make up`."
        ) from error
