"""Find and delete everything that this project created in an account and on this machine."""

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from model.sagemaker import autoscaling, endpoint, image, registry
from model.sagemaker.account import (
    PROJECT,
    ROLES_STACK,
    Account,
    describe_stack,
    explain,
    ignore_missing,
    is_not_found,
    paginate,
    stack_outputs,
    tag_values,
)
from model.sagemaker.deployment_file import FILE, Deployment, DeploymentError
from model.sagemaker.endpoint import EndpointError
from model.storage import StorageError, delete_objects, list_prefix_versions

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

console = Console(stderr=True)

STACK_TAG = "aws:cloudformation:stack-name"
"""CloudFormation adds it to a stack's resources, which are deleted with the stack."""
BUCKET_OUTPUTS = ("UploadBucketName", "WorkspaceBucketName")
"""Outputs of our stacks that name a bucket, which has to be empty before the stack can be deleted."""
TRAINING_LOGS = "/aws/sagemaker/TrainingJobs"
ENDPOINT_LOGS = "/aws/sagemaker/Endpoints"
STACK_POLL = 2.0


class DeletionError(Exception):
    """A resource could not be deleted; the message says why."""


@dataclass(frozen=True)
class Resource:
    """A resource of this project; `stage` is ``None`` if all stages share it."""

    kind: str
    name: str
    stage: str | None
    remove: Callable[[], object]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def delete(self) -> None:
        """Delete the resource; it is not an error if it no longer exists."""
        ignore_missing(self.remove)


def list_resources(account: Account, stage: str | None = None) -> list[Resource]:
    """List all resources, or those of a stage, in the order in which they can be deleted.

    The resources that all stages share are included if no other stage has any.
    """
    resources = list(_all_resources(account))
    if stage is None:
        return resources
    others = {resource.stage for resource in resources} - {stage, None}
    included = {stage} if others else {stage, None}
    return [resource for resource in resources if resource.stage in included]


def delete_resources(resources: Iterable[Resource]) -> Iterator[tuple[Resource, str | None]]:
    """Delete resources in order; yield each with the reason why it could not be deleted, or ``None``."""
    for resource in resources:
        try:
            resource.delete()
        except (BotoCoreError, ClientError, DeletionError, EndpointError, StorageError) as error:
            yield resource, explain(error)
        else:
            yield resource, None


def find_stack(account: Account, name: str) -> list[Resource]:
    """Find one stack of this project by its name, whatever its tags.

    Raises `DeletionError` if the stack is not one of this project's.
    """
    stack = describe_stack(account.cloudformation, name)
    if stack is None:
        return []
    outputs = stack_outputs(stack)
    if outputs and not set(BUCKET_OUTPUTS) & outputs.keys():
        raise DeletionError(f"{name} is not a stack of this project: it has no output UploadBucketName.")
    return [_stack_resource(account, stack, None)]


def _all_resources(account: Account) -> Iterator[Resource]:
    yield from _scaling(account)
    yield from _alarms(account)
    yield from _sagemaker_resources(account)
    yield from _stacks(account, shared=False)
    yield from _log_groups(account)
    yield from _model_packages(account)
    yield from _repositories(account)
    yield from _stacks(account, shared=True)
    yield from _local_resources()


def _is_ours(tags: Mapping[str, str]) -> bool:
    """Tell whether a resource is this project's, and not part of a stack."""
    return tags.get("project") == PROJECT and STACK_TAG not in tags


def _stage_in(name: str) -> str | None:
    """Return the stage in a resource's name, for resources that AWS creates without tags."""
    return name.removeprefix(f"{PROJECT}-").partition("-")[0] or None


def _scaling(account: Account) -> Iterator[Resource]:
    for target in paginate(
        account.autoscaling, "describe_scalable_targets", "ScalableTargets", ServiceNamespace="sagemaker"
    ):
        name = target["ResourceId"].split("/")[1]
        if name.startswith(f"{PROJECT}-"):
            stop = partial(autoscaling.stop_scaling, account, name)
            yield Resource("autoscaling of", name, _stage_in(name), stop)


def _alarms(account: Account) -> Iterator[Resource]:
    for alarm in paginate(
        account.cloudwatch, "describe_alarms", "MetricAlarms", AlarmNamePrefix=f"{PROJECT}-"
    ):
        tags = tag_values(account.cloudwatch.list_tags_for_resource(ResourceARN=alarm["AlarmArn"])["Tags"])
        if _is_ours(tags):
            name = alarm["AlarmName"]
            delete = partial(account.cloudwatch.delete_alarms, AlarmNames=[name])
            yield Resource("alarm", name, tags.get("stage"), delete)


