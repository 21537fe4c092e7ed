"""Build a data set from CIFAR-100 or a folder of photos: choose classes, read, split, deduplicate, write."""

import difflib
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from model import storage
from model.cache import cache_folder
from model.data import cifar, dataset
from model.data.download import download, verify
from model.labels import LABEL, OTHER
from model.photo import PhotoError, read_pixels
from model.terminal.progress import track

CIFAR_100 = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
CIFAR_100_SHA256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
"""SHA-256 of the archive whose MD5 its authors publish at https://www.cs.toronto.edu/~kriz/cifar.html."""
CIFAR_CLASSES = ("bicycle", "motorcycle")
MAX_NAMES = 5
"""Number of names that a message lists; it only counts the rest."""
CHECK_SIZE = 32
"""Pixels at which a photo is decoded to check it; a JPEG of many megapixels decodes quickly at this size."""


class DataError(Exception):
    """No data set can be built from this source; the message says why."""


@dataclass(frozen=True)
class Photo:
    """A photo to write to a data set; `content` is its bytes, or the file that holds them."""

    label: str
    name: str
    sha256: str
    content: bytes | Path
    split: str = "train"

    def __str__(self) -> str:
        return str(self.content) if isinstance(self.content, Path) else f"{self.split}/{self.name}"


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos, their labels in the order of the labels' numbers, and skipped files with reasons."""

    labels: list[str]
    photos: list[Photo]
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Summary:
    """Photos by split and label, the number of skipped duplicates, and other skipped files with reasons."""

    counts: Mapping[str, Mapping[str, int]]
    duplicates: int
    skipped: Sequence[str]


def build(
    source: str,
    out: Path,
    *,
    classes: Sequence[str],
    other: Sequence[str],
    reviewed: str | None,
    test_share: float,
    sha256: str | None,
    skip_unreadable: bool,
    dry_run: bool,
) -> Summary:
    """Build a data set and write it to `out`, replacing an earlier one.

    `source` is CIFAR-100's archive, its address, or a folder of ``<class>/*``, of which `test_share` (0 to 1)
    goes to the test split. `classes` become labels, by default all of a folder and `CIFAR_CLASSES` of
    CIFAR-100; `other` classes are labelled ``other``, all the rest if it is ``["all"]``. `reviewed` is a
    folder of ``<label>/*``, or an S3 prefix of ground-truth records, whose photos join the training photos.

    Raises `DataError`, `ArchiveError`, `DownloadError` or `ReviewedError` if the source, a class or a photo
    is unusable; `StorageError` if `out` cannot be written.
    """
    _check_output_folder(out)
    folder = Path(source)
    if folder.is_dir():
        available = [path.name for path in dataset.list_subfolders(folder)]
        label_of = _map_classes(available, classes or [c for c in available if c not in other], other)
        found = _read_subfolders(folder, label_of, skip_unreadable=skip_unreadable)
        found = replace(found, photos=split_by_hash(found.photos, test_share))
    else:
        found = _read_archive(fetch_archive(source, sha256), classes, other)
    with ExitStack() as temporary:
        if reviewed and storage.is_s3(reviewed):
            from model.data.reviewed_photos import fetch  # noqa: PLC0415  boto3 takes half a second to import

            fetched, deleted = temporary.enter_context(fetch(reviewed))
            found = _add_reviewed(found, fetched, deleted, skip_unreadable=skip_unreadable)
        elif reviewed:
            found = _add_reviewed(found, Path(reviewed), [], skip_unreadable=skip_unreadable)
        # test photos first, so that of two copies the test photo is kept
        photos = _deduplicate(sorted(found.photos, key=lambda photo: photo.split))
        counts = _count(found.labels, photos)
        if not dry_run:
            origin = source if "://" in source else folder.resolve().name
            with storage.replaced_folder(out) as draft:
                write(draft, replace(found, photos=photos), origin)
    return Summary(counts, len(found.photos) - len(photos), found.skipped)


def fetch_archive(source: str, sha256: str | None) -> Path:
    """Return the file of an archive, downloaded if `source` is an address, and verified by its hash."""
    if "://" in source:
        if source == CIFAR_100:
            sha256 = sha256 or CIFAR_100_SHA256
        return download(source, cache_folder(), sha256)
    archive = Path(source)
    if not archive.is_file():
        raise DataError(f"No such archive, folder or address: {source}")
    if sha256:
        verify(archive, sha256)
    return archive


