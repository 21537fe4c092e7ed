"""Find and delete everything that this project created in an account and on this machine."""

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError

from model.sagemaker import autoscaling, endpoint, image, registry
from model.sagemaker.account import (
    PROJECT,
    ROLES_STACK,
    Account,
    describe_stack,
    explain,
    ignore_missing,
    paginate,
    stack_outputs,
    tag_values,
)
from model.sagemaker.deployment_file import FILE, Deployment, DeploymentError
from model.sagemaker.endpoint import EndpointError
from model.storage import StorageError, delete_objects, list_prefix_versions
from model.terminal.tables import Console

console = Console(stderr=True)

STACK_TAG = "aws:cloudformation:stack-name"
"""CloudFormation adds it to a stack's resources, which are deleted with the stack."""
BUCKET_OUTPUTS = ("UploadBucketName", "WorkspaceBucketName")
"""Outputs of our stacks that name a bucket, which must be empty before the stack can be deleted."""
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
    delete: Callable[[], object]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def list_resources(account: Account, stage: str | None = None) -> list[Resource]:
    """List all resources, or those of a stage, in the order in which they can be deleted."""
    resources = list(_all_resources(account))
    if stage is None:
        return resources
    # Resources that all stages share are deleted with the last stage.
    others = {resource.stage for resource in resources} - {stage, None}
    included = {stage} if others else {stage, None}
    return [resource for resource in resources if resource.stage in included]


def delete_resources(resources: Iterable[Resource]) -> Iterator[tuple[Resource, str | None]]:
    """Delete resources in order; yield each with the reason if it could not be deleted, or ``None``."""
    for resource in resources:
        try:
            ignore_missing(resource.delete)
        except (BotoCoreError, ClientError, DeletionError, EndpointError, StorageError) as error:
            yield resource, explain(error)
        else:
            yield resource, None


def find_stack(account: Account, name: str) -> list[Resource]:
    """Find a stack by its name, whatever its tags; raise `DeletionError` if it is another project's."""
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
    query = {"ServiceNamespace": "sagemaker"}
    for target in paginate(account.autoscaling, "describe_scalable_targets", "ScalableTargets", **query):
        name = target["ResourceId"].split("/")[1]
        if name.startswith(f"{PROJECT}-"):
            stop = partial(autoscaling.stop_scaling, account, name)
            yield Resource("autoscaling of", name, _stage_in(name), stop)


def _alarms(account: Account) -> Iterator[Resource]:
    cloudwatch = account.cloudwatch
    for alarm in paginate(cloudwatch, "describe_alarms", "MetricAlarms", AlarmNamePrefix=f"{PROJECT}-"):
        tags = tag_values(cloudwatch.list_tags_for_resource(ResourceARN=alarm["AlarmArn"])["Tags"])
        if _is_ours(tags):
            name = alarm["AlarmName"]
            delete = partial(cloudwatch.delete_alarms, AlarmNames=[name])
            yield Resource("alarm", name, tags.get("stage"), delete)


def _sagemaker_resources(account: Account) -> Iterator[Resource]:
    kinds: Iterable[tuple[str, str, str, Callable[[Account, str], None]]] = (
        ("endpoint", "Endpoint", "Endpoints", endpoint.delete),
        ("endpoint configuration", "EndpointConfig", "EndpointConfigs", endpoint.delete_config),
        ("model", "Model", "Models", endpoint.delete_model),
        ("training job", "TrainingJob", "TrainingJobSummaries", _delete_training_job),
    )
    for kind, name_in_api, key, delete in kinds:
        operation = xform_name(f"List{name_in_api}s")
        for found in paginate(account.sagemaker, operation, key, NameContains=PROJECT):
            name = found[f"{name_in_api}Name"]
            # We may not be allowed to read the tags of others' resources, whose names may contain ours.
            tags = endpoint.tags_of(account, found[f"{name_in_api}Arn"]) if name.startswith(PROJECT) else {}
            if _is_ours(tags):
                yield Resource(kind, name, tags.get("stage"), partial(delete, account, name))


def _delete_training_job(account: Account, name: str) -> None:
    def status() -> str | None:
        job = ignore_missing(lambda: account.sagemaker.describe_training_job(TrainingJobName=name))
        return job["TrainingJobStatus"] if job else None

    if status() == "InProgress":
        account.sagemaker.stop_training_job(TrainingJobName=name)
    _wait_while(lambda: status() in {"InProgress", "Stopping"})
    ignore_missing(lambda: account.sagemaker.delete_training_job(TrainingJobName=name))
    ignore_missing(lambda: _delete_log_streams(account, name))


def _delete_log_streams(account: Account, job: str) -> None:
    """Delete a training job's logs from the log group that all jobs of the account share."""
    group, prefix = {"logGroupName": TRAINING_LOGS}, {"logStreamNamePrefix": f"{job}/"}
    for stream in list(paginate(account.logs, "describe_log_streams", "logStreams", **prefix, **group)):
        account.logs.delete_log_stream(logStreamName=stream["logStreamName"], **group)


