"""Models on their way to an endpoint: packed, brought to S3, registered, and approved."""

import hashlib
import io
import re
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from model.labels import LABEL
from model.network import artifact
from model.network.artifact import Description
from model.sagemaker.account import PROJECT, Account, is_gone, tags

GROUP = PROJECT
"""The model package group: all versions of the one model that this project has."""
METRICS = "metrics.json"
SEPARATOR = "/"
"""Of labels, in the registry and in tags, where a comma is not allowed; see `check_labels`."""
MOST_LABEL_CHARACTERS = 256
"""Of a value in the registry and in a tag."""


class RegistryError(Exception):
    """The model cannot be deployed; the message says why and what to do."""


@dataclass(frozen=True)
class Candidate:
    """A model that could be deployed.

    Attributes
    ----------
    name
        What it is, for people to read.
    labels, threshold, input_size
        As in its `Description`.
    archive
        The ``model.tar.gz``, or ``None`` where only S3 has it.
    url
        Where in S3 it is; ``None`` if it has to be brought there.
    sha256
        Of the graph, or of what else says that two models are the same.
    metrics
        The content of ``metrics.json``, where training left one.
    folder
        The unpacked model, to ask it what an endpoint should answer; ``None`` for the built-in algorithm's.
    """

    name: str
    labels: tuple[str, ...]
    threshold: float
    input_size: int
    sha256: str
    archive: bytes | None = None
    url: str | None = None
    metrics: bytes | None = None
    folder: Path | None = None


@contextmanager
def candidate_from_disk(path: Path | None) -> Iterator[Candidate]:
    """Read a model from disk.

    Parameters
    ----------
    path
        What ``scones train`` wrote, a model's folder, or a ``model.tar.gz``; ``None`` for the
        ready-made zero-shot model.

    Raises
    ------
    ArtifactError
        There is no usable model.
    """
    with tempfile.TemporaryDirectory() as made:
        if path is None:
            from model.network import zero_shot  # noqa: PLC0415  onnx, which it needs, takes half a second to import

            path = Path(made)
            zero_shot.make(path)
        with artifact.unpacked(path) as folder:
            description = artifact.check(folder)
            metrics = (path if path.is_dir() else path.parent) / METRICS
            yield replace(
                _described(description),
                archive=pack(folder),
                metrics=metrics.read_bytes() if metrics.is_file() else None,
                folder=folder,
            )


@contextmanager
def candidate_from_s3(account: Account, url: str) -> Iterator[Candidate]:
    """Read a model from S3, as a training job left it there.

    Raises
    ------
    RegistryError
        There is no such object.
    ArtifactError
        It is no usable model.
    """
    bucket, key = _parse(url)
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place, artifact.ARCHIVE)
        try:
            account.s3.download_file(bucket, key, str(archive))
        except ClientError as error:
            if is_gone(error):
                raise RegistryError(f"there is no {url}") from error
            raise
        with artifact.unpacked(archive) as folder:
            yield replace(_described(artifact.check(folder)), url=url, folder=folder)


def _described(description: Description) -> Candidate:
    return Candidate(
        name=f"{description.name} {description.version}",
        labels=description.labels,
        threshold=description.threshold,
        input_size=description.input_size,
        sha256=description.graph_sha256,
    )


