"""Read CIFAR-100's archive of 32x32 images without running code from its pickles.

Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009); the layout is described at
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FOLDER = "cifar-100-python"
SPLITS = ("train", "test")
SIDE = 32
MAX_MEMBER_BYTES = 200_000_000
"""The original archive's largest member, train, has 155 MB."""


class ArchiveError(Exception):
    """The file is not a usable CIFAR-100 archive; the message says why."""


class Images(NamedTuple):
    """The N images of a split: RGB pixels, uint8 [N, 32, 32, 3], names of classes, and file names."""

    pixels: npt.NDArray[np.uint8]
    classes: list[str]
    names: list[str]


class Archive(NamedTuple):
    """The names of all classes, of which some may have no images, and the images of each split."""

    class_names: list[str]
    splits: dict[str, Images]


def read(path: Path) -> Archive:
    """Read the archive ``cifar-100-python.tar.gz``, or one of the same layout with fewer rows.

    Raises `ArchiveError` if the archive is damaged, a member is missing or too large, or a pickle contains
    anything but arrays, lists, dictionaries, text and numbers.
    """
    members = _read_members(path)
    try:
        class_names = [name.decode() for name in _unpickle(members[f"{FOLDER}/meta"])[b"fine_label_names"]]
        rows = {split: _unpickle(members[f"{FOLDER}/{split}"]) for split in SPLITS}
        splits = {split: _images(rows[split], class_names) for split in SPLITS}
    except Exception as error:  # a pickle of hostile bytes may raise nearly anything
        raise ArchiveError(f"{path} is not an original CIFAR-100 archive: {error!r}") from error
    return Archive(class_names, splits)


def _read_members(path: Path) -> dict[str, bytes]:
    wanted = {f"{FOLDER}/{name}" for name in ("meta", *SPLITS)}
    members = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if member.size > MAX_MEMBER_BYTES:
                    raise ArchiveError(f"{path} is not CIFAR-100: {member.name} has {member.size:,} bytes")
                if member.name in wanted and member.isreg() and (file := tar.extractfile(member)):
                    members[member.name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ArchiveError(f"{path} cannot be read and may be truncated: {error}") from error
    if missing := sorted(wanted - members.keys()):
        raise ArchiveError(f"{path} is not CIFAR-100: it lacks {', '.join(missing)}")
    return members


def _images(rows: Mapping[bytes, Any], class_names: list[str]) -> Images:
    """Convert rows of 3072 bytes, which are a red, a green and a blue plane, to images."""
    planes = rows[b"data"].numbers.reshape(-1, 3, SIDE, SIDE)
    classes = [class_names[number] for number in rows[b"fine_labels"]]
    names = [name.decode() for name in rows[b"filenames"]]
    if not len(planes) == len(classes) == len(names):
        raise ValueError(f"{len(planes)} images, {len(classes)} labels and {len(names)} names")
    return Images(planes.transpose(0, 2, 3, 1), classes, names)


def _unpickle(content: bytes) -> Any:  # noqa: ANN401  `read` reports what does not fit
    # the authors used Python 2, whose strings are bytes
    return _Unpickler(io.BytesIO(content), encoding="bytes").load()


class _Dtype:
    """Replaces ``numpy.dtype``; only bytes are allowed."""

    def __init__(self, code: str | bytes, *_flags: object) -> None:
        if code not in {"u1", b"u1"}:
            raise pickle.UnpicklingError(f"an array of {code!r}")

    def __setstate__(self, state: object) -> None:
        """Ignore the byte order, which is irrelevant for bytes."""


class _Array:
    """Replaces ``numpy.ndarray``, and the function that makes an empty one."""

    numbers: npt.NDArray[np.uint8]

    def __init__(self, *_kind_and_shape: object) -> None:
        pass

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _version, shape, _dtype, by_columns, content = state
        self.numbers = np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


def _latin1(text: str, _encoding: object) -> bytes:
    """Replace ``_codecs.encode``, with which Python 3 pickles bytes for Python 2."""
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Finds only the replacements above, so that a pickle cannot call anything else."""

    _allowed: Mapping[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self._allowed[module, name]
