"""Build the container image for training and serving, and push it to ECR."""

import base64
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from botocore.exceptions import ClientError

from model.sagemaker.account import PROJECT, Account, is_gone, tags

ROOT = Path(__file__).parents[2]

DOCKERFILE = "model/Dockerfile"

REPOSITORY = PROJECT

PLATFORMS = ("linux/amd64", "linux/arm64")

CONTENT = ("pyproject.toml", "uv.lock", ".dockerignore", "functions/**/*.py", "model/**/*")
"""What decides what is in the image."""

LEFT_OUT = {"__pycache__", ".ipynb_checkpoints"}
"""Folders that come and go with use, as what a notebook shows does; .dockerignore leaves them out, too."""

KEPT = 10
"""Images of a repository; older ones are deleted by its lifecycle policy."""


class ImageError(Exception):
    """There is no image to use; the message says what to do."""


def tag(platform: str) -> str:
    """Return the image's tag: what is in it, hashed, and the processor."""
    content = hashlib.sha256()
    for path in sorted({path for pattern in CONTENT for path in ROOT.glob(pattern)}):
        if path.is_file() and path.suffix != ".ipynb" and not LEFT_OUT.intersection(path.parts):
            content.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{content.hexdigest()[:16]}-{platform.removeprefix('linux/')}"


def local_name(platform: str) -> str:
    """Return what the image is called on this machine."""
    return f"{PROJECT}:{tag(platform)}"


def foreseen(account: Account, platform: str) -> str:
    """Tell what pushing an image that is not in ECR would do."""
    return f"Would build {local_name(platform)} and push it as {uri(account, platform)}."


def build(platform: str) -> str:
    """Build the image; what has not changed since the last time is taken from there.

    Returns
    -------
    str
        Its name on this machine.

    Raises
    ------
    ImageError
        There is no Docker, or the build fails.
    """
    name = local_name(platform)
    # Unless the platform is named only where it is not this machine's, an engine without BuildKit refuses.
    foreign = () if platform == native_platform() else (f"--platform={platform}",)
    docker("build", *foreign, "--file", str(ROOT / DOCKERFILE), "--tag", name, str(ROOT))
    return name


def native_platform() -> str:
    """Return this machine's processor, as Docker names it."""
    return "linux/arm64" if os.uname().machine in {"aarch64", "arm64"} else "linux/amd64"


def docker(*arguments: str, stdin: str | None = None) -> None:
    """Run Docker, showing what it says; its failure is an `ImageError`."""
    if not shutil.which("docker"):
        raise ImageError("there is no docker on the path: install Docker, and start it")
    # SageMaker takes no image that has attestations beside it, which BuildKit adds unless told not to.
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
            f"docker {arguments[0]} failed; is the engine running (docker info)? What it says is above"
        )


def uri(account: Account, platform: str) -> str:
    """Return the address in ECR of the image of the code that is here."""
    return f"{_registry(account)}/{REPOSITORY}:{tag(platform)}"


def _registry(account: Account) -> str:
    suffix = "amazonaws.com.cn" if account.partition == "aws-cn" else "amazonaws.com"
    return f"{account.id}.dkr.ecr.{account.region}.{suffix}"


def require(account: Account, image: str) -> None:
    """Make sure that an image of ours is in ECR.

    Raises
    ------
    ImageError
        It is not.
    """
    # another account's, such as the built-in algorithm's, may not be looked into
    if image.startswith(f"{_registry(account)}/") and not is_pushed(account, image):
        platform = "linux/arm64" if image.endswith("arm64") else "linux/amd64"
        raise ImageError(f"{image} is not in ECR: scones image --platform {platform} --push")


def is_pushed(account: Account, image: str) -> bool:
    """Tell whether an image, by its address with a tag or a digest, is in this account's ECR."""
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
        if is_gone(error):
            return False
        raise
    return True


def push_image(account: Account, name: str, platform: str) -> None:
    """Push an image of this machine to ECR."""
    make_repository(account)
    access = account.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(access).decode().partition(":")
    address = uri(account, platform)
    docker("login", "--username", user, "--password-stdin", _registry(account), stdin=password)
    try:
        docker("tag", name, address)
        docker("push", address)
    finally:
        # the password is good for twelve hours, and Docker would keep it in a file
        docker("logout", _registry(account))


def make_repository(account: Account) -> None:
    """Make the repository, unless it is there: encrypted, scanned, of tags that stay what they are."""
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
        account.ecr.put_lifecycle_policy(repositoryName=REPOSITORY, lifecyclePolicyText=_lifecycle())


def _lifecycle() -> str:
    return (
        '{"rules":[{"rulePriority":1,"description":"Images of older code","selection":{"tagStatus":"any",'
        f'"countType":"imageCountMoreThan","countNumber":{KEPT}}},"action":{{"type":"expire"}}}}]}}'
    )


def local_images() -> Sequence[str]:
    """Name the images of ours on this machine, as far as there is a Docker to ask."""
    if not shutil.which("docker"):
        return []
    listed = subprocess.run(  # noqa: S603
        ["docker", "images", "--filter", f"label=project={PROJECT}", "--format", "{{.Repository}}:{{.Tag}}"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return [name for name in listed.stdout.split() if not name.endswith(":<none>")]
