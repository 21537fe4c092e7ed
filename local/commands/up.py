"""``scones up``."""

import json
from pathlib import Path

import click
from rich.console import Console

from local import Ports
from local.options import json_option, with_stack
from local.steps import Steps, interruptible


@click.command("up")
@click.option(
    "--for-containers",
    is_flag=True,
    help="Run the functions in Lambda's images, and answer on Docker's bridge too, for `sam local invoke`.",
)
@json_option
@with_stack
def command(
    *, for_containers: bool, model: Path | None, emulator_port: int, endpoint_port: int, as_json: bool
) -> None:
    """Start everything, deploy the stack, and leave it running.

    Writes .local/stack.json, which says where everything is.

    \b
    Examples:
      scones up
      scones up --json | jq -r .outputs.UploadBucketName
      scones up --model trained/ --for-containers
    """  # noqa: D301  click reads \b as a character
    console = Console(stderr=as_json)
    with interruptible(), Steps(console) as report:
        from local.stack import Stack  # noqa: PLC0415  --help should not wait for it

        ports = Ports(emulator_port, endpoint_port)
        stack = Stack(ports=ports, model=model, for_containers=for_containers)
        stack.up(report)
    if as_json:
        click.echo(json.dumps(json.loads(Path(stack.description).read_text())))
        return
    console.print(
        f"\nThe stack is up. In your shell:\n\n"
        f"  export AWS_ENDPOINT_URL={stack.container_url if for_containers else stack.endpoint_url}\n"
        f"  export AWS_DEFAULT_REGION={stack.region}\n"
        f"  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test\n"
        f"  aws s3 cp photo.jpg s3://{stack.outputs['UploadBucketName']}/uploads/\n"
        f"  aws dynamodb scan --table-name {stack.outputs['ResultsTableName']}\n\n"
        f"Everything else is in .local/stack.json; `make down` ends it.",
        soft_wrap=True,
        highlight=False,
    )
