"""Build the container image for training and serving, and push it to ECR."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.sagemaker.account import PROJECT, Account, ignore_missing, tags

if TYPE_CHECKING:
    from mypy_boto3_ecr.type_defs import ImageIdentifierTypeDef

ROOT = Path(__file__).parents[2]
DOCKERFILE = "model/Dockerfile"
REPOSITORY = PROJECT
PLATFORMS = ("linux/amd64", "linux/arm64")

CONTENT = ("pyproject.toml", "uv.lock", ".dockerignore", "functions/**/*.py", "model/**/*")
"""The files that determine the image."""
IGNORED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}
"""Folders that using the code creates; .dockerignore excludes them too."""
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
"""The only manifest that CreateModel accepts: OCI's and lists of manifests are rejected."""
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
FIX_MANIFEST = "Install buildx (docker buildx version), or turn off the containerd image store"
CONTAINERD_STORE = "io.containerd.snapshotter.v1"
"""In the DriverStatus of `docker info` if containerd stores the images
(https://docs.docker.com/engine/storage/containerd/)."""
LIFECYCLE = {
    "rules": [
        {
            "rulePriority": 1,
            "description": "Parts of images that were deleted or never complete",
            "selection": {
                "tagStatus": "untagged",
                "countType": "sinceImagePushed",
                "countUnit": "days",
                "countNumber": 1,
            },
            "action": {"type": "expire"},
        }
    ]
}
"""Only untagged images expire: a rule cannot know which images endpoints and registered models use."""


class ImageError(Exception):
    """There is no usable image; the message says what to do."""


def tag(platform: str) -> str:
    """Return the image's tag: a hash of its content, and the processor."""
    content = hashlib.sha256()
    for path in sorted({path for pattern in CONTENT for path in ROOT.glob(pattern)}):
        if path.is_file() and path.suffix != ".ipynb" and not IGNORED_FOLDERS.intersection(path.parts):
            content.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{content.hexdigest()[:16]}-{platform.removeprefix('linux/')}"


def local_name(platform: str) -> str:
    """Return the image's name on this machine."""
    return f"{PROJECT}:{tag(platform)}"


def uri(account: Account, platform: str) -> str:
    """Return the image's address in ECR; both names change with the code."""
    return f"{_registry(account)}/{REPOSITORY}:{tag(platform)}"


def _registry(account: Account) -> str:
    suffix = "amazonaws.com.cn" if account.partition == "aws-cn" else "amazonaws.com"
    return f"{account.id}.dkr.ecr.{account.region}.{suffix}"


def native_platform() -> str:
    """Return this machine's platform, as Docker names it."""
    return "linux/arm64" if os.uname().machine in {"aarch64", "arm64"} else "linux/amd64"


def build(platform: str) -> str:
    """Build the image and return its name on this machine; Docker reuses unchanged layers."""
    name = local_name(platform)
    # An engine without BuildKit rejects --platform, so name it only if it is not this machine's.
    foreign = () if platform == native_platform() else (f"--platform={platform}",)
    # BuildKit 0.31 writes OCI manifests by default. The legacy builder cannot.
    builder = (
        ("buildx", "build", "--output=type=docker,oci-mediatypes=false") if _has_buildx() else ("build",)
    )
    docker(*builder, *foreign, "--file", str(ROOT / DOCKERFILE), "--tag", name, str(ROOT))
    return name


def manifest_to_push(driver_status: str) -> str:
    """Return the media type of the manifest with which Docker pushes what `build` builds.

    Docker's own image store writes the manifest when it pushes. That of containerd, the default of a new
    Docker 29, pushes what the builder wrote, and only buildx can be told to write another format than OCI's.
    """
    return OCI_MANIFEST if CONTAINERD_STORE in driver_status and not _has_buildx() else MANIFEST


def _has_buildx() -> bool:
    if not shutil.which("docker"):
        return False
    return not subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode  # noqa: S607