def _read_archive(path: Path, classes: Sequence[str], other: Sequence[str]) -> LabelledPhotos:
    """Extract classes from CIFAR-100's archive as PNG files."""
    archive = cifar.read(path)
    label_of = _map_classes(archive.class_names, classes or CIFAR_CLASSES, other)
    photos = []
    for split, images in archive.splits.items():
        for pixels, class_name, name in zip(*images, strict=True):
            if class_name in label_of:
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                content, png_name = file.getvalue(), f"{Path(name).stem}.png"
                sha256 = hashlib.sha256(content).hexdigest()
                photos.append(Photo(label_of[class_name], png_name, sha256, content, split))
    return LabelledPhotos(list(dict.fromkeys(label_of.values())), photos)


def _map_classes(available: Sequence[str], classes: Sequence[str], other: Sequence[str]) -> dict[str, str]:
    """Map the name of each chosen class to its label, in the order of the labels."""
    if other == ["all"]:
        other = [name for name in available if name not in classes]
    for name in (*classes, *other):
        if name not in available:
            raise DataError(f"No such class: {name}. {_suggest(name, available)}")
    if invalid := [name for name in classes if not LABEL.fullmatch(name)]:
        raise DataError(f"Not a valid label: {invalid[0]!r}. Use letters, digits, spaces and . _ + -")
    if both := set(classes).intersection(other):
        raise DataError(f"{min(both)} cannot be both a label of its own and {OTHER}")
    return {name: name for name in classes} | dict.fromkeys(other, OTHER)


def _suggest(name: str, available: Sequence[str]) -> str:
    if close := difflib.get_close_matches(name, available, cutoff=0.6):
        return f"Did you mean {' or '.join(close)}?"
    return f"Available: {_format_names(available)}."


def _format_names(names: Sequence[object]) -> str:
    rest = len(names) - MAX_NAMES
    return ", ".join(map(str, names[:MAX_NAMES])) + (f" and {rest} more" if rest > 0 else "")


def _read_subfolders(folder: Path, label_of: Mapping[str, str], *, skip_unreadable: bool) -> LabelledPhotos:
    files = [(label, file) for name, label in label_of.items() for file in dataset.list_photos(folder / name)]
    unreadable: list[Path] = []

    def check(label: str, file: Path) -> Photo | None:
        try:
            content = file.read_bytes()
            read_pixels(content, CHECK_SIZE)
        except (PhotoError, OSError):
            unreadable.append(file)
            return None
        return Photo(label, file.name, hashlib.sha256(content).hexdigest(), file)

    with ThreadPoolExecutor(os.process_cpu_count()) as pool:
        checked = pool.map(check, *zip(*files, strict=True)) if files else iter(())
        photos = [photo for photo in track(checked, len(files), "Reading photos") if photo]
    if unreadable and not skip_unreadable:
        raise DataError(
            f"{len(unreadable)} of {len(files)} photos cannot be read: {_format_names(sorted(unreadable))}. "
            "Repair or remove them, or skip them with --skip-unreadable."
        )
    skipped = [f"{file} (cannot be read)" for file in sorted(unreadable)]
    for name in label_of:
        others = set((folder / name).glob("[!.]*")).difference(file for _, file in files)
        skipped += [f"{file} (not a photo, by its name)" for file in sorted(others)]
    return LabelledPhotos(list(dict.fromkeys(label_of.values())), photos, skipped)


def _add_reviewed(
    found: LabelledPhotos, folder: Path, deleted: list[str], *, skip_unreadable: bool
) -> LabelledPhotos:
    """Add reviewed photos, of which only the label ``other`` may be new."""
    names = [path.name for path in dataset.list_subfolders(folder)]
    labels = list(found.labels)
    if OTHER in names and OTHER not in labels:
        labels.append(OTHER)
    for name in names:
        if name not in labels:
            raise DataError(f"No such label: {name}, in {folder}. {_suggest(name, labels)}")
    extra = _read_subfolders(folder, {name: name for name in names}, skip_unreadable=skip_unreadable)
    skipped = [*found.skipped, *deleted, *extra.skipped]
    return LabelledPhotos(labels, [*found.photos, *extra.photos], skipped)


