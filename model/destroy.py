"""Delete a deployed stack and the photos in its bucket."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import click
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import StackTypeDef
    from mypy_boto3_s3.service_resource import Bucket
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

console = Console(stderr=True)


@click.command("destroy")
@click.option("--stack", "name", required=True, help="The stack's name, e.g. scones-unlimited-dev.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(*, name: str, dry_run: bool, yes: bool) -> None:
    """Delete a deployed stack and the photos in its bucket.

    Fine to call again, also after a deletion that stopped half-way. Asks first; the region and the account
    are those of your AWS environment.
    """
    try:
        destroy(name, dry_run=dry_run, yes=yes)
    except (BotoCoreError, ClientError) as error:
        raise click.ClickException(f"{error} Nothing else was deleted; try again.") from error


def destroy(name: str, *, dry_run: bool, yes: bool) -> None:
    """Delete a stack of this project, after asking.

    Raises
    ------
    click.ClickException
        The stack is not this project's.
    click.Abort
        The answer is no.
    botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError
        AWS does not let us, or is out of reach.
    """
    stack = described(name)
    if stack is None:
        click.echo(f"There is no stack {name}: nothing to delete.")
        return
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    if stack.get("Outputs") and "UploadBucketName" not in outputs:
        raise click.ClickException(f"{name} is not a stack of this project: it has no UploadBucketName.")
    bucket = boto3.resource("s3").Bucket(outputs["UploadBucketName"]) if outputs else None
    click.echo(f"{stack['StackId']}" + (f", and every photo in s3://{bucket.name}" if bucket else ""))
    if dry_run:
        return
    if not yes:
        click.confirm("Delete it for good?", abort=True)
    if bucket:
        empty(bucket)
    cloudformation = boto3.client("cloudformation")
    cloudformation.delete_stack(StackName=stack["StackId"])
    with console.status(f"Deleting {name} …"):
        cloudformation.get_waiter("stack_delete_complete").wait(
            StackName=stack["StackId"], WaiterConfig={"Delay": 2, "MaxAttempts": 450}
        )
    click.echo(f"Deleted {name}.")


def described(name: str) -> "StackTypeDef | None":
    """Return CloudFormation's description of a stack, ``None`` where there is none."""
    try:
        return boto3.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


def empty(bucket: "Bucket") -> None:
    """Delete every version of every object, 1,000 at a time, which is DeleteObjects' limit."""
    for batch in track(batches(bucket), "Deleting photos", console=console, transient=True):
        bucket.delete_objects(Delete={"Objects": batch, "Quiet": True})


def batches(bucket: "Bucket") -> Iterator[list["ObjectIdentifierTypeDef"]]:
    """Yield the keys and ids of the versions in a bucket, a page at a time."""
    for page in bucket.object_versions.pages():
        yield [{"Key": version.object_key, "VersionId": version.id} for version in page]
