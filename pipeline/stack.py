"""Find the stack that a command is about: the local one that `make up` left, or one in AWS by its name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import click
from botocore.config import Config

from model.sagemaker.account import RETRY_CONFIG, connect, describe_stack, stack_outputs

DESCRIPTION = Path(__file__).parents[1] / ".local" / "stack.json"
"""What `make up` writes: where the local stack is, and its outputs."""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""The local stack's, as they stand in an environment."""
AT_AN_ADDRESS = Config(inject_host_prefix=False)
"""Some APIs put a prefix before the host's name, which of a local stack is an address."""


class StackError(Exception):
    """There is no such stack; the message says what to do."""


@dataclass(frozen=True)
class Stack:
    """A deployed stack.

    Attributes
    ----------
    name
        In CloudFormation.
    session
        Where the clients come from.
    outputs
        As in ``template.yaml``, by name.
    endpoint_url
        Where every service of a local stack answers; ``None`` in AWS.
    """

    name: str
    session: boto3.Session
    outputs: Mapping[str, str]
    endpoint_url: str | None = None
    _clients: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def client(self, service: str) -> Any:  # noqa: ANN401  boto3 names its clients' types at run time
        """Return boto3's client of a service."""
        if service not in self._clients:
            config = RETRY_CONFIG.merge(AT_AN_ADDRESS) if self.endpoint_url else RETRY_CONFIG
            self._clients[service] = self.session.client(  # type: ignore[call-overload]
                service, endpoint_url=self.endpoint_url, config=config
            )
        return self._clients[service]

    def output(self, name: str) -> str:
        """Return an output.

        Raises
        ------
        StackError
            The stack has none of this name: it was deployed from an older template.
        """
        try:
            return self.outputs[name]
        except KeyError:
            raise StackError(f"stack {self.name} has no output {name}: deploy it again") from None


def lists_executions(step_functions: Any, state_machine: str) -> bool:  # noqa: ANN401  as `Stack.client`
    """Tell whether a state machine's executions can be listed: an Express one's are in its log alone."""
    return bool(step_functions.describe_state_machine(stateMachineArn=state_machine)["type"] == "STANDARD")


stack_option = click.option(
    "--stack",
    metavar="NAME",
    help="A stack in AWS, e.g. scones-unlimited-dev, or the stack.json of a local one.  "
    "[default: .local/stack.json, which `make up` writes]",
)


def find(name: str | None) -> Stack:
    """Find a stack by the option ``--stack``.

    Parameters
    ----------
    name
        A stack in the account and region of the AWS environment, a file that describes a local one, or
        ``None`` for the file that `make up` writes.

    Raises
    ------
    StackError
        There is none, or it is not this project's.
    AccountError
        AWS refuses, or is out of reach.
    """
    if name is None or name.endswith(".json"):
        return _local(Path(name) if name else DESCRIPTION)
    account = connect()
    stack = describe_stack(account.cloudformation, name)
    if stack is None:
        raise StackError(f"there is no stack {name} in account {account.id}, {account.region}: make deploy")
    outputs = stack_outputs(stack)
    if "StateMachineArn" not in outputs:
        raise StackError(f"{name} is no stack of this project that is ready: it has no StateMachineArn")
    return Stack(name, account.session, outputs)


def local_session(region: str) -> boto3.Session:
    """Return a session with the local stack's credentials."""
    access_key, secret = CREDENTIALS.values()
    return boto3.Session(access_key, secret, region_name=region)


def _local(file: Path) -> Stack:
    try:
        told = json.loads(file.read_bytes())
        return Stack(told["stack_name"], local_session(told["region"]), told["outputs"], told["endpoint_url"])
    except FileNotFoundError:
        raise StackError(
            "no local stack is up: `make up` first, or name one in AWS with --stack"
            if file == DESCRIPTION
            else f"there is no {file}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackError(f"{file} describes no local stack ({error}): `make down`, then `make up`") from error
