"""Decode photos into a model's input, the same for an original and for its reduced form in the pipeline."""

import io
import threading
import warnings
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

pillow_heif.register_heif_opener()
# MAX_PIXELS is below the limit at which Pillow warns
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "HEIF", "AVIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".heic", ".heif", ".avif"})

# Above a phone's 50 megapixels; without a limit a few kilobytes can decompress to gigabytes.
MAX_PIXELS = 64_000_000

# All but JPEGs, whose decoder reduces them before their pixels are in memory, are decoded one at a time: 64
# megapixels can take a gigabyte, on each of a server's threads.
JPEG = b"\xff\xd8"
_whole = threading.Lock()

# The networks normalize 127 to 0, the value with which their convolutions pad.
MARGIN = (127, 127, 127)


class PhotoError(Exception):
    """The bytes cannot be read as a photo; the message says why."""


def file_suffix(photo: bytes) -> str:
    """Return the suffix for a photo's file name, such as ``.jpg``, by the format that serialize detects.

    Raises `PhotoError` if the format is unknown. A name that others chose, such as an object's key, must not
    decide which program opens a file.
    """
    from functions.serialize.photo import RejectedError, detect_format  # noqa: PLC0415  not in the container

    try:
        name = detect_format(io.BytesIO(photo))
    except RejectedError as error:
        raise PhotoError(error.detail) from error
    return ".jpg" if name == "JPEG" else f".{name.lower()}"


def read_pixels(photo: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Decode a photo and fit it into a square: RGB, uint8 [`size`, `size`, 3].

    A larger photo is first reduced to fit, as the pipeline does before it calls the endpoint, so that an
    original and its reduced form get the same prediction. A smaller one, such as of 32x32, is enlarged.
    Gray margins fill the square: padding was more accurate on photos than squashing or cropping.

    A photo, in one of `FORMATS`, is turned upright by EXIF and put on white where transparent. Of an
    animation only the first frame counts. Raises `PhotoError` if the bytes are not an image, are truncated,
    or have more than `MAX_PIXELS`.
    """
    pad = ImageOps.pad(reduced(photo, size), (size, size), Image.Resampling.BICUBIC, MARGIN)
    return np.asarray(pad)


def reduced(photo: bytes, size: int) -> Image.Image:
    """Decode and reduce a photo as `read_pixels` does, without enlarging or padding it; raises the same."""
    if not photo:
        raise PhotoError("it is empty")
    try:
        with (
            nullcontext() if photo.startswith(JPEG) else _whole,
            Image.open(io.BytesIO(photo), formats=FORMATS) as image,
        ):
            return _reduce(image, size)
    except (PhotoError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(f"it has more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise PhotoError("it is not a JPEG, PNG, WebP, GIF, HEIC or AVIF image") from error
    except Exception as error:  # decoders raise nearly anything on malicious bytes
        raise PhotoError(f"it is damaged: {error}") from error


def _reduce(image: Image.Image, size: int) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise PhotoError(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
    converted = _with_channels(image)
    converted.info = image.info  # it holds EXIF
    # as functions/serialize: never enlarged, and first box-filtered (a JPEG by its decoder) to twice the size
    converted.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _on_white(ImageOps.exif_transpose(converted))


def _with_channels(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in {"RGB", "RGBA", "L", "LA", "CMYK"} and "transparency" not in image.info:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands():
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")
