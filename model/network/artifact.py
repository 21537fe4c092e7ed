"""A model on disk: a folder, or an archive of one, with an ONNX graph and its description.

``model.onnx`` maps pixels to probabilities. ``model.json`` holds the labels, the threshold and how the model
was made (`Description`), ``labels.json`` only the labels, and ``model-card.md`` the description for people.
Packed they are the ``model.tar.gz`` that a SageMaker training job writes and SageMaker unpacks for serving.
"""

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

GRAPH = "model.onnx"
DESCRIPTION = "model.json"
LABELS = "labels.json"
CARD = "model-card.md"
ARCHIVE = "model.tar.gz"


class ArtifactError(Exception):
    """The files are not a usable model; the message says what is wrong with them."""


@dataclass(frozen=True)
class Description:
    """The content of ``model.json``."""

    name: str
    version: str
    labels: tuple[str, ...]  # of the probabilities, in order
    threshold: float  # the lowest confidence, 0 to 1, at which to accept an answer
    threshold_reason: str
    input_size: int  # height and width of the graph's input, in pixels
    graph_sha256: str
    made: Mapping[str, str]  # how the model was made, for people to read
    calibration: Mapping[str, float] = field(default_factory=dict)  # `model.network.fusion.FusionWeights`
    metrics: Mapping[str, float] = field(default_factory=dict)  # on held-out training photos

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the description of the model in `folder`.

        Raises `ArtifactError` if it is missing or unreadable, or lacks a valid value for a field.
        """
        path = folder / DESCRIPTION
        try:
            values = json.loads(path.read_bytes())
            known = {
                one.name: values[one.name] for one in fields(cls) if one.name in values or _is_required(one)
            }
            description = cls(**known | {"labels": tuple(known["labels"])})
            usable = (
                0 <= description.threshold <= 1 and description.input_size > 0 and len(description.labels) > 1
            )
        except OSError as error:
            raise ArtifactError(
                f"{folder} is not a model: its {DESCRIPTION} cannot be read ({error.strerror})"
            ) from error
        except KeyError as error:
            raise ArtifactError(f"{path} lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"{path} is damaged: {error}") from error
        if not usable:
            raise ArtifactError(
                f"{path} needs a threshold from 0 to 1, an input size above 0 and at least two labels"
            )
        return description


def _is_required(one: "Field[Any]") -> bool:
    return one.default_factory is MISSING


def contents(graph: bytes, description: Description) -> dict[str, bytes]:
    """Return a model's files by name; `graph` is the content of ``model.onnx``."""
    return {
        GRAPH: graph,
        DESCRIPTION: (json.dumps(asdict(description), indent=2) + "\n").encode(),
        LABELS: (json.dumps(description.labels) + "\n").encode(),
        CARD: card(description).encode(),
    }


def card(description: Description) -> str:
    """Write a model card (M. Mitchell and others, "Model cards for model reporting", FAT* 2019)."""
    tables = {
        "Cross-validation": {name: f"{value:.4f}" for name, value in description.metrics.items()},
        "Training": dict(description.made),
        "Calibration": {name: f"{value:.6g}" for name, value in description.calibration.items()},
    }
    sections = "".join(
        f"\n## {title}\n\n| | |\n|---|---|\n"
        + "".join(f"| {name} | {value} |\n" for name, value in rows.items())
        for title, rows in tables.items()
        if rows
    )
    return (
        f"# {description.name} {description.version}\n\n"
        f"Gives the probabilities of {', '.join(description.labels)} for a photo of "
        f"{description.input_size} by {description.input_size} pixels. Intended for couriers' photos at the "
        "door, to route their orders; not for identifying people or places, and not for photos of several "
        "vehicles.\n\n"
        f"Accept answers with a confidence of at least {description.threshold}: "
        f"{description.threshold_reason}.\n" + sections
    )


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the ``model.tar.gz`` of a model's files, reproducibly."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def check(folder: Path) -> Description:
    """Read the description of the model in `folder` and check the graph's hash against it.

    Raises `ArtifactError` if either is missing or damaged, or they do not match.
    """
    description = Description.read(folder)
    path = folder / GRAPH
    try:
        with path.open("rb") as graph:
            digest = hashlib.file_digest(graph, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})") from error
    if digest != description.graph_sha256:
        raise ArtifactError(
            f"{path} is not the graph that its {DESCRIPTION} describes: its sha256 is {digest}"
        )
    return description


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Give the folder of a model; a ``model.tar.gz``, at or in `path`, is unpacked while in the context.

    Raises `ArtifactError` if the archive is damaged, or has a member that is not a regular file or folder,
    or that would be written outside the target folder.
    """
    archive = path if path.is_file() else path / ARCHIVE
    if not archive.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(folder, filter=_reject_links)  # noqa: S202  stricter than "data"
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ArtifactError(f"{archive} cannot be unpacked: {error}") from error
        yield Path(folder)


def _reject_links(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Accept only files and folders; tarfile's own filter also accepts links, which a model does not need."""
    if not (member.isreg() or member.isdir()):
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member, folder)