def pack(folder: Path) -> bytes:
    """Pack a model's folder as SageMaker wants it, the same bytes for the same files.

    Returns
    -------
    bytes
        The content of ``model.tar.gz``: the files of the folder, at its top.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            if path.name not in {artifact.ARCHIVE, METRICS}:
                entry = tarfile.TarInfo(path.name)
                entry.size, entry.mode = path.stat().st_size, 0o644
                with path.open("rb") as content:
                    tar.addfile(entry, content)
    return packed.getvalue()


def bring(account: Account, candidate: Candidate) -> tuple[str, str | None]:
    """Have the model and its metrics in the workspace's bucket; return where each is.

    What is there is not sent again: the address holds the hash.
    """
    bucket, prefix = account.workspace.bucket, f"models/{candidate.sha256[:16]}"
    url, metrics_url = candidate.url, None
    if candidate.archive is not None:
        url = _put(account, bucket, f"{prefix}/{artifact.ARCHIVE}", candidate.archive)
    if candidate.metrics is not None:
        metrics_url = _put(account, bucket, f"{prefix}/{METRICS}", candidate.metrics)
    assert url  # noqa: S101  a candidate is on disk or in S3
    return url, metrics_url


def _put(account: Account, bucket: str, key: str, content: bytes) -> str:
    marked = hashlib.sha256(content).hexdigest()
    try:
        there = account.s3.head_object(Bucket=bucket, Key=key)["Metadata"].get("sha256")
    except ClientError as error:
        if not is_gone(error):
            raise
        there = None
    if there != marked:
        account.s3.put_object(Bucket=bucket, Key=key, Body=content, Metadata={"sha256": marked})
    return f"s3://{bucket}/{key}"


def register(account: Account, candidate: Candidate, image: str, *, approved: bool) -> tuple[str, str]:
    """Have a version of the model package group that is this model in this image.

    Returns
    -------
    tuple of str
        Its ARN, and ``Approved``, ``PendingManualApproval`` or ``Rejected``. A model that is registered
        already keeps the version and the status it has.
    """
    check_labels(candidate.labels)
    _make_group(account)
    if known := find(account, candidate, image):
        return known
    url, metrics_url = bring(account, candidate)
    quality = {"ContentType": "application/json", "S3Uri": metrics_url}
    status: Literal["Approved", "PendingManualApproval"] = "Approved" if approved else "PendingManualApproval"
    package = account.sagemaker.create_model_package(
        ModelPackageGroupName=GROUP,
        ModelPackageDescription=candidate.name[:1024],
        InferenceSpecification={
            "Containers": [{"Image": image, "ModelDataUrl": url}],
            "SupportedContentTypes": ["image/jpeg", "image/png"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        ModelApprovalStatus=status,
        CustomerMetadataProperties=metadata(candidate, image),
        **({"ModelMetrics": {"ModelQuality": {"Statistics": quality}}} if metrics_url else {}),  # type: ignore[arg-type]
    )
    return package["ModelPackageArn"], status


def metadata(candidate: Candidate, image: str) -> dict[str, str]:
    """Return what the registry keeps of a model beside its files, by which it is found again."""
    return {
        # a value cannot hold a comma, nor other characters
        "name": re.sub(r"[^\w .:/=+@-]", "-", candidate.name)[:256],
        "labels": SEPARATOR.join(candidate.labels),
        "threshold": f"{candidate.threshold:g}",
        "input_size": str(candidate.input_size),
        "sha256": candidate.sha256,
        "image": image[:256],
    }


def check_labels(labels: Sequence[str]) -> None:
    """Make sure that labels can be kept in the registry, in tags, and in the stack's ClassLabels.

    Raises
    ------
    RegistryError
        They cannot.
    """
    if odd := [label for label in labels if not LABEL.fullmatch(label)]:
        raise RegistryError(
            f"a label has letters, digits, spaces and .+-_ and begins with a letter: {', '.join(odd)}"
        )
    if len(SEPARATOR.join(labels)) > MOST_LABEL_CHARACTERS:
        raise RegistryError(f"the labels have more than {MOST_LABEL_CHARACTERS} characters together")


def find(account: Account, candidate: Candidate, image: str) -> tuple[str, str] | None:
    """Return the ARN and the status of the version that is this model in this image, if there is one."""
    wanted = metadata(candidate, image)
    for arn in packages(account):
        package = account.sagemaker.describe_model_package(ModelPackageName=arn)
        if package.get("CustomerMetadataProperties") == wanted:
            return arn, package["ModelApprovalStatus"]
    return None


def packages(account: Account) -> list[str]:
    """List the ARNs of the group's versions, the latest first."""
    pages = account.sagemaker.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName=GROUP, SortBy="CreationTime", SortOrder="Descending"
    )
    return [package["ModelPackageArn"] for page in pages for package in page["ModelPackageSummaryList"]]


def _make_group(account: Account) -> None:
    try:
        account.sagemaker.describe_model_package_group(ModelPackageGroupName=GROUP)
    except ClientError as error:
        if not is_gone(error):
            raise
        account.sagemaker.create_model_package_group(
            ModelPackageGroupName=GROUP,
            ModelPackageGroupDescription="Which vehicle is in a courier's photo.",
            Tags=tags(),
        )


def _parse(url: str) -> tuple[str, str]:
    parts = urlsplit(url, allow_fragments=False)
    if parts.scheme != "s3" or not parts.netloc or not parts.path.strip("/"):
        raise RegistryError(f"{url} is no object in S3: write s3://bucket/key")
    return parts.netloc, parts.path.lstrip("/")
