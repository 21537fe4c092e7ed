"""Package models, upload them to S3, and register them as versions of the model package group."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.labels import LABEL
from model.network import artifact
from model.sagemaker.account import PROJECT, Account, ignore_missing, paginate, tags
from model.storage import Storage

GROUP = PROJECT
"""The model package group, which holds every version of this project's model."""
METRICS_FILE = "metrics.json"
SEPARATOR = "/"
"""Separates labels in the registry and in tags, where commas are not allowed; see `check_labels`."""
MAX_VALUE_LENGTH = 256
"""Characters of a value in the registry and in a tag."""


class RegistryError(Exception):
    """The model cannot be deployed; the message says why and what to do."""


@dataclass(frozen=True)
class Candidate:
    """A model to deploy; `name` includes the version, and `sha256` identifies the model.

    It has either an `archive`, the content of ``model.tar.gz``, or its `url` in S3. `metrics` is the content
    of ``metrics.json``, and `folder` the unpacked model, which the built-in algorithm's models do not have.
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
def read_candidate(account: Account, model: str | None) -> Iterator[Candidate]:
    """Read a model from a folder, a ``model.tar.gz``, or one in S3; ``None`` is the zero-shot model."""
    with tempfile.TemporaryDirectory() as created:
        path, url = Path(model or created), None
        if model is None:
            from model.network import zero_shot  # noqa: PLC0415  onnx takes half a second to import

            zero_shot.make(path)
        elif model.startswith("s3://"):
            path, url = Path(created, artifact.ARCHIVE), model
            path.write_bytes(Storage(account.s3).read(url))
        with artifact.unpacked(path) as folder:
            description = artifact.check(folder)
            metrics = (path if path.is_dir() else path.parent) / METRICS_FILE
            yield Candidate(
                name=f"{description.name} {description.version}",
                labels=description.labels,
                threshold=description.threshold,
                input_size=description.input_size,
                sha256=description.graph_sha256,
                archive=None if url else pack_folder(folder),
                url=url,
                metrics=metrics.read_bytes() if metrics.is_file() else None,
                folder=folder,
            )


def pack_folder(folder: Path) -> bytes:
    """Pack a model's folder into a ``model.tar.gz`` without its metrics."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    return artifact.pack(
        {path.name: path.read_bytes() for path in paths if path.name not in {artifact.ARCHIVE, METRICS_FILE}}
    )


def _upload(account: Account, candidate: Candidate) -> tuple[str, str | None]:
    """Upload a model and its metrics unless they are in S3; return the address of each."""
    folder = f"s3://{account.workspace.bucket}/models/{candidate.sha256[:16]}"
    url, metrics_url = candidate.url, None
    if candidate.archive is not None:
        url = f"{folder}/{artifact.ARCHIVE}"
        Storage(account.s3).write(url, candidate.archive)
    if candidate.metrics is not None:
        metrics_url = f"{folder}/{METRICS_FILE}"
        Storage(account.s3).write(metrics_url, candidate.metrics)
    assert url  # noqa: S101  a candidate has an archive or an address
    return url, metrics_url


def register(account: Account, candidate: Candidate, image: str, *, approved: bool) -> tuple[str, str]:
    """Register a model with its image, unless that was done before; return the version's ARN and status.

    The status is ``Approved``, ``PendingManualApproval`` or ``Rejected``; an existing version keeps its own.
    """
    check_labels(candidate.labels)
    _create_group(account)
    if existing := _find(account, candidate, image):
        return existing
    url, metrics_url = _upload(account, candidate)
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
        CustomerMetadataProperties=_metadata(candidate, image),
        **({"ModelMetrics": {"ModelQuality": {"Statistics": quality}}} if metrics_url else {}),  # type: ignore[arg-type]
    )
    return package["ModelPackageArn"], status


def _metadata(candidate: Candidate, image: str) -> dict[str, str]:
    """Return the properties by which the registry identifies a model."""
    return {
        # Values allow few punctuation marks, and no comma.
        "name": re.sub(r"[^\w .:/=+@-]", "-", candidate.name)[:MAX_VALUE_LENGTH],
        "labels": SEPARATOR.join(candidate.labels),
        "threshold": f"{candidate.threshold:g}",
        "input_size": str(candidate.input_size),
        "sha256": candidate.sha256,
        "image": image[:MAX_VALUE_LENGTH],
    }


def check_labels(labels: Sequence[str]) -> None:
    """Check that labels are valid in the registry, in tags, and in the stack parameter ClassLabels."""
    if invalid := [label for label in labels if not LABEL.fullmatch(label)]:
        raise RegistryError(
            "a label starts with a letter or a digit and may contain letters, digits, spaces and .+-_; "
            f"invalid: {', '.join(invalid)}"
        )
    if len(SEPARATOR.join(labels)) > MAX_VALUE_LENGTH:
        raise RegistryError(f"the labels together are longer than {MAX_VALUE_LENGTH} characters")


def _find(account: Account, candidate: Candidate, image: str) -> tuple[str, str] | None:
    expected = _metadata(candidate, image)
    for arn in list_packages(account):
        package = account.sagemaker.describe_model_package(ModelPackageName=arn)
        if package.get("CustomerMetadataProperties") == expected:
            return arn, package["ModelApprovalStatus"]
    return None


def require_approved(package: str, status: str) -> None:
    """Check the approval status of a model package."""
    if status == "Approved":
        return
    if status == "Rejected":
        raise RegistryError(f"{package} was rejected and cannot be deployed")
    raise RegistryError(
        f"{package} needs approval. Approve it, then deploy again: aws sagemaker update-model-package "
        f"--model-package-arn {package} --model-approval-status Approved"
    )


def list_packages(account: Account) -> list[str]:
    """List the ARNs of the group's versions, newest first."""
    order = {"SortBy": "CreationTime", "SortOrder": "Descending"}
    client, key = account.sagemaker, "ModelPackageSummaryList"
    packages = paginate(client, "list_model_packages", key, ModelPackageGroupName=GROUP, **order)
    return [package["ModelPackageArn"] for package in packages]


def _create_group(account: Account) -> None:
    if (
        ignore_missing(lambda: account.sagemaker.describe_model_package_group(ModelPackageGroupName=GROUP))
        is None
    ):
        account.sagemaker.create_model_package_group(
            ModelPackageGroupName=GROUP,
            ModelPackageGroupDescription="Classifies the vehicle in a courier's photo.",
            Tags=tags(),
        )
