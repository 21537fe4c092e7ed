"""Build a data set on disk from CIFAR-100 or from a folder of photos."""

import difflib
import hashlib
import io
import os
import re
import tempfile
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import platformdirs
from PIL import Image

from model.data import cifar, dataset
from model.data.download import Checksum, download
from model.labels import OTHER
from model.photo import PhotoError, read_pixels
from model.terminal.progress import counted

if TYPE_CHECKING:
    from model.data.reviewed_photos import Reviewed


CIFAR_100 = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"

CIFAR_100_SHA256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
"""Of the archive whose MD5 its authors publish, at https://www.cs.toronto.edu/~kriz/cifar.html."""

CIFAR_CLASSES = ("bicycle", "motorcycle")

NAMED = 5
"""How many files a message names before it only counts them."""

ENOUGH = 32
"""Pixels at which to decode a photo to know that it can be read; a JPEG of many megapixels is quick then."""


class DataError(Exception):
    """No data set can be made of this; the message says why."""


@dataclass(frozen=True)
class Photo:
    """A photo on its way into a data set.

    Attributes
    ----------
    label
        What it shows.
    name
        Its file name, without a folder.
    sha256
        Of the file's bytes, in hex.
    content
        The bytes, or the file that holds them.
    split
        ``"train"`` or ``"test"``.
    """

    label: str
    name: str
    sha256: str
    content: bytes | Path
    split: str = "train"

    def __str__(self) -> str:
        return str(self.content) if isinstance(self.content, Path) else f"{self.split}/{self.name}"


class Collection(NamedTuple):
    """Labelled photos.

    Attributes
    ----------
    labels
        The labels in the order of their numbers.
    photos
        The photos, in any order.
    left_out
        What was left out and why, in words.
    """

    labels: list[str]
    photos: list[Photo]
    left_out: list[str]


def find_archive(source: str, sha256: str | None) -> Path:
    """Give the file of an archive, fetched if `source` is an address, and checked.

    Raises
    ------
    DataError
        There is no such file.
    DownloadError
        It cannot be fetched, or is not the file expected.
    """
    checksum = Checksum("sha256", sha256) if sha256 else None
    if "://" in source:
        if source == CIFAR_100:
            checksum = checksum or Checksum("sha256", CIFAR_100_SHA256)
        return download(source, platformdirs.user_cache_path("scones-unlimited"), checksum)
    archive = Path(source)
    if not archive.is_file():
        raise DataError(f"{source} is no archive, folder or address")
    if checksum:
        checksum.check(archive)
    return archive


def from_archive(path: Path, classes: Sequence[str], other: Sequence[str]) -> Collection:
    """Take classes out of CIFAR-100's archive, as PNG files.

    Parameters
    ----------
    path
        The archive.
    classes
        The names of the classes that become labels; `CIFAR_CLASSES` if there are none.
    other
        The names of those that become ``other``; ``["all"]`` for all the rest.

    Raises
    ------
    DataError
        There is no class of a name.
    ArchiveError
        The archive is unusable.
    """
    archive = cifar.read(path)
    label_of = choose(archive.class_names, classes or CIFAR_CLASSES, other)
    photos = []
    for split, pictures in archive.splits.items():
        for pixels, class_name, name in zip(*pictures, strict=True):
            if class_name in label_of:
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                name_of_png = f"{Path(name).stem}.png"
                photos.append(photo(label_of[class_name], name_of_png, file.getvalue(), split=split))
    return Collection(list(dict.fromkeys(label_of.values())), photos, left_out=[])


def from_folder(
    folder: Path, classes: Sequence[str], other: Sequence[str], *, skip_unreadable: bool
) -> Collection:
    """Find the photos in a folder's sub-folders, each of which is a class.

    Parameters
    ----------
    folder
        Holds ``<class>/*``.
    classes, other
        As of `from_archive`, but without any `classes` all that are no `other` are meant.
    skip_unreadable
        Whether photos that cannot be read are named and left out.

    Raises
    ------
    DataError
        There is no class of a name, or a photo cannot be read.
    """
    available = [path.name for path in dataset.folders(folder)]
    label_of = choose(available, classes or [name for name in available if name not in other], other)
    return read_folder(folder, label_of, skip_unreadable=skip_unreadable)


