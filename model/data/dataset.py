"""Labelled photos on disk: what ``scones data`` writes, or any folder with one sub-folder a label.

A folder written by ``scones data`` holds, and SageMaker's built-in image-classification algorithm reads
(https://docs.aws.amazon.com/sagemaker/latest/dg/image-classification.html, "Train with Image Format")::

    train.lst, test.lst     a line for each photo: index, label's number from 0, path, separated by tabs
    train/bicycle/a.png     the photos; a path in a .lst is relative to the folder that the .lst is in
    manifest.json           labels in the order of their numbers, source, counts, each photo's SHA-256
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from model.photo import SUFFIXES

MANIFEST = "manifest.json"
SPLITS = ("train", "test")
LABEL = re.compile(r"\w[\w .+-]*")
"""A label also names a folder and part of a key in S3, and is an item of the stack's ClassLabels."""


class DatasetError(Exception):
    """The folder holds no usable labelled photos; the message says what is wrong with it."""


@dataclass(frozen=True)
class Dataset:
    """Labelled photos, which are not opened yet.

    Attributes
    ----------
    labels
        The labels' names, in the order of their numbers.
    paths
        The photos' files, N of them, in a fixed order.
    targets
        The number of each photo's label, int64 [N].
    manifest_sha256
        Of ``manifest.json``, in hex: it says which data this is. ``None`` for a plain folder.
    """

    labels: tuple[str, ...]
    paths: tuple[Path, ...]
    targets: npt.NDArray[np.int64]
    manifest_sha256: str | None


def read(folder: Path, split: str = "train") -> Dataset:
    """Find the labelled photos in a folder.

    Parameters
    ----------
    folder
        As ``scones data`` writes it, or a plain ``folder/<label>/*`` tree, whose labels are its
        sub-folders in the order of their names.
    split
        ``"train"`` or ``"test"``; a plain folder has but one, and it does not matter.

    Raises
    ------
    DatasetError
        If there is no such folder or split, a label has no photos, or a file is missing or damaged.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder")
    if (folder / MANIFEST).exists():
        return _read_split(folder, split)
    return _read_tree(folder)


def index_name(split: str) -> str:
    """Name the file that lists a split's photos."""
    return f"{split}.lst"


def index_without(lines: Iterable[str], path: str) -> str:
    """Return the content of a ``.lst`` without a photo, its lines counted anew."""
    rows = [line.rstrip("\n").split("\t") for line in lines]
    kept = [(label, name) for _, label, name in rows if name != path]
    return "".join(f"{number}\t{label}\t{name}\n" for number, (label, name) in enumerate(kept))


def manifest_without(manifest: Mapping[str, Any], path: str) -> str:
    """Return the content of a manifest without a photo."""
    hashes = {name: sha256 for name, sha256 in manifest["sha256"].items() if name != path}
    counts = {
        split: {label: sum(name.startswith(f"{split}/{label}/") for name in hashes) for label in labels}
        for split, labels in manifest["counts"].items()
    }
    return manifest_text({**manifest, "counts": counts, "sha256": hashes})


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Write a manifest as its file has it."""
    return json.dumps(manifest, indent=1) + "\n"


def photos(folder: Path) -> list[Path]:
    """List the files right in a folder that are photos by their names, in the order of these."""
    files = (path for path in folder.glob("[!.]*") if path.is_file())
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES)


def strangers(folder: Path) -> list[Path]:
    """List what else is right in a folder, but for what is hidden, in the order of the names."""
    return sorted(set(folder.glob("[!.]*")).difference(photos(folder)))


def folders(folder: Path) -> list[Path]:
    """List a folder's sub-folders but the hidden ones, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_tree(folder: Path) -> Dataset:
    by_label = {label.name: photos(label) for label in folders(folder)}
    if not by_label:
        raise DatasetError(f"{folder} is no data set, and has no sub-folder of photos for each label either")
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
        raise DatasetError(f"{len(missing)} of the photos that {index} lists are missing, first {missing[0]}")
    targets = np.array([target for target, _ in rows], np.int64)
    return Dataset(labels, paths, targets, manifest_sha256)


def _read_manifest(path: Path) -> tuple[tuple[str, ...], str]:
    try:
        content = path.read_bytes()
        labels = json.loads(content)["labels"]
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged, or not written by `scones data`") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DatasetError(f"{path} is damaged: its labels are no list of names")
    return tuple(labels), hashlib.sha256(content).hexdigest()


def _read_index(path: Path, labels: int) -> Iterator[tuple[int, str]]:
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is damaged: it is no text") from error
    if lines == [""]:
        raise DatasetError(f"{path} lists no photos")
    for number, line in enumerate(lines, start=1):
        match line.split("\t"):
            case [_, target, name] if target.isdecimal() and int(target) < labels and _stays_inside(name):
                yield int(target), name
            case _:
                raise DatasetError(
                    f"{path}, line {number}: needs an index, a label's number below {labels} and a path "
                    "inside the folder, separated by tabs"
                )


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
