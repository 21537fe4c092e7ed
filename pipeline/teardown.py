"""All that this project has made in an account and on this machine, in the order in which it can go."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from model.sagemaker import autoscaling, endpoint, image, registry
from model.sagemaker.account import (
    PROJECT,
    ROLES_STACK,
    Account,
    described,
    explain,
    ignore_missing,
    is_gone,
    outputs_of,
    tag_values,
)
from model.sagemaker.deployment_file import FILE, Deployment, DeploymentError
from model.sagemaker.endpoint import EndpointError
from model.storage import StorageError, delete_objects, list_prefix_versions

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

console = Console(stderr=True)

STACK_TAG = "aws:cloudformation:stack-name"

BUCKETS = ("UploadBucketName", "WorkspaceBucketName")
"""Outputs of our stacks that name a bucket, which has to be empty to go."""

TRAINING_LOGS = "/aws/sagemaker/TrainingJobs"

ENDPOINT_LOGS = "/aws/sagemaker/Endpoints"

STACK_POLL = 2.0


class DeletionError(Exception):
    """Something could not be deleted; the message says why."""


@dataclass(frozen=True)
class Found:
    """Something of ours.

    Attributes
    ----------
    kind, name
        What it is.
    stage
        Whose it is; ``None`` if it serves all stages.
    delete
        Makes it go; that it has gone already is fine.
    """

    kind: str
    name: str
    stage: str | None
    delete: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def take(account: Account, stage: str | None = None) -> list[Found]:
    """Find everything, or what is a stage's.

    Parameters
    ----------
    account
        Where to look.
    stage
        Whose things are wanted. What serves all stages is among them if there is no other stage.

    Returns
    -------
    list of Found
        In the order in which they can be deleted.
    """
    everything = list(_everything(account))
    others = {found.stage for found in everything} - {stage, None}
    wanted = {stage} if others else {stage, None}
    return [found for found in everything if stage is None or found.stage in wanted]


def _everything(account: Account) -> Iterator[Found]:
    yield from _scaling(account)
    yield from _alarms(account)
    yield from _endpoints(account)
    yield from _configs(account)
    yield from _models(account)
    yield from _training_jobs(account)
    yield from _stacks(account, shared=False)
    yield from _logs(account)
    yield from _packages(account)
    yield from _repositories(account)
    yield from _stacks(account, shared=True)
    yield from _local()


def _ours(tags: dict[str, str]) -> bool:
    """Tell whether tags are those of something of ours that no stack takes with it."""
    return tags.get("project") == PROJECT and STACK_TAG not in tags


def _stage_of(name: str) -> str | None:
    """Return the stage in a name of ours, for things that AWS makes on its own and tags not."""
    return name.removeprefix(f"{PROJECT}-").partition("-")[0] or None


def _scaling(account: Account) -> Iterator[Found]:
    pages = account.autoscaling.get_paginator("describe_scalable_targets").paginate(
        ServiceNamespace="sagemaker"
    )
    for target in (target for page in pages for target in page["ScalableTargets"]):
        name = target["ResourceId"].split("/")[1]
        # part of its endpoint, with which AWS forgets it
        if name.startswith(f"{PROJECT}-"):
            yield Found(
                "autoscaling of", name, _stage_of(name), partial(autoscaling.stop_scaling, account, name)
            )


def _alarms(account: Account) -> Iterator[Found]:
    pages = account.cloudwatch.get_paginator("describe_alarms").paginate(AlarmNamePrefix=f"{PROJECT}-")
    for alarm in (alarm for page in pages for alarm in page["MetricAlarms"]):
        tags = tag_values(account.cloudwatch.list_tags_for_resource(ResourceARN=alarm["AlarmArn"])["Tags"])
        if _ours(tags):
            name = alarm["AlarmName"]
            delete = partial(account.cloudwatch.delete_alarms, AlarmNames=[name])
            yield Found("alarm", name, tags.get("stage"), _silent(delete))


def _endpoints(account: Account) -> Iterator[Found]:
    found = _listed(account, "list_endpoints", "Endpoints", "EndpointName", "EndpointArn")
    for name, stage in found:
        yield Found("endpoint", name, stage, partial(endpoint.delete, account, name))


def _configs(account: Account) -> Iterator[Found]:
    found = _listed(
        account, "list_endpoint_configs", "EndpointConfigs", "EndpointConfigName", "EndpointConfigArn"
    )
    for name, stage in found:
        yield Found("endpoint configuration", name, stage, partial(endpoint.delete_config, account, name))


def _models(account: Account) -> Iterator[Found]:
    for name, stage in _listed(account, "list_models", "Models", "ModelName", "ModelArn"):
        yield Found("model", name, stage, partial(endpoint.delete_model, account, name))


def _training_jobs(account: Account) -> Iterator[Found]:
    found = _listed(
        account, "list_training_jobs", "TrainingJobSummaries", "TrainingJobName", "TrainingJobArn"
    )
    for name, stage in found:
        yield Found("training job", name, stage, partial(_delete_training_job, account, name))


def _listed(
    account: Account,
    operation: Any,  # noqa: ANN401  boto3-stubs has a literal for each
    key: str,
    name: str,
    arn: str,
) -> Iterator[tuple[str, str | None]]:
    """Yield name and stage of what a listing of SageMaker's has of ours."""
    pages = account.sagemaker.get_paginator(operation).paginate(NameContains=PROJECT)
    for one in (one for page in pages for one in page[key]):
        # the tags of others, whose names may hold ours, need not be ours to read
        tags = endpoint.tags_of(account, one[arn]) if one[name].startswith(PROJECT) else {}
        if _ours(tags):
            yield one[name], tags.get("stage")


