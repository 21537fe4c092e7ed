"""Decode a photo of any common format and reduce it to the model's input size. No AWS, no Powertools."""

import base64
import io
import re
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from PIL import ExifTags, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Resampling, Transpose
from PIL.JpegImagePlugin import JpegImageFile, get_sampling, samplings
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

if TYPE_CHECKING:
    from pillow_heif import HeifImage

DECODING_MEMORY = 370_000_000
"""Bytes available to a decoder: the function's 512 MB minus Python, boto3 and whatever is always loaded."""

PROCESS_STATUS = Path("/proc/self/status")  # proc_pid_status(5)

MAX_BOX = 224
"""Pixels. In a larger box, a photo of noise could exceed the 64 KB that the state may hold."""

MAX_PNG_PIXELS = 96 * 96
"""The largest picture stored as a PNG (28 KB at most): JPEG would blur the little detail it has."""

MAX_JPEG_BYTES = 40_000
"""The size above which a JPEG's quality drops from 90 to 80. A photo takes 13 KB; noise takes 49 KB at
quality 90 and 39 KB at quality 80."""

type Photo = "Image.Image | HeifImage"
type Reason = Literal["missing", "empty", "too_many_bytes", "too_many_pixels", "unreadable", "damaged"]


class RejectedError(Exception):
    """The object cannot be read as a photo, and retrying would not change that."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class SerializedPhoto(TypedDict):
    """A reduced photo in base64, and the size of the photo itself in pixels, upright."""

    image_data: str
    content_type: str
    width: int
    height: int


def serialize(file: IO[bytes], box: int, log_keys: dict[str, Any] | None = None) -> SerializedPhoto:
    """Reduce a photo to an upright RGB image that fits in a square of ``box`` pixels.

    The aspect ratio is kept and the photo is never enlarged. Only the first frame of an animation is used.
    Colour profiles are ignored. ``log_keys`` receives what is worth logging, even if the photo is rejected.

    Raises `RejectedError` if the photo is ``unreadable`` or ``damaged``, or has ``too_many_pixels``.
    """
    log_keys = {} if log_keys is None else log_keys
    size_in_bytes = file.seek(0, io.SEEK_END)
    name = detect_format(file)
    with _decoding(name):
        photo = FORMATS[name].open(file)
    width, height = photo.size
    log_keys |= {"format": name, "mode": photo.mode, "width": width, "height": height}
    _check_pixel_limit(name, photo, size_in_bytes)
    scale = min(1, box / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    with _decoding(name):
        if isinstance(photo, JpegImageFile):
            photo.draft(None, (2 * size[0], 2 * size[1]))
        photo.load()
    small = _reduce(photo, size)
    if (transpose := _orientation(photo)) is not None:
        small = small.transpose(transpose)
    if transpose in SIDEWAYS:
        width, height = height, width
    content_type, encoded = encode(small)
    log_keys["bytes_out"] = len(encoded)
    image_data = base64.b64encode(encoded).decode()
    return SerializedPhoto(image_data=image_data, content_type=content_type, width=width, height=height)


def detect_format(file: IO[bytes]) -> str:
    """Return the format that a file's first bytes declare, so that only that format's decoder reads it."""
    file.seek(0)
    start = file.read(64)
    file.seek(0)
    for name, known in FORMATS.items():
        if re.match(known.signature, start, re.DOTALL):
            return name
    raise RejectedError("unreadable", f"The file is not a photo of a known format ({', '.join(FORMATS)}).")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Reject the photo when its decoder fails. Run nothing but decoders in this block."""
    try:
        with warnings.catch_warnings(action="ignore"), _limited_memory():
            yield
    # The file needs more memory than its header declares, so a retry would fail in the same way.
    except (MemoryError, Image.DecompressionBombError) as error:
        raise RejectedError("too_many_pixels", f"The {name} unpacks to more than memory holds.") from error
    # Decoders raise anything, including zlib.error and struct.error, and it always concerns the bytes.
    except Exception as error:
        raise RejectedError("damaged", f"The {name} is truncated, corrupt or of a rare kind.") from error


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Limit a block to DECODING_MEMORY more bytes, because a header may understate what the pixels need.

    Only Linux, which Lambda runs on, has this limit (getrlimit(2), RLIMIT_DATA) and reports current use.
    """
    if not PROCESS_STATUS.exists():
        yield
        return
    status = dict(line.split(":", 1) for line in PROCESS_STATUS.read_text().splitlines())
    in_use = int(status["VmData"].removesuffix("kB")) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (in_use + DECODING_MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _open_heic(file: IO[bytes]) -> "HeifImage":
    # Loading libheif takes as long as loading all other decoders, so only HEIC photos pay for it.
    import pillow_heif  # noqa: PLC0415

    photos = pillow_heif.open_heif(file)
    photo = photos[photos.primary_index]
    if 0 in photo.size:
        raise ValueError("no pixels")
    return photo


class Format(NamedTuple):
    """How to recognize and open a format, and how much memory its decoder needs.

    The peak is ``bytes_per_sample`` for each channel of each pixel plus ``file_copies`` times the file's
    size, as measured by tests/integration/test_serialize_memory.py.
    """

    signature: bytes
    # The class itself: Image.open treats a phone's JPEG as an MPO, and fails if its second image is broken.
    open: Callable[[IO[bytes]], Photo]
    bytes_per_sample: float
    file_copies: int


FORMATS = {
    # For a progressive photo, libjpeg stores all coefficients, two bytes each, at any decoded size.
    "JPEG": Format(rb"\xff\xd8\xff", JpegImageFile, 2.1, 0),
    "PNG": Format(rb"\x89PNG\r\n\x1a\n", PngImageFile, 2.1, 0),
    "GIF": Format(rb"GIF8[79]a", GifImageFile, 2.1, 0),
    "WEBP": Format(rb"RIFF....WEBP", WebPImageFile, 5.6, 2),
    # AVIF and HEIC share a container format, which lists its brands in any order.
    "AVIF": Format(rb"....ftyp(?:....)*?avi[fs]", AvifImageFile, 4.9, 2),
    "HEIC": Format(rb"....ftyp(?:....)*?(?:hei[cmsx]|hev[cmsx]|mif1|msf1)", _open_heic, 5.5, 1),
}
SUBSAMPLED_BYTES_PER_SAMPLE = {"JPEG": 1.05, "HEIC": 2.3}
"""Bytes per sample when colour is stored at half the resolution (4:2:0), as cameras do."""


def _check_pixel_limit(name: str, photo: Photo, size_in_bytes: int) -> None:
    subsampled = _is_subsampled(photo)
    per_sample = SUBSAMPLED_BYTES_PER_SAMPLE[name] if subsampled else FORMATS[name].bytes_per_sample
    available = DECODING_MEMORY - FORMATS[name].file_copies * size_in_bytes
    limit = available / (per_sample * Image.getmodebands(photo.mode))
    width, height = photo.size
    if width * height > limit:
        detail = f"The {name} has {width} x {height} pixels; at most {limit / 1e6:.0f} million can be read."
        raise RejectedError("too_many_pixels", detail)


def _is_subsampled(photo: Photo) -> bool:
    """Return whether a photo uses 4:2:0 chroma subsampling and, for HEIC, 8 bits per sample."""
    if isinstance(photo, Image.Image):
        return isinstance(photo, JpegImageFile) and get_sampling(photo) == samplings[2, 2, 1, 1, 1, 1]
    return (photo.info.get("chroma"), photo.info["bit_depth"]) == (420, 8)


def _reduce(photo: Photo, size: tuple[int, int]) -> Image.Image:
    """Return a decoded photo as RGB of the given width and height in pixels.

    A box filter reduces it strip by strip to about twice that size, so that its pixels are never all in
    memory twice; a Lanczos filter does the rest.
    """
    width, height = photo.size
    across, down = max(1, width // (2 * size[0])), max(1, height // (2 * size[1]))
    rows = down * max(1, 1_000_000 // (width * down))
    coarse = Image.new("RGB", (-(-width // across), -(-height // down)))
    for top in range(0, height, rows):
        strip = _to_rgb(_crop_rows(photo, top, min(top + rows, height)))
        coarse.paste(strip.reduce((across, down)), (0, top // down))
    return coarse.resize(size, Resampling.LANCZOS, box=(0, 0, width / across, height / down))


def _crop_rows(photo: Photo, top: int, bottom: int) -> Image.Image:
    width = photo.size[0]
    if isinstance(photo, Image.Image):
        return photo.crop((0, top, width, bottom))
    # Read libheif's buffer directly: a Pillow image of the whole photo would double the memory in use.
    rows = photo.data[top * photo.stride : bottom * photo.stride]
    return Image.frombuffer(photo.mode, (width, bottom - top), rows, "raw", photo.mode, photo.stride, 1)


def _to_rgb(strip: Image.Image) -> Image.Image:
    """Convert to RGB: put alpha on white, and scale 16-bit samples, which Pillow would clip."""
    if strip.mode.startswith("I"):
        strip = strip.point(lambda value: value / 256).convert("L")
    if strip.has_transparency_data:
        strip = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
    return strip.convert("RGB")


def _orientation(photo: Photo) -> Transpose | None:
    """Return the transpose that makes a photo upright according to its EXIF, or None if it needs none.

    A HEIC never needs one, because its decoder has applied it.
    """
    if not isinstance(photo, Image.Image):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return TRANSPOSES.get(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - a photo with broken EXIF is still a good photo
        return None


def encode(picture: Image.Image) -> tuple[str, bytes]:
    """Return the content type and bytes of a reduced photo: a PNG if it is tiny, otherwise a JPEG."""
    file = io.BytesIO()
    if picture.width * picture.height <= MAX_PNG_PIXELS:
        picture.save(file, "PNG")
        return "image/png", file.getvalue()
    for quality in (90, 80):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, subsampling="4:2:0")
        if file.tell() <= MAX_JPEG_BYTES:
            break
    return "image/jpeg", file.getvalue()


TRANSPOSES = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
SIDEWAYS = {TRANSPOSES[value] for value in (5, 6, 7, 8)}