def docker(*arguments: str, stdin: str | None = None) -> None:
    """Run Docker and show its error output; an `ImageError` if it is not installed or fails."""
    if not shutil.which("docker"):
        raise ImageError("docker is not on the PATH: install and start Docker")
    # BuildKit adds attestations by default, and SageMaker rejects images that have them.
    environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    done = subprocess.run(  # noqa: S603
        ["docker", *arguments],  # noqa: S607
        env=environment,
        input=stdin,
        stdout=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ImageError(
            f"docker {arguments[0]} failed; see its output above. Is the engine running (docker info)?"
        )


def require_pushed(account: Account, image: str) -> None:
    """Check that an image in this account's ECR is usable; one of another account cannot be checked."""
    if not image.startswith(f"{_registry(account)}/"):
        return
    platform = "linux/arm64" if image.endswith("arm64") else "linux/amd64"
    found, command = manifest_type(account, image), f"scones image --platform {platform} --push"
    if found is None:
        raise ImageError(f"{image} is not in ECR. Push it with: {command}")
    if found != MANIFEST:
        raise ImageError(f"SageMaker rejects the manifest of {image} ({found}). Replace it with: {command}")


def is_pushed(account: Account, image: str) -> bool:
    """Tell whether this account's ECR has an image that SageMaker accepts."""
    return manifest_type(account, image) == MANIFEST


def manifest_type(account: Account, image: str) -> str | None:
    """Return the media type of an image's manifest; ``None`` if this account's ECR does not have it."""
    repository, image_id = _parse(image)
    found = ignore_missing(
        lambda: account.ecr.describe_images(repositoryName=repository, imageIds=[image_id])
    )
    return found["imageDetails"][0].get("imageManifestMediaType", "unknown") if found else None


def _parse(image: str) -> "tuple[str, ImageIdentifierTypeDef]":
    """Return the repository in an image's address, and its tag or digest."""
    name = image.partition("/")[2]
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, {"imageDigest": digest}
    repository, _, tagged = name.partition(":")
    return repository, {"imageTag": tagged}


def push(account: Account, name: str, platform: str) -> None:
    """Push an image from this machine to ECR, to a repository that is created if necessary.

    An `ImageError` if SageMaker would reject its manifest; it is deleted then, because tags are immutable.
    """
    create_repository(account)
    access = account.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(access).decode().partition(":")
    address = uri(account, platform)
    if manifest_type(account, address):
        _delete(account, address)
    docker("login", "--username", user, "--password-stdin", _registry(account), stdin=password)
    try:
        docker("tag", name, address)
        docker("push", address)
    finally:
        # The password is valid for twelve hours, and Docker would keep it in a file.
        docker("logout", _registry(account))
    found = manifest_type(account, address)
    if found and found != MANIFEST:
        _delete(account, address)
        raise ImageError(
            f"Docker pushed a manifest of the type {found}, which SageMaker rejects; it was deleted again. "
            f"{FIX_MANIFEST}, then retry."
        )


def _delete(account: Account, image: str) -> None:
    repository, image_id = _parse(image)
    account.ecr.batch_delete_image(repositoryName=repository, imageIds=[image_id])


def create_repository(account: Account) -> None:
    """Create the repository if it does not exist: encrypted, scanned on push, with immutable tags."""
    if ignore_missing(lambda: account.ecr.describe_repositories(repositoryNames=[REPOSITORY])) is None:
        account.ecr.create_repository(
            repositoryName=REPOSITORY,
            tags=tags(),
            imageTagMutability="IMMUTABLE",
            imageScanningConfiguration={"scanOnPush": True},
            encryptionConfiguration={"encryptionType": "AES256"},
        )
    # Repositories of earlier versions expire images that are in use.
    if _lifecycle(account) != LIFECYCLE:
        account.ecr.put_lifecycle_policy(repositoryName=REPOSITORY, lifecyclePolicyText=json.dumps(LIFECYCLE))


def _lifecycle(account: Account) -> object:
    found = ignore_missing(lambda: account.ecr.get_lifecycle_policy(repositoryName=REPOSITORY))
    return json.loads(found["lifecyclePolicyText"]) if found else None


def local_images() -> Sequence[str]:
    """List this project's images on this machine; none if Docker is not installed."""
    if not shutil.which("docker"):
        return []
    listed = subprocess.run(  # noqa: S603
        ["docker", "images", "--filter", f"label=project={PROJECT}", "--format", "{{.Repository}}:{{.Tag}}"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return [name for name in listed.stdout.split() if not name.endswith(":<none>")]
