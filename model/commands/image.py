"""``scones image``: the container that SageMaker trains and serves in, built and pushed."""

import click

from model.sagemaker.account import connect, translate_aws_errors
from model.sagemaker.image import PLATFORMS, build, foreseen, is_pushed, local_name, push_image, uri


@click.command("image")
@click.option(
    "--platform",
    type=click.Choice(PLATFORMS),
    default="linux/amd64",
    show_default=True,
    help="For which processor; linux/arm64 is Graviton.",
)
@click.option("--push", is_flag=True, help="Push it to ECR, to a repository that is made if need be.")
@click.option("--dry-run", is_flag=True, help="Say what would be built and pushed, and do neither.")
def command(*, platform: str, push: bool, dry_run: bool) -> None:
    """Build the container that SageMaker trains and serves in, and push it to ECR when asked.

    It is tagged with a hash of what is in it, so that `deploy` and `train` use the image of the code that
    you have. Prints the image's name.

    \b
    Examples:
      scones image
      docker run --rm -p 8080:8080 "$(scones image)" serve
      scones image --platform linux/arm64 --push --dry-run

    \b
    Exit codes:
      0  built, and pushed if asked
      1  something failed; one line on stderr says what
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    if not push:
        click.echo(f"Would build {local_name(platform)}." if dry_run else build(platform))
        return
    account = connect()
    if dry_run:
        with translate_aws_errors():
            there = is_pushed(account, uri(account, platform))
        click.echo(f"{uri(account, platform)} is there." if there else foreseen(account, platform))
        return
    with translate_aws_errors():
        # built anew it would be another image, and a tag of ours names but one
        if not is_pushed(account, uri(account, platform)):
            push_image(account, build(platform), platform)
    click.echo(uri(account, platform))
