"""Delete container images in ECR that nothing uses any more."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from model.sagemaker import image, registry
from model.sagemaker.account import PROJECT, Account, ignore_missing, paginate

KEPT = timedelta(days=7)
"""Newer images stay, because somebody may be about to train or deploy with them."""


def delete_unused(account: Account) -> list[str]:
    """Delete the tagged images that no registered model, model or training job uses; return their tags."""
    oldest_kept = datetime.now(UTC) - KEPT
    images = paginate(account.ecr, "describe_images", "imageDetails", repositoryName=image.REPOSITORY)
    old = [found for found in images if found.get("imageTags") and found["imagePushedAt"] < oldest_kept]
    if not old:
        return []
    used = {address.partition(f"/{image.REPOSITORY}")[2][1:] for address in _used(account)}
    used |= {image.tag(platform) for platform in image.PLATFORMS}
    unused = [found for found in old if not used & {found["imageDigest"], *found["imageTags"]}]
    for found in unused:
        account.ecr.batch_delete_image(
            repositoryName=image.REPOSITORY, imageIds=[{"imageTag": tag} for tag in found["imageTags"]]
        )
    return [tag for found in unused for tag in found["imageTags"]]


def _used(account: Account) -> Iterator[str]:
    """Yield the addresses of the images in use, in any stage."""
    sagemaker = account.sagemaker
    packages = set(ignore_missing(lambda: registry.list_packages(account)) or [])
    for listed in paginate(sagemaker, "list_models", "Models", NameContains=PROJECT):
        container = sagemaker.describe_model(ModelName=listed["ModelName"]).get("PrimaryContainer", {})
        yield container.get("Image", "")
        packages.add(container.get("ModelPackageName", ""))
    for package in packages - {""}:
        details = sagemaker.describe_model_package(ModelPackageName=package)
        yield from (one["Image"] for one in details["InferenceSpecification"]["Containers"])
    for listed in paginate(sagemaker, "list_training_jobs", "TrainingJobSummaries", NameContains=PROJECT):
        job = sagemaker.describe_training_job(TrainingJobName=listed["TrainingJobName"])
        yield job["AlgorithmSpecification"].get("TrainingImage", "")
