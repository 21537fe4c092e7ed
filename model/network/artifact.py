"""A model on disk: a folder, or an archive of one, with a graph and what to know about it.

``model.onnx`` goes from pixels to probabilities. ``model.json`` says what the probabilities are of, where the
threshold belongs and how the model was made (`Description`); ``labels.json`` has the labels alone, in their
order, and ``model-card.md`` tells people what ``model.json`` tells programs. Packed together they are the
``model.tar.gz`` that a SageMaker training job leaves, and that SageMaker unpacks before it serves.
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
    """The files are no usable model; the message says what is wrong with them."""


@dataclass(frozen=True)
class Description:
    """What ``model.json`` holds.

    Attributes
    ----------
    name, version
        Which model this is.
    labels
        What the probabilities are of, in their order.
    threshold
        The least confidence, 0 to 1, at which an answer should be accepted.
    threshold_reason
        Why there.
    input_size
        Height and width of the pixels the graph takes.
    graph_sha256
        Of ``model.onnx``.
    made
        How it was made, for people to read.
    calibration
        The numbers that turn what the experts say into probabilities, as `model.network.head` names them.
    metrics
        How right it was on training photos that were held out.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    threshold: float
    threshold_reason: str
    input_size: int
    graph_sha256: str
    made: Mapping[str, str]
    calibration: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the description of the model in `folder`.

        Raises
        ------
        ArtifactError
            If there is none, or a field is missing or of no use.
        """
        path = folder / DESCRIPTION
        try:
            values = json.loads(path.read_bytes())
            known = {one.name: values[one.name] for one in fields(cls) if one.name in values or needed(one)}
            description = cls(**known | {"labels": tuple(known["labels"])})
            usable = (
                0 <= description.threshold <= 1 and description.input_size > 0 and len(description.labels) > 1
            )
        except OSError as error:
            raise ArtifactError(
                f"{folder} is no model: its {DESCRIPTION} cannot be read ({error.strerror})"
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


def needed(one: "Field[Any]") -> bool:
    """Tell whether a field of ``model.json`` has to be there."""
    return one.default_factory is MISSING


def contents(graph: bytes, description: Description) -> dict[str, bytes]:
    """Return a model's files by their names.

    Parameters
    ----------
    graph
        The content of ``model.onnx``, whose hash is the description's.
    description
        The content of ``model.json``.
    """
    return {
        GRAPH: graph,
        DESCRIPTION: (json.dumps(asdict(description), indent=2) + "\n").encode(),
        LABELS: (json.dumps(description.labels) + "\n").encode(),
        CARD: card(description).encode(),
    }


def card(description: Description) -> str:
    """Put a description in words: M. Mitchell and others, "Model cards for model reporting" (FAT* 2019)."""
    tables = {
        "How right it is": {name: f"{value:.4f}" for name, value in description.metrics.items()},
        "How it was made": dict(description.made),
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
        f"Says of a photo, {description.input_size} by {description.input_size} pixels, how probable each of "
        f"{', '.join(description.labels)} is. Meant for couriers' photos at the door, to route their orders; "
        "not for telling people or places apart, and not for photos of several vehicles.\n\n"
        f"Accept from a confidence of {description.threshold} on: {description.threshold_reason}.\n"
        + sections
    )


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the ``model.tar.gz`` of a model's files: the same files always make the same archive."""
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
    """Read the description of the model in `folder` and check that the graph is the one described.

    Raises
    ------
    ArtifactError
        If either is missing or damaged.
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
            f"{path} is not the graph that its {DESCRIPTION} describes: the sha256 is another"
        )
    return description


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Give the folder of a model, unpacked for as long as it is needed if it is an archive.

    Parameters
    ----------
    path
        A model's folder, a ``model.tar.gz``, or a folder that holds one.

    Raises
    ------
    ArtifactError
        If the archive is damaged, holds anything but files and folders, or reaches outside the folder it
        is unpacked to.
    """
    archive = path if path.is_file() else path / ARCHIVE
    if not archive.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(folder, filter=_files_alone)  # noqa: S202  a stricter one than "data"
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ArtifactError(f"{archive} cannot be unpacked: {error}") from error
        yield Path(folder)


def _files_alone(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Let files and folders through: a model has no use for a link, which tarfile's own filter would take."""
    if not (member.isreg() or member.isdir()):
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member, folder)
