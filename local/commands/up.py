"""``scones up``."""

from pathlib import Path

import click

from local import Ports, host
from local.options import stack_options
from local.steps import Steps, interruptible, result_console
from model.terminal.options import json_option
from model.terminal.output import echo, echo_json


@click.command("up")
@click.option(
    "--for-containers",
    is_flag=True,
    help="Run the functions in Lambda's images, and listen on Docker's bridge too, for `sam local invoke`.",
)
@json_option
@stack_options
def command(
    *, for_containers: bool, model: Path | None, emulator_port: int, endpoint_port: int, as_json: bool
) -> None:
    """Start the emulator and the endpoint, deploy the stack, and leave it running.

    Writes every name and address to .local/stack.json.

    \b
    Examples:
      scones up
      scones up --json | jq -r .outputs.UploadBucketName
      scones up --model trained/ --for-containers
    """  # noqa: D301  click reads \b as a character
    console = result_console(as_json=as_json)
    with interruptible(), Steps(console) as steps:
        host.require_supported()
        from local.stack import Stack  # noqa: PLC0415  keeps --help fast

        ports = Ports(emulator_port, endpoint_port)
        stack = Stack(ports=ports, model=model, for_containers=for_containers)
        stack.up(steps)
    if as_json:
        echo_json(stack.describe())
        return
    echo(
        "",
        "The stack is up. In your shell:",
        "",
        f"  export AWS_ENDPOINT_URL={stack.container_url if for_containers else stack.endpoint_url}",
        f"  export AWS_REGION={stack.region} AWS_DEFAULT_REGION={stack.region}",
        "  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test",
        f"  aws s3 cp photo.jpg s3://{stack.outputs['UploadBucketName']}/uploads/",
        f"  aws dynamodb scan --table-name {stack.outputs['ResultsTableName']}",
        "",
        "Everything else is in .local/stack.json. Stop the stack with `make down`.",
    )