def _deduplicate(photos: Iterable[Photo]) -> list[Photo]:
    """Keep the first of byte-identical photos."""
    unique: dict[str, Photo] = {}
    for photo in photos:
        first = unique.setdefault(photo.sha256, photo)
        if first.label != photo.label:
            raise DataError(
                f"{first} and {photo} are the same photo, labelled {first.label} and {photo.label}. "
                "Remove one."
            )
    return list(unique.values())


def split_by_hash(photos: Sequence[Photo], test_share: float) -> list[Photo]:
    """Move a share (0 to 1) of each label's photos to the test split: those with the lowest hashes.

    Each label has at least one photo in either split. Apart from that, a photo's split depends only on its
    own bytes, so adding or removing others does not move it.
    """
    if not test_share:
        return list(photos)
    test: set[str] = set()
    for label in {photo.label for photo in photos}:
        hashes = sorted({photo.sha256 for photo in photos if photo.label == label})
        if len(hashes) == 1:
            raise DataError(f"{label} has only one photo, but the training and test splits need one each")
        below = sum(int(sha256, 16) < test_share * 2**256 for sha256 in hashes)
        test.update(hashes[: min(max(below, 1), len(hashes) - 1)])
    return [replace(photo, split="test") if photo.sha256 in test else photo for photo in photos]


def _count(labels: Sequence[str], photos: Iterable[Photo]) -> dict[str, dict[str, int]]:
    """Count the photos of each split and label; each label needs a training photo."""
    if len(labels) < 2:  # noqa: PLR2004
        raise DataError(f"A model needs at least two labels, not {_format_names(labels) or 'none'}")
    found = Counter((photo.split, photo.label) for photo in photos)
    counts = {split: {label: found[split, label] for label in labels} for split in dataset.SPLITS}
    if empty := [label for label, n in counts["train"].items() if not n]:
        raise DataError(f"There are no training photos of {_format_names(empty)}")
    return counts


def _check_output_folder(out: Path) -> None:
    """Check that writing a data set would overwrite nothing but an earlier data set."""
    if out.is_file():
        raise DataError(f"{out} is a file, not a folder")
    found = {path.name for path in out.iterdir()} if out.exists() else set()
    ours = {dataset.MANIFEST, *dataset.SPLITS, *map(dataset.index_name, dataset.SPLITS)}
    if found and (dataset.MANIFEST not in found or found - ours):
        others = _format_names(sorted(found - ours or found))
        raise DataError(
            f"{out} holds files that are not of a data set ({others}). Choose another folder, or empty it."
        )


def write(folder: Path, found: LabelledPhotos, source: str) -> None:
    """Write a data set of photos without duplicates into an empty folder."""
    number = {label: k for k, label in enumerate(found.labels)}
    hashes: dict[str, str] = {}
    rows: dict[str, list[tuple[int, str]]] = {split: [] for split in dataset.SPLITS}
    for photo in sorted(found.photos, key=lambda one: (one.split, number[one.label], one.name, one.sha256)):
        path = _path(photo, existing=hashes)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        content = photo.content.read_bytes() if isinstance(photo.content, Path) else photo.content
        (folder / path).write_bytes(content)
        hashes[path] = photo.sha256
        rows[photo.split].append((number[photo.label], path))
    for split in dataset.SPLITS:
        (folder / dataset.index_name(split)).write_text(dataset.format_index(rows[split]), encoding="utf-8")
    counts = _count(found.labels, found.photos)
    manifest = {"labels": found.labels, "source": source, "counts": counts, "sha256": hashes}
    (folder / dataset.MANIFEST).write_text(dataset.format_manifest(manifest), encoding="utf-8")


def _path(photo: Photo, existing: Container[str]) -> str:
    """Return a photo's path without characters that a ``.lst``, an S3 key or a file system does not allow."""
    name = Path(re.sub(r"[^\w. +()-]", "_", photo.name))
    path = f"{photo.split}/{photo.label}/{name}"
    if path not in existing:
        return path
    return f"{photo.split}/{photo.label}/{name.stem}-{photo.sha256[:16]}{name.suffix}"
