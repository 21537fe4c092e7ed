"""CIFAR-100's archive of 32x32 pictures, read without running anything that it may hold.

Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009); the layout is described at
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FOLDER = "cifar-100-python"
SIDE = 32

# The largest member, train, is 155 MB; what is larger is no CIFAR-100.
MAX_MEMBER_BYTES = 200_000_000


class ArchiveError(Exception):
    """The file is no usable CIFAR-100 archive; the message says why."""


class Pictures(NamedTuple):
    """The pictures of a split.

    Attributes
    ----------
    pixels
        RGB, uint8 [N, 32, 32, 3].
    classes
        The name of each picture's class, N of them.
    names
        The file name of each picture, N of them; it need not say the class.
    """

    pixels: npt.NDArray[np.uint8]
    classes: list[str]
    names: list[str]


class Archive(NamedTuple):
    """What an archive holds: the names of all classes, of which some may have no pictures, and the splits."""

    class_names: list[str]
    splits: dict[str, Pictures]


def read(path: Path) -> Archive:
    """Read the archive ``cifar-100-python.tar.gz``, or one of the same layout with fewer rows.

    Raises
    ------
    ArchiveError
        If it is cut short or damaged, lacks a member, holds one too large, or a pickle in it asks for
        anything but arrays, lists, dictionaries, text and numbers.
    """
    members = _read_members(path)
    try:
        meta = _unpickle(members["meta"])
        class_names = [name.decode() for name in meta[b"fine_label_names"]]
        splits = {split: _pictures(_unpickle(members[split]), class_names) for split in ("train", "test")}
    except Exception as error:  # a pickle of hostile bytes may raise nearly anything
        raise ArchiveError(f"{path} is not CIFAR-100 as its authors pack it: {error!r}") from error
    return Archive(class_names, splits)


def _read_members(path: Path) -> dict[str, bytes]:
    wanted = {f"{FOLDER}/{name}": name for name in ("meta", "train", "test")}
    members = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if member.size > MAX_MEMBER_BYTES:
                    raise ArchiveError(
                        f"{path} is no CIFAR-100 archive: {member.name} has {member.size:,} bytes"
                    )
                if member.name in wanted and member.isreg() and (file := tar.extractfile(member)):
                    members[wanted[member.name]] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ArchiveError(f"{path} cannot be read, it may be cut short: {error}") from error
    if missing := sorted(wanted.keys() - {f"{FOLDER}/{name}" for name in members}):
        raise ArchiveError(f"{path} is no CIFAR-100 archive: it lacks {', '.join(missing)}")
    return members


def _pictures(rows: Mapping[bytes, Any], class_names: list[str]) -> Pictures:
    """Turn rows of 3072 bytes, which are a red, a green and a blue plane, into pictures."""
    planes = rows[b"data"].numbers.reshape(-1, 3, SIDE, SIDE)
    classes = [class_names[number] for number in rows[b"fine_labels"]]
    names = [name.decode() for name in rows[b"filenames"]]
    if not len(planes) == len(classes) == len(names):
        raise ValueError(f"{len(planes)} pictures, {len(classes)} labels and {len(names)} names")
    return Pictures(planes.transpose(0, 2, 3, 1), classes, names)


def _unpickle(content: bytes) -> Any:  # noqa: ANN401  the caller takes it apart and fails where it does not fit
    # The authors pickled with Python 2, whose text is bytes.
    return _Unpickler(io.BytesIO(content), encoding="bytes").load()


class _Dtype:
    """Stands in for ``numpy.dtype``; bytes are all there can be."""

    def __init__(self, code: str | bytes, *_flags: object) -> None:
        if code not in {"u1", b"u1"}:
            raise pickle.UnpicklingError(f"an array of {code!r}")

    def __setstate__(self, state: object) -> None:
        """Take the byte order, which a byte has none of."""


class _Array:
    """Stands in for ``numpy.ndarray``, and for the function that makes an empty one to be filled."""

    numbers: npt.NDArray[np.uint8]

    def __init__(self, *_kind_and_shape: object) -> None:
        pass

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _version, shape, _dtype, by_columns, content = state
        self.numbers = np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _Latin1:
    """Stands in for ``_codecs.encode``, as which Python 3 pickles bytes where Python 2 is to read them."""

    def __new__(cls, text: str, _encoding: object) -> bytes:  # type: ignore[misc]
        return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Knows the stand-ins above and no other name, so that no pickle can call anything else."""

    _known: Mapping[tuple[str, str], type] = {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("_codecs", "encode"): _Latin1,
    }

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._known[module, name]