def _delete_training_job(account: Account, name: str) -> None:
    def status() -> str | None:
        try:
            return account.sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"]
        except ClientError as error:
            if is_gone(error):
                return None
            raise

    if status() == "InProgress":
        account.sagemaker.stop_training_job(TrainingJobName=name)
    while status() in {"InProgress", "Stopping"}:
        time.sleep(endpoint.POLL_SECONDS)
    ignore_missing(lambda: account.sagemaker.delete_training_job(TrainingJobName=name))
    _delete_streams(account, name)


def _delete_streams(account: Account, job: str) -> None:
    """Delete a job's logs, which lie among those of everybody's jobs."""
    try:
        pages = account.logs.get_paginator("describe_log_streams").paginate(
            logGroupName=TRAINING_LOGS, logStreamNamePrefix=f"{job}/"
        )
        streams = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
    except ClientError as error:
        if is_gone(error):
            return
        raise
    for stream in streams:
        account.logs.delete_log_stream(logGroupName=TRAINING_LOGS, logStreamName=stream)


def _logs(account: Account) -> Iterator[Found]:
    pages = account.logs.get_paginator("describe_log_groups").paginate(
        logGroupNamePrefix=f"{ENDPOINT_LOGS}/{PROJECT}-"
    )
    for group in (group["logGroupName"] for page in pages for group in page["logGroups"]):
        # SageMaker makes it, without tags, and the name is the endpoint's
        stage = _stage_of(group.rpartition("/")[2])
        delete = partial(account.logs.delete_log_group, logGroupName=group)
        yield Found("log group", group, stage, _silent(delete))


def _packages(account: Account) -> Iterator[Found]:
    pages = account.sagemaker.get_paginator("list_model_package_groups").paginate(NameContains=PROJECT)
    for group in (group for page in pages for group in page["ModelPackageGroupSummaryList"]):
        ours = group["ModelPackageGroupName"] == registry.GROUP
        if not ours or not _ours(endpoint.tags_of(account, group["ModelPackageGroupArn"])):
            continue
        for package in registry.packages(account):
            delete = partial(account.sagemaker.delete_model_package, ModelPackageName=package)
            yield Found("model package", package.partition("/")[2], None, _silent(delete))
        name = group["ModelPackageGroupName"]
        delete = partial(account.sagemaker.delete_model_package_group, ModelPackageGroupName=name)
        yield Found("model package group", name, None, _silent(delete))


def _repositories(account: Account) -> Iterator[Found]:
    try:
        found = account.ecr.describe_repositories(repositoryNames=[image.REPOSITORY])["repositories"]
    except account.ecr.exceptions.RepositoryNotFoundException:
        return
    for repository in found:
        listed = account.ecr.list_tags_for_resource(resourceArn=repository["repositoryArn"])
        if _ours(tag_values(listed["tags"])):
            name = repository["repositoryName"]
            delete = partial(account.ecr.delete_repository, repositoryName=name, force=True)
            yield Found("image repository", name, None, _silent(delete))


def _stacks(account: Account, *, shared: bool) -> Iterator[Found]:
    pages = account.cloudformation.get_paginator("describe_stacks").paginate()
    for stack in (stack for page in pages for stack in page["Stacks"]):
        name, tags = stack["StackName"], tag_values(stack.get("Tags", []))
        if tags.get("project") == PROJECT and (name == ROLES_STACK) == shared:
            yield Found(
                "stack",
                with_content(name, outputs_of(stack)),
                tags.get("stage"),
                partial(delete_stack, account, stack),
            )


def with_content(name: str, outputs: Mapping[str, str]) -> str:
    """Name a stack and what goes with it."""
    buckets = [f"everything in s3://{outputs[key]}" for key in BUCKETS if key in outputs]
    domain = [f"Studio domain {outputs['StudioDomainId']}"] if "StudioDomainId" in outputs else []
    return ", with ".join([name, *buckets, *domain])


