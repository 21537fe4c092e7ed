"""Build the container image for training and serving, and push it to ECR."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from botocore.exceptions import ClientError

from model.sagemaker.account import PROJECT, Account, is_not_found, tags

ROOT = Path(__file__).parents[2]
DOCKERFILE = "model/Dockerfile"
REPOSITORY = PROJECT
PLATFORMS = ("linux/amd64", "linux/arm64")

CONTENT = ("pyproject.toml", "uv.lock", ".dockerignore", "functions/**/*.py", "model/**/*")
"""The files that determine the image."""
IGNORED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}
"""Folders that using the code creates; .dockerignore excludes them too."""
MAX_IMAGES = 10
"""The repository's lifecycle policy deletes the oldest images beyond this number."""


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
    docker("build", *foreign, "--file", str(ROOT / DOCKERFILE), "--tag", name, str(ROOT))
    return name


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
    """Check that an image in this account's ECR exists; one of another account cannot be checked."""
    if image.startswith(f"{_registry(account)}/") and not is_pushed(account, image):
        platform = "linux/arm64" if image.endswith("arm64") else "linux/amd64"
        raise ImageError(f"{image} is not in ECR. Push it with: scones image --platform {platform} --push")


def is_pushed(account: Account, image: str) -> bool:
    """Tell whether this account's ECR has an image, given its address with a tag or a digest."""
    name = image.partition("/")[2]
    repository, by_digest, digest = name.partition("@")
    if not by_digest:
        repository, _, named = name.partition(":")
    try:
        account.ecr.describe_images(
            repositoryName=repository,
            imageIds=[{"imageDigest": digest} if by_digest else {"imageTag": named}],
        )
    except ClientError as error:
        if is_not_found(error):
            return False
        raise
    return True


def push(account: Account, name: str, platform: str) -> None:
    """Push an image from this machine to ECR, to a repository that is created if necessary."""
    create_repository(account)
    access = account.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(access).decode().partition(":")
    address = uri(account, platform)
    docker("login", "--username", user, "--password-stdin", _registry(account), stdin=password)
    try:
        docker("tag", name, address)
        docker("push", address)
    finally:
        # The password is valid for twelve hours, and Docker would keep it in a file.
        docker("logout", _registry(account))


def create_repository(account: Account) -> None:
    """Create the repository if it does not exist: encrypted, scanned on push, with immutable tags."""
    try:
        account.ecr.describe_repositories(repositoryNames=[REPOSITORY])
    except account.ecr.exceptions.RepositoryNotFoundException:
        account.ecr.create_repository(
            repositoryName=REPOSITORY,
            tags=tags(),
            imageTagMutability="IMMUTABLE",
            imageScanningConfiguration={"scanOnPush": True},
            encryptionConfiguration={"encryptionType": "AES256"},
        )
        expire_old_images = {
            "rulePriority": 1,
            "description": "Images of older code",
            "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": MAX_IMAGES},
            "action": {"type": "expire"},
        }
        account.ecr.put_lifecycle_policy(
            repositoryName=REPOSITORY, lifecyclePolicyText=json.dumps({"rules": [expire_old_images]})
        )


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
