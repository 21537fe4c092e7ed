"""A photo's bytes as the pixels a model takes, the same whether the file is whole or already reduced."""

import io
import warnings

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

pillow_heif.register_heif_opener()
# read_pixels has a limit of its own, below the one Pillow warns at
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "HEIF", "AVIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".heic", ".heif", ".avif"})

# A phone's 50 megapixels are read; past that a few kilobytes can unfold to gigabytes.
MAX_PIXELS = 64_000_000

# Pixel value 127 is the network's zero, the same as the padding of its convolutions.
MARGIN = (127, 127, 127)


class PhotoError(Exception):
    """The bytes cannot be read as a photo; the message says why."""


def read_pixels(photo: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Decode a photo and fit it in a square.

    A photo larger than the square is first reduced to fit in it, as the pipeline does before it sends one to
    the endpoint, so that a whole file and its reduced form get the same answer. What is left is enlarged (a
    32x32 picture) and centred between grey margins: of squashing, cropping and this, measured on photos, this
    kept most right.

    Parameters
    ----------
    photo
        The file's bytes, in one of `FORMATS`; of an animation the first frame counts.
    size
        The square's side, in pixels.

    Returns
    -------
    ndarray
        RGB, uint8 [`size`, `size`, 3]: upright by EXIF, transparent parts white.

    Raises
    ------
    PhotoError
        If the bytes are no photo, are cut short, or hold more than `MAX_PIXELS`.
    """
    pad = ImageOps.pad(reduced(photo, size), (size, size), Image.Resampling.BICUBIC, MARGIN)
    return np.asarray(pad)


def reduced(photo: bytes, size: int) -> Image.Image:
    """Decode a photo and reduce it to fit in a square, as in `read_pixels`, but not enlarged or padded.

    Raises
    ------
    PhotoError
        As `read_pixels`.
    """
    if not photo:
        raise PhotoError("it is empty")
    try:
        with Image.open(io.BytesIO(photo), formats=FORMATS) as image:
            return _reduce(image, size)
    except (PhotoError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(f"it has more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise PhotoError("it is not a JPEG, PNG, WebP, GIF, HEIC or AVIF image") from error
    except Exception as error:  # a decoder given hostile bytes may raise nearly anything
        raise PhotoError(f"it is damaged: {error}") from error


def _reduce(image: Image.Image, size: int) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise PhotoError(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
    whole = _with_channels(image)
    whole.info = image.info  # where EXIF is
    # as serialize does: never enlarged, and box-filtered (a JPEG by its decoder) to twice the size
    whole.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _on_white(ImageOps.exif_transpose(whole))


def _with_channels(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's own conversion would cut off at 255
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