def choose(available: Sequence[str], classes: Sequence[str], other: Sequence[str]) -> dict[str, str]:
    """Say which label the photos of a class get, in the order of the labels.

    Raises
    ------
    DataError
        A class is not available, or cannot be a label.
    """
    if other == ["all"]:
        other = [name for name in available if name not in classes]
    for name in (*classes, *other):
        if name not in available:
            raise DataError(f"there is no class {name}{suggest(name, available)}")
    if unusable := [name for name in classes if not dataset.LABEL.fullmatch(name)]:
        raise DataError(f"{unusable[0]!r} cannot be a label: use letters, digits, spaces and . _ + -")
    if both := set(classes).intersection(other):
        raise DataError(f"{min(both)} is to be a label and to be {OTHER}")
    return {name: name for name in classes} | dict.fromkeys(other, OTHER)


def suggest(name: str, available: Sequence[str]) -> str:
    """Say what may be meant by a name that does not exist: the closest ones, or else some that do."""
    if close := difflib.get_close_matches(name, available, cutoff=0.6):
        return f"; did you mean {' or '.join(close)}?"
    return f"; there are {name_some(available)}"


def name_some(names: Sequence[object]) -> str:
    """List the first few names, and count the rest."""
    rest = len(names) - NAMED
    return ", ".join(map(str, names[:NAMED])) + (f" and {rest} more" if rest > 0 else "")


def read_folder(folder: Path, label_of: Mapping[str, str], *, skip_unreadable: bool) -> Collection:
    """Read each photo in some of a folder's sub-folders, as far as to know that it can be read.

    Parameters
    ----------
    folder
        Holds ``<class>/*``.
    label_of
        The label of each class wanted.
    skip_unreadable
        Whether photos that cannot be read are named and left out.

    Raises
    ------
    DataError
        A photo cannot be read.
    """
    files = [(label, file) for name, label in label_of.items() for file in dataset.photos(folder / name)]
    strangers = [file for name in label_of for file in dataset.strangers(folder / name)]
    unreadable: list[Path] = []

    def look_at(label: str, file: Path) -> Photo | None:
        try:
            read_pixels(file.read_bytes(), ENOUGH)
        except (PhotoError, OSError):
            unreadable.append(file)
            return None
        return photo(label, file.name, file)

    with ThreadPoolExecutor(os.process_cpu_count()) as pool:
        looked_at = pool.map(look_at, *zip(*files, strict=True)) if files else iter(())
        readable = [found for found in counted(looked_at, len(files), "Reading photos") if found]
    if unreadable and not skip_unreadable:
        raise DataError(
            f"{len(unreadable)} of {len(files)} photos cannot be read: {name_some(sorted(unreadable))}; "
            "repair or remove them, or leave them out with --skip-unreadable"
        )
    left_out = [f"{file}, which cannot be read" for file in sorted(unreadable)]
    left_out += [f"{file}, no photo by its name" for file in strangers]
    return Collection(list(dict.fromkeys(label_of.values())), readable, left_out)


def photo(label: str, name: str, content: bytes | Path, split: str = "train") -> Photo:
    """Make a `Photo`, its hash computed."""
    read = content.read_bytes() if isinstance(content, Path) else content
    return Photo(label, name, hashlib.sha256(read).hexdigest(), content, split)


def with_reviewed(collection: Collection, found: "Reviewed", *, skip_unreadable: bool) -> Collection:
    """Add the photos that people labelled; they may bring the label ``other`` with them.

    Raises
    ------
    DataError
        A label is none of the collection's, or a photo cannot be read.
    """
    folders = {path.name: path.name for path in dataset.folders(found.folder)}
    labels = list(collection.labels)
    if OTHER in folders and OTHER not in labels:
        labels.append(OTHER)
    for name in folders:
        if name not in labels:
            raise DataError(f"{found.folder / name} is not named after a label{suggest(name, labels)}")
    reviewed = read_folder(found.folder, folders, skip_unreadable=skip_unreadable)
    left_out = [*collection.left_out, *found.left_out, *reviewed.left_out]
    return Collection(labels, [*collection.photos, *reviewed.photos], left_out)


def without_copies(photos: Iterable[Photo]) -> list[Photo]:
    """Keep the first of photos that are the same byte for byte.

    Raises
    ------
    DataError
        Copies have different labels.
    """
    kept: dict[str, Photo] = {}
    for one in photos:
        first = kept.setdefault(one.sha256, one)
        if first.label != one.label:
            raise DataError(
                f"{first} and {one} are the same photo, labelled {first.label} and {one.label}: remove one"
            )
    return list(kept.values())


