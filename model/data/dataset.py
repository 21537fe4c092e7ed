"""Read a data set that ``scones data`` wrote, or any folder with a sub-folder of photos for each label.

The layout is the one that SageMaker's built-in image-classification algorithm reads
(https://docs.aws.amazon.com/sagemaker/latest/dg/image-classification.html, "Train with Image Format")::

    train.lst, test.lst     one line per photo: index, label number from 0, path, separated by tabs
    train/bicycle/a.png     the photos; paths in a .lst are relative to the data set's folder
    manifest.json           labels in the order of their numbers, source, counts, SHA-256 of each photo
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from model.photo import SUFFIXES

MANIFEST = "manifest.json"
SPLITS = ("train", "test")


class DatasetError(Exception):
    """The folder is not a usable data set; the message says what is wrong with it."""


@dataclass(frozen=True)
class Dataset:
    """The files of N photos, in a fixed order, and their labels.

    `targets` are the photos' label numbers, int64 [N]: indices of `labels`. `manifest_sha256` is the hash of
    ``manifest.json`` in hex, which identifies the data set; ``None`` for a plain folder.
    """

    labels: tuple[str, ...]
    paths: tuple[Path, ...]
    targets: npt.NDArray[np.int64]
    manifest_sha256: str | None

    def select(self, indices: npt.NDArray[np.integer]) -> Self:
        """Return some of the photos."""
        paths = tuple(self.paths[index] for index in indices)
        return replace(self, paths=paths, targets=self.targets[indices])


def read(folder: Path, split: str = "train") -> Dataset:
    """Find the labelled photos in a folder, without opening them.

    A plain ``folder/<label>/*`` tree has only one split, which is returned for either name; its labels are
    the names of its sub-folders, sorted.

    Raises `DatasetError` if there is no such folder or split, a label has no photos, or a file is missing or
    damaged.
    """
    if not folder.is_dir():
        raise DatasetError(f"No such folder: {folder}")
    return _read_split(folder, split) if (folder / MANIFEST).exists() else _read_tree(folder)


def index_name(split: str) -> str:
    """Return the name of the file that lists a split's photos."""
    return f"{split}.lst"


def format_index(rows: Iterable[tuple[int | str, str]]) -> str:
    """Return the content of a ``.lst`` from each photo's label number and path."""
    return "".join(f"{number}\t{target}\t{path}\n" for number, (target, path) in enumerate(rows))


def format_manifest(manifest: Mapping[str, Any]) -> str:
    """Return the content of ``manifest.json``."""
    return json.dumps(manifest, indent=1) + "\n"


def remove_from_index(lines: Iterable[str], path: str) -> str:
    """Return the content of a ``.lst`` without one photo, its lines renumbered."""
    rows = [line.rstrip("\n").split("\t") for line in lines]
    return format_index((target, name) for _, target, name in rows if name != path)


def remove_from_manifest(manifest: Mapping[str, Any], path: str) -> str:
    """Return the content of ``manifest.json`` without one photo."""
    hashes = {name: sha256 for name, sha256 in manifest["sha256"].items() if name != path}
    counts = {
        split: {label: sum(name.startswith(f"{split}/{label}/") for name in hashes) for label in labels}
        for split, labels in manifest["counts"].items()
    }
    return format_manifest({**manifest, "counts": counts, "sha256": hashes})


def list_photos(folder: Path) -> list[Path]:
    """List the files directly in a folder whose names are those of photos, sorted."""
    files = (path for path in folder.glob("[!.]*") if path.is_file())
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES)


def list_subfolders(folder: Path) -> list[Path]:
    """List a folder's sub-folders, except hidden ones, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_tree(folder: Path) -> Dataset:
    by_label = {label.name: list_photos(label) for label in list_subfolders(folder)}
    if not by_label:
        raise DatasetError(
            f"{folder} is not a data set: it has neither a {MANIFEST} nor a sub-folder for each label"
        )
    if empty := [label for label, paths in by_label.items() if not paths]:
        raise DatasetError(f"{folder} has no photos of {', '.join(empty)}")
    return Dataset(
        labels=tuple(by_label),
        paths=tuple(path for paths in by_label.values() for path in paths),
        targets=np.repeat(np.arange(len(by_label)), [len(paths) for paths in by_label.values()]),
        manifest_sha256=None,
    )


def _read_split(folder: Path, split: str) -> Dataset:
    labels, manifest_sha256 = _read_manifest(folder / MANIFEST)
    index = folder / index_name(split)
    rows = list(_read_index(index, len(labels)))
    paths = tuple(folder / path for _, path in rows)
    if missing := [path for path in paths if not path.is_file()]:
        raise DatasetError(f"{len(missing)} photos listed in {index} are missing, the first is {missing[0]}")
    targets = np.array([target for target, _ in rows], np.int64)
    return Dataset(labels, paths, targets, manifest_sha256)


def _read_manifest(path: Path) -> tuple[tuple[str, ...], str]:
    content = _read_file(path)
    with suppress(ValueError):
        match json.loads(content):
            case {"labels": [*labels]} if all(isinstance(label, str) for label in labels):
                return tuple(labels), hashlib.sha256(content).hexdigest()
    raise DatasetError(f"{path} is damaged, or was not written by `scones data`")


def _read_index(path: Path, labels: int) -> Iterator[tuple[int, str]]:
    try:
        lines = [line.decode() for line in _read_file(path).rstrip(b"\r\n").splitlines()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is damaged: it is not text") from error
    if not lines:
        raise DatasetError(f"{path} lists no photos")
    for number, line in enumerate(lines, start=1):
        match line.split("\t"):
            case [_, target, name] if target.isdecimal() and int(target) < labels and _stays_inside(name):
                yield int(target), name
            case _:
                raise DatasetError(
                    f"{path}, line {number} needs an index, a label number below {labels} and a path "
                    "inside the folder, separated by tabs"
                )


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from error


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