def _sagemaker_resources(account: Account) -> Iterator[Resource]:
    kinds: Iterable[tuple[str, str, str, str, Callable[[Account, str], None]]] = (
        ("endpoint", "list_endpoints", "Endpoints", "Endpoint", endpoint.delete),
        (
            "endpoint configuration",
            "list_endpoint_configs",
            "EndpointConfigs",
            "EndpointConfig",
            endpoint.delete_config,
        ),
        ("model", "list_models", "Models", "Model", endpoint.delete_model),
        ("training job", "list_training_jobs", "TrainingJobSummaries", "TrainingJob", _delete_training_job),
    )
    for kind, operation, key, prefix, delete in kinds:
        for found in paginate(account.sagemaker, operation, key, NameContains=PROJECT):
            name = found[f"{prefix}Name"]
            # We may not be allowed to read the tags of others' resources, whose names may contain ours.
            tags = endpoint.tags_of(account, found[f"{prefix}Arn"]) if name.startswith(PROJECT) else {}
            if _is_ours(tags):
                yield Resource(kind, name, tags.get("stage"), partial(delete, account, name))


def _delete_training_job(account: Account, name: str) -> None:
    def status() -> str | None:
        try:
            return account.sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"]
        except ClientError as error:
            if is_not_found(error):
                return None
            raise

    if status() == "InProgress":
        account.sagemaker.stop_training_job(TrainingJobName=name)
    _wait_while(lambda: status() in {"InProgress", "Stopping"})
    ignore_missing(lambda: account.sagemaker.delete_training_job(TrainingJobName=name))
    ignore_missing(lambda: _delete_log_streams(account, name))


def _delete_log_streams(account: Account, job: str) -> None:
    """Delete a training job's logs from the log group that all jobs of the account share."""
    group = {"logGroupName": TRAINING_LOGS}
    streams = paginate(
        account.logs, "describe_log_streams", "logStreams", logStreamNamePrefix=f"{job}/", **group
    )
    for stream in list(streams):
        account.logs.delete_log_stream(logStreamName=stream["logStreamName"], **group)


def _log_groups(account: Account) -> Iterator[Resource]:
    prefix = f"{ENDPOINT_LOGS}/{PROJECT}-"
    for found in paginate(account.logs, "describe_log_groups", "logGroups", logGroupNamePrefix=prefix):
        # SageMaker creates it without tags and names it after the endpoint.
        group = found["logGroupName"]
        stage = _stage_in(group.rpartition("/")[2])
        yield Resource("log group", group, stage, partial(account.logs.delete_log_group, logGroupName=group))


def _model_packages(account: Account) -> Iterator[Resource]:
    sagemaker = account.sagemaker
    for group in paginate(
        sagemaker, "list_model_package_groups", "ModelPackageGroupSummaryList", NameContains=PROJECT
    ):
        name = group["ModelPackageGroupName"]
        if name != registry.GROUP or not _is_ours(endpoint.tags_of(account, group["ModelPackageGroupArn"])):
            continue
        for package in registry.list_packages(account):
            delete = partial(sagemaker.delete_model_package, ModelPackageName=package)
            yield Resource("model package", package.partition("/")[2], None, delete)
        delete = partial(sagemaker.delete_model_package_group, ModelPackageGroupName=name)
        yield Resource("model package group", name, None, delete)


def _repositories(account: Account) -> Iterator[Resource]:
    try:
        repositories = account.ecr.describe_repositories(repositoryNames=[image.REPOSITORY])["repositories"]
    except account.ecr.exceptions.RepositoryNotFoundException:
        return
    for repository in repositories:
        tags = account.ecr.list_tags_for_resource(resourceArn=repository["repositoryArn"])["tags"]
        if _is_ours(tag_values(tags)):
            name = repository["repositoryName"]
            delete = partial(account.ecr.delete_repository, repositoryName=name, force=True)
            yield Resource("image repository", name, None, delete)


def _stacks(account: Account, *, shared: bool) -> Iterator[Resource]:
    for stack in paginate(account.cloudformation, "describe_stacks", "Stacks"):
        tags = tag_values(stack.get("Tags", []))
        if tags.get("project") == PROJECT and (stack["StackName"] == ROLES_STACK) == shared:
            yield _stack_resource(account, stack, tags.get("stage"))