def _log_groups(account: Account) -> Iterator[Resource]:
    prefix = f"{ENDPOINT_LOGS}/{PROJECT}-"
    for found in paginate(account.logs, "describe_log_groups", "logGroups", logGroupNamePrefix=prefix):
        # SageMaker creates it without tags and names it after the endpoint.
        group = found["logGroupName"]
        stage = _stage_in(group.rpartition("/")[2])
        yield Resource("log group", group, stage, partial(account.logs.delete_log_group, logGroupName=group))


def _model_packages(account: Account) -> Iterator[Resource]:
    sagemaker, listing = account.sagemaker, ("list_model_package_groups", "ModelPackageGroupSummaryList")
    for group in paginate(sagemaker, *listing, NameContains=PROJECT):
        name = group["ModelPackageGroupName"]
        if name != registry.GROUP or not _is_ours(endpoint.tags_of(account, group["ModelPackageGroupArn"])):
            continue
        for package in registry.list_packages(account):
            delete = partial(sagemaker.delete_model_package, ModelPackageName=package)
            yield Resource("model package", package.partition("/")[2], None, delete)
        delete = partial(sagemaker.delete_model_package_group, ModelPackageGroupName=name)
        yield Resource("model package group", name, None, delete)


def _repositories(account: Account) -> Iterator[Resource]:
    ecr, name = account.ecr, image.REPOSITORY
    found = ignore_missing(lambda: ecr.describe_repositories(repositoryNames=[name]))
    for repository in found["repositories"] if found else ():
        tags = ecr.list_tags_for_resource(resourceArn=repository["repositoryArn"])["tags"]
        if _is_ours(tag_values(tags)):
            delete = partial(ecr.delete_repository, repositoryName=name, force=True)
            yield Resource("image repository", name, None, delete)


def _stacks(account: Account, *, shared: bool) -> Iterator[Resource]:
    for stack in paginate(account.cloudformation, "describe_stacks", "Stacks"):
        tags = tag_values(stack.get("Tags", []))
        if tags.get("project") == PROJECT and (stack["StackName"] == ROLES_STACK) == shared:
            yield _stack_resource(account, stack, tags.get("stage"))


def _stack_resource(account: Account, stack: Mapping[str, Any], stage: str | None) -> Resource:
    """Return a stack as a resource; its name lists what is deleted with it."""
    outputs = stack_outputs(stack)
    content = [f"everything in s3://{outputs[key]}" for key in BUCKET_OUTPUTS if key in outputs]
    if "StudioDomainId" in outputs:
        content.append(f"Studio domain {outputs['StudioDomainId']}")
    name = ", with ".join([stack["StackName"], *content])
    return Resource("stack", name, stage, partial(_delete_stack, account, stack))


def _delete_stack(account: Account, stack: Mapping[str, Any]) -> None:
    """Empty the buckets of a stack, delete it, and wait until it is gone."""
    outputs = stack_outputs(stack)
    for bucket in (outputs[key] for key in BUCKET_OUTPUTS if key in outputs):
        versions = list_prefix_versions(account.s3, bucket, "")
        ignore_missing(partial(delete_objects, account.s3, bucket, versions))
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
                reason = current.get("StackStatusReason", "see the stack's events in CloudFormation")
                raise DeletionError(reason)
            time.sleep(STACK_POLL)


def delete_domain(account: Account, domain: str) -> None:
    """Delete a Studio domain; CloudFormation cannot if applications are running, and leaves the files."""
    sagemaker = account.sagemaker

    def remaining(kind: str) -> list[Any]:
        listed = paginate(sagemaker, xform_name(f"List{kind}"), kind, DomainIdEquals=domain)
        return [one for one in listed if kind != "Apps" or one["Status"] not in {"Deleted", "Failed"}]

    content: Iterable[tuple[str, Callable[..., object], set[str]]] = (
        ("Apps", sagemaker.delete_app, {"UserProfileName", "SpaceName", "AppType", "AppName"}),
        ("Spaces", sagemaker.delete_space, {"SpaceName"}),
        ("UserProfiles", sagemaker.delete_user_profile, {"UserProfileName"}),
    )
    with console.status(f"Deleting Studio domain {domain} …"):
        for kind, delete, keys in content:
            for found in remaining(kind):
                identity = {key: found[key] for key in keys & found.keys()}
                ignore_missing(partial(delete, DomainId=domain, **identity))
            _wait_while(partial(remaining, kind))
        policy: Any = {"HomeEfsFileSystem": "Delete"}
        ignore_missing(lambda: sagemaker.delete_domain(DomainId=domain, RetentionPolicy=policy))


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
