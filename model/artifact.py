"""A model on disk: a folder, or an archive of one, with a graph and what to know about it.

``model.onnx`` goes from pixels to probabilities. ``model.json`` says what the probabilities are of, where the
threshold belongs and how the model was made (`Description`). Packed together they are the ``model.tar.gz``
that a SageMaker training job leaves, and that SageMaker unpacks before it serves.
"""

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

GRAPH = "model.onnx"
DESCRIPTION = "model.json"
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
    """

    name: str
    version: str
    labels: tuple[str, ...]
    threshold: float
    threshold_reason: str
    input_size: int
    graph_sha256: str
    made: Mapping[str, str]

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
            known = {field.name: values[field.name] for field in fields(cls)}
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


def write(folder: Path, graph: bytes, description: Description) -> None:
    """Write a model, each file complete before it has its name.

    Parameters
    ----------
    folder
        Made if need be.
    graph
        The content of ``model.onnx``, whose hash is the description's.
    description
        The content of ``model.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        Path(draft, GRAPH).write_bytes(graph)
        Path(draft, DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n")
        for name in (GRAPH, DESCRIPTION):
            Path(draft, name).replace(folder / name)


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
        If the archive is damaged, or reaches outside the folder it is unpacked to.
    """
    archive = path if path.is_file() else path / ARCHIVE
    if not archive.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ArtifactError(f"{archive} cannot be unpacked: {error}") from error
        yield Path(folder)