def delete_stack(account: Account, stack: Any) -> None:  # noqa: ANN401  as CloudFormation describes it
    """Delete a stack, its buckets emptied first, and wait until it is gone.

    Raises
    ------
    DeletionError
        CloudFormation could not delete it; the reason is CloudFormation's.
    """
    outputs = outputs_of(stack)
    for bucket in (outputs[key] for key in BUCKETS if key in outputs):
        empty(account.s3, bucket)
    if "StudioDomainId" in outputs:
        delete_domain(account, outputs["StudioDomainId"])
    stack_id = stack["StackId"]
    account.cloudformation.delete_stack(StackName=stack_id)
    with console.status(f"Deleting {stack['StackName']} …"):
        while True:
            now = described(account.cloudformation, stack_id)
            if now is None or now["StackStatus"] == "DELETE_COMPLETE":
                return
            if now["StackStatus"] == "DELETE_FAILED":
                raise DeletionError(now.get("StackStatusReason", "its events in CloudFormation say why"))
            time.sleep(STACK_POLL)


def empty(s3: "S3Client", bucket: str, prefix: str = "") -> None:
    """Delete every version of every object under a prefix; that there is no such bucket is fine."""
    ignore_missing(lambda: delete_objects(s3, bucket, list_prefix_versions(s3, bucket, prefix)))


def delete_domain(account: Account, domain: str) -> None:
    """Delete a Studio domain with all that people made in it, their files included.

    CloudFormation would not delete a domain in which an application runs, and would leave the files.
    """
    sagemaker = account.sagemaker

    def apps() -> list[Any]:
        listed = sagemaker.list_apps(DomainIdEquals=domain)["Apps"]
        return [app for app in listed if app["Status"] not in {"Deleted", "Failed"}]

    with console.status(f"Deleting Studio domain {domain} …"):
        for app in apps():
            owner = {key: app[key] for key in ("UserProfileName", "SpaceName") if key in app}
            named = {"AppType": app["AppType"], "AppName": app["AppName"]}
            ignore_missing(partial(sagemaker.delete_app, DomainId=domain, **owner, **named))
        while apps():
            time.sleep(endpoint.POLL_SECONDS)
        for space in sagemaker.list_spaces(DomainIdEquals=domain)["Spaces"]:
            ignore_missing(partial(sagemaker.delete_space, DomainId=domain, SpaceName=space["SpaceName"]))
        while sagemaker.list_spaces(DomainIdEquals=domain)["Spaces"]:
            time.sleep(endpoint.POLL_SECONDS)
        profiles = sagemaker.list_user_profiles(DomainIdEquals=domain)["UserProfiles"]
        for profile in profiles:
            name = profile["UserProfileName"]
            ignore_missing(partial(sagemaker.delete_user_profile, DomainId=domain, UserProfileName=name))
        while sagemaker.list_user_profiles(DomainIdEquals=domain)["UserProfiles"]:
            time.sleep(endpoint.POLL_SECONDS)
        ignore_missing(
            lambda: sagemaker.delete_domain(DomainId=domain, RetentionPolicy={"HomeEfsFileSystem": "Delete"})
        )


def _local() -> Iterator[Found]:
    try:
        yield Found("file", str(FILE), Deployment.read(FILE).stage, lambda: FILE.unlink(missing_ok=True))
    except DeploymentError:
        if FILE.exists():
            yield Found("file", str(FILE), None, lambda: Path(FILE).unlink(missing_ok=True))
    for name in image.local_images():
        yield Found("image on this machine", name, None, partial(_remove_image, name))


def _remove_image(name: str) -> None:
    done = subprocess.run(["docker", "rmi", name], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode and "No such image" not in done.stderr:
        raise DeletionError(f"{name}: {done.stderr.strip()}")


def _silent(delete: Callable[[], object]) -> Callable[[], None]:
    return lambda: ignore_missing(delete)


def of_stack(account: Account, name: str) -> list[Found]:
    """Find one stack of ours, whatever its tags.

    Raises
    ------
    click.ClickException
        The stack is not this project's.
    """
    stack = described(account.cloudformation, name)
    if stack is None:
        return []
    outputs = outputs_of(stack)
    if outputs and not set(BUCKETS) & outputs.keys():
        raise click.ClickException(f"{name} is not a stack of this project: it has no UploadBucketName.")
    shown = with_content(name, outputs)
    return [Found("stack", shown, None, lambda: delete_stack(account, stack))]


def deleted(found: Found, *, quiet: bool = False) -> bool:
    """Delete something, saying so unless it is to be quiet; return whether it is gone."""
    try:
        found.delete()
    except (BotoCoreError, ClientError, DeletionError, EndpointError, StorageError) as error:
        reason = explain(error) if isinstance(error, (BotoCoreError, ClientError)) else str(error)
        click.echo(f"Not deleted: {found}: {reason}", err=True)
        return False
    if not quiet:
        click.echo(f"Deleted {found}.")
    return True
