"""``scones image``: build the container for SageMaker, and push it to ECR."""

import click
from botocore.exceptions import BotoCoreError, ClientError

from model.sagemaker import image, image_cleanup
from model.sagemaker.account import connect, explain, translate_aws_errors
from model.terminal.options import dry_run_option
from model.terminal.output import echo


@click.command("image")
@click.option(
    "--platform",
    type=click.Choice(image.PLATFORMS),
    default="linux/amd64",
    help="The processor; linux/arm64 is Graviton.",
)
@click.option("--push", is_flag=True, help="Push it to ECR; the repository is created if necessary.")
@dry_run_option
def command(*, platform: str, push: bool, dry_run: bool) -> None:
    """Build the container in which SageMaker trains and serves, and push it to ECR with --push.

    The image's tag is a hash of its content, so `deploy` and `train` use the image of the code that you
    have. Prints the image's name. After a push, images older than a week that no registered model, model
    or training job uses are deleted.

    \b
    Examples:
      scones image
      docker run --rm -p 8080:8080 "$(scones image)" serve
      scones image --platform linux/arm64 --push --dry-run

    \b
    Exit codes:
      0  built, and pushed with --push
      1  failure; one line on stderr gives the reason
      2  usage error
    """  # noqa: D301  click reads \b as a character
    name = image.local_name(platform)
    if not push:
        echo(f"Would build {name}." if dry_run else image.build(platform))
        return
    account = connect()
    address = image.uri(account, platform)
    with translate_aws_errors():
        pushed = image.is_pushed(account, address)
        if dry_run:
            echo(f"{address} exists." if pushed else f"Would build {name} and push it as {address}.")
            return
        # A new build would differ, and the repository's tags are immutable.
        if not pushed:
            image.push(account, image.build(platform), platform)
            try:
                for tag in image_cleanup.delete_unused(account):
                    echo(f"Deleted the unused image {tag}.", err=True)
            except (BotoCoreError, ClientError) as error:  # the image that was pushed can still be used
                echo(f"Unused images could not be deleted: {explain(error)}", err=True)
    echo(address)