def hold_out(photos: Sequence[Photo], share: float) -> list[Photo]:
    """Put about a share of each label's photos in the test split, those of the lowest hashes.

    Whether a photo is held out depends on its own bytes alone, so that it stays where it is when others come
    or go; except that each label has at least one photo on either side.

    Raises
    ------
    DataError
        A label has only one photo.
    """
    if not share:
        return list(photos)
    held_out: set[str] = set()
    for label in {one.label for one in photos}:
        hashes = sorted({one.sha256 for one in photos if one.label == label})
        if len(hashes) == 1:
            raise DataError(f"{label} has only one photo: to train and to test takes two")
        below = sum(int(sha256, 16) < share * 2**256 for sha256 in hashes)
        held_out.update(hashes[: min(max(below, 1), len(hashes) - 1)])
    return [replace(one, split="test") if one.sha256 in held_out else one for one in photos]


def count(collection: Collection) -> dict[str, dict[str, int]]:
    """Count the photos of each split and label.

    Raises
    ------
    DataError
        There is but one label, or one has no photos to train with.
    """
    labels, photos, _ = collection
    if len(labels) < 2:  # noqa: PLR2004
        raise DataError(f"a model needs at least two labels to tell apart, not {name_some(labels) or 'none'}")
    found = Counter((one.split, one.label) for one in photos)
    counts = {split: {label: found[split, label] for label in labels} for split in dataset.SPLITS}
    if empty := [label for label, photos_of_it in counts["train"].items() if not photos_of_it]:
        raise DataError(f"there are no training photos of {name_some(empty)}")
    return counts


def check_replaceable(out: Path) -> None:
    """Make sure that nothing but an earlier data set would be lost.

    Raises
    ------
    DataError
        There is something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file, not a folder")
    found = {path.name for path in out.iterdir()}
    ours = {dataset.MANIFEST, *dataset.SPLITS, *map(dataset.index_name, dataset.SPLITS)}
    if found and (dataset.MANIFEST not in found or found - ours):
        strangers = name_some(sorted(found - ours or found))
        raise DataError(f"{out} holds what is no data set ({strangers}): choose another folder, or empty it")


def write(out: Path, collection: Collection, source: str) -> None:
    """Write a data set; it is there complete or not at all, and takes an earlier one's place.

    Parameters
    ----------
    out
        The folder, made if need be.
    collection
        What to write, without copies.
    source
        Where it is from, for the manifest.

    Raises
    ------
    DataError
        The folder cannot be written.
    """
    out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # beside it, since nothing can be renamed from one disk to another
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            draft, old = Path(scratch, "new"), Path(scratch, "old")
            _write_draft(draft, collection, source)
            if out.exists():
                out.rename(old)
            try:
                draft.rename(out)
            except OSError:
                if old.exists():
                    old.rename(out)
                raise
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}") from error


def _write_draft(draft: Path, collection: Collection, source: str) -> None:
    labels, photos, _ = collection
    hashes: dict[str, str] = {}
    rows: dict[str, list[str]] = {split: [] for split in dataset.SPLITS}
    for one in sorted(photos, key=lambda one: (one.split, labels.index(one.label), one.name, one.sha256)):
        path = _path(one, taken=hashes)
        file = draft / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(one.content.read_bytes() if isinstance(one.content, Path) else one.content)
        hashes[path] = one.sha256
        rows[one.split].append(f"{len(rows[one.split])}\t{labels.index(one.label)}\t{path}\n")
    for split, lines in rows.items():
        (draft / dataset.index_name(split)).write_text("".join(lines), encoding="utf-8")
    manifest = {"labels": labels, "source": source, "counts": count(collection), "sha256": hashes}
    (draft / dataset.MANIFEST).write_text(dataset.manifest_text(manifest), encoding="utf-8")


def _path(one: Photo, taken: Container[str]) -> str:
    """Name a photo's file: as it is called, but for what a .lst, a key in S3 or a disk cannot hold."""
    name = Path(re.sub(r"[^\w. +()-]", "_", one.name))
    path = f"{one.split}/{one.label}/{name}"
    # the hash, as there are no copies, is in no other name
    return f"{one.split}/{one.label}/{name.stem}-{one.sha256[:16]}{name.suffix}" if path in taken else path