def _stack_resource(account: Account, stack: Mapping[str, Any], stage: str | None) -> Resource:
    """Return a stack as a resource, whose name lists what is deleted with it."""
    outputs = stack_outputs(stack)
    content = [f"everything in s3://{outputs[key]}" for key in BUCKET_OUTPUTS if key in outputs]
    if "StudioDomainId" in outputs:
        content.append(f"Studio domain {outputs['StudioDomainId']}")
    name = ", with ".join([stack["StackName"], *content])
    return Resource("stack", name, stage, partial(delete_stack, account, stack))


def delete_stack(account: Account, stack: Mapping[str, Any]) -> None:
    """Empty the buckets of a stack, delete it, and wait until it is gone.

    Raises `DeletionError` if CloudFormation could not delete it; the message has CloudFormation's reason.
    """
    outputs = stack_outputs(stack)
    for bucket in (outputs[key] for key in BUCKET_OUTPUTS if key in outputs):
        empty_bucket(account.s3, bucket)
    if "StudioDomainId" in outputs:
        delete_domain(account, outputs["StudioDomainId"])
    stack_id = stack["StackId"]
    account.cloudformation.delete_stack(StackName=stack_id)
    with console.status(f"Deleting {stack['StackName']} …"):
        while True:
            current = describe_stack(account.cloudformation, stack_id)
            if current is None or current["StackStatus"] == "DELETE_COMPLETE":
                return
            if current["StackStatus"] == "DELETE_FAILED":
                raise DeletionError(
                    current.get("StackStatusReason", "see the stack's events in CloudFormation")
                )
            time.sleep(STACK_POLL)


def empty_bucket(s3: "S3Client", bucket: str, prefix: str = "") -> None:
    """Delete every version of every object under a prefix, if the bucket exists."""
    ignore_missing(lambda: delete_objects(s3, bucket, list_prefix_versions(s3, bucket, prefix)))


def delete_domain(account: Account, domain: str) -> None:
    """Delete a Studio domain with its applications, spaces, users and files.

    CloudFormation does not delete a domain with running applications, and it leaves the files.
    """
    sagemaker = account.sagemaker

    def apps() -> list[Any]:
        listed = sagemaker.list_apps(DomainIdEquals=domain)["Apps"]
        return [app for app in listed if app["Status"] not in {"Deleted", "Failed"}]

    def spaces() -> list[Any]:
        return sagemaker.list_spaces(DomainIdEquals=domain)["Spaces"]

    def profiles() -> list[Any]:
        return sagemaker.list_user_profiles(DomainIdEquals=domain)["UserProfiles"]

    with console.status(f"Deleting Studio domain {domain} …"):
        for app in apps():
            owner = {key: app[key] for key in ("UserProfileName", "SpaceName") if key in app}
            app_id = {"AppType": app["AppType"], "AppName": app["AppName"]}
            ignore_missing(partial(sagemaker.delete_app, DomainId=domain, **owner, **app_id))
        _wait_while(apps)
        for space in spaces():
            ignore_missing(partial(sagemaker.delete_space, DomainId=domain, SpaceName=space["SpaceName"]))
        _wait_while(spaces)
        for profile in profiles():
            name = profile["UserProfileName"]
            ignore_missing(partial(sagemaker.delete_user_profile, DomainId=domain, UserProfileName=name))
        _wait_while(profiles)
        ignore_missing(
            lambda: sagemaker.delete_domain(DomainId=domain, RetentionPolicy={"HomeEfsFileSystem": "Delete"})
        )


def _wait_while(condition: Callable[[], object]) -> None:
    while condition():
        time.sleep(endpoint.POLL_SECONDS)


def _local_resources() -> Iterator[Resource]:
    if FILE.exists():
        try:
            stage = Deployment.read(FILE).stage
        except DeploymentError:
            stage = None
        yield Resource("file", str(FILE), stage, partial(FILE.unlink, missing_ok=True))
    for name in image.local_images():
        yield Resource("image on this machine", name, None, partial(_remove_image, name))


def _remove_image(name: str) -> None:
    done = subprocess.run(["docker", "rmi", name], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode and "No such image" not in done.stderr:
        raise DeletionError(f"{name}: {done.stderr.strip()}")
