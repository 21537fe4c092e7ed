"""Generate photos of every kind that couriers and others upload: good, odd and bad ones.

Each function returns the bytes of a file. READABLE and REJECTED list all small ones by description.
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image, ImageCms
from PIL.Image import Transpose

pillow_heif.register_heif_opener()

RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 180, 30), (30, 30, 220), (230, 220, 40)
CORNERS = (RED, GREEN, BLUE, YELLOW)
"""The colours at the top left, top right, bottom left and bottom right of `scene`."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIF")

# The transposition with which a picture is stored, so that the EXIF orientation turns it upright.
STORED = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


def scene(width: int = 320, height: int = 240) -> Image.Image:
    """Four coloured quarters, which show the orientation."""
    picture = Image.new("RGB", (2, 2))
    picture.putdata(CORNERS)
    return picture.resize((width, height), Image.Resampling.NEAREST)


def noise(width: int, height: int, channels: int = 3, *, seed: int = 7) -> Image.Image:
    """Each sample is 0 or 255 at random, which compresses worst."""
    dots = np.random.default_rng(seed).integers(0, 2, (height, width, channels), dtype=np.uint8) * 255
    return Image.fromarray(dots)


def texture(width: int, height: int) -> Image.Image:
    """A large picture that is fast to create: a repeated tile of soft noise."""
    tile = np.random.default_rng(7).integers(96, 160, (256, 256, 3), dtype=np.uint8)
    return Image.fromarray(np.tile(tile, (height // 256 + 1, width // 256 + 1, 1))[:height, :width])


def photo(kind: str = "JPEG", picture: Image.Image | None = None, **options: Any) -> bytes:
    """A picture, by default the scene, saved in one of Pillow's formats."""
    file = io.BytesIO()
    (scene() if picture is None else picture).save(file, kind, **options)
    return file.getvalue()


def with_orientation(orientation: int, kind: str = "JPEG") -> bytes:
    """The scene as a rotated camera stores it, with the orientation in EXIF or HEIC's container."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = STORED[orientation]
    return photo(kind, scene() if stored is None else scene().transpose(stored), exif=exif.tobytes())


def with_broken_exif() -> bytes:
    """A good JPEG whose EXIF has an invalid offset."""
    return photo(exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\x99" * 40)


def with_broken_second_image() -> bytes:
    """A good JPEG that claims to contain more images (MPO, as phones make), with a broken index."""
    index = b"MPF\0II*\0\x08\0\0\0\x01\0\x01\xb0\x04\0\x01\0\0\0\x02\0\0\0\0\0\0\0"
    jpeg = photo()
    return jpeg[:2] + b"\xff\xe2" + struct.pack(">H", len(index) + 2) + index + jpeg[2:]


def of_two_images() -> bytes:
    """A phone's JPEG with a second image after the first (MPO)."""
    return photo("MPO", save_all=True, append_images=[Image.new("RGB", (320, 240))])


def cmyk_jpeg() -> bytes:
    """The scene for print: CMYK as Adobe stores it, with a colour profile."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return photo("JPEG", scene().convert("CMYK"), icc_profile=profile)


def sixteen_bit_gray_png(level: int = 0x8000) -> bytes:
    """16 bits per pixel, all of one level, as scanners and some cameras make."""
    return photo("PNG", Image.fromarray(np.full((240, 320), level, dtype=np.uint16)))


def png(
    width: int, height: int, bits: int, colour: int, rows: bytes, *chunks: bytes, level: int = 6
) -> bytes:
    """A PNG built by hand, for what Pillow does not write: 16-bit colour, wrong headers, bombs."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows, level))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *chunks, data, chunk(b"IEND", b"")))


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def sixteen_bit_colour_png() -> bytes:
    """48 bits per pixel, all of one orange."""
    return png(32, 24, 16, 2, (b"\0" + struct.pack(">HHH", 0xFFFF, 0x8000, 0) * 32) * 24)


def palette_png_with_alpha() -> bytes:
    """A palette picture whose left half has a fully transparent colour."""
    picture = Image.new("P", (320, 240), 0)
    picture.putpalette([0, 0, 0, *BLUE])
    picture.paste(1, (160, 0, 320, 240))
    return photo("PNG", picture, transparency=b"\0\xff")


def half_transparent(kind: str) -> bytes:
    """Half-transparent black, which is gray on white."""
    return photo(kind, Image.new("RGBA", (320, 240), (0, 0, 0, 128)))


def animated(kind: str) -> bytes:
    """The scene, then a black frame."""
    return photo(kind, save_all=True, append_images=[Image.new("RGB", (320, 240))], duration=100)


def sliver(width: int, height: int, kind: str = "PNG") -> bytes:
    """A plain picture of an extreme shape."""
    return photo(kind, Image.new("RGB", (width, height), GREEN))


def truncated(whole: bytes, sixteenths: int) -> bytes:
    """The beginning of a file, as if its upload was interrupted."""
    return whole[: len(whole) * sixteenths // 16]


def text_called_jpg() -> bytes:
    """A text file."""
    return "Liebe Grüße aus Zürich\n".encode() * 20


def png_bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """Billions of pixels in a few bytes."""
    return png(width, height, 8, 2, b"")


def png_with_text_bomb() -> bytes:
    """A good picture with a comment that unpacks to ten million bytes."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 10_000_000, 9))
    return png(32, 24, 8, 0, (b"\0" + b"\x80" * 32) * 24, text)


def webp_bomb() -> bytes:
    """A header with a WebP's largest size, 16384 x 16384, and the data of a small one."""
    whole = photo("WEBP", lossless=True)
    return whole[:21] + struct.pack("<I", 0x3FFF | 0x3FFF << 14) + whole[25:]


def gif_bomb() -> bytes:
    """A screen of 65535 x 65535 pixels around a small picture."""
    whole = photo("GIF")
    return whole[:6] + struct.pack("<HH", 0xFFFF, 0xFFFF) + whole[10:]


def jpeg_bomb() -> bytes:
    """A header with 65535 x 65535 pixels and the data of a small photo."""
    whole = photo("JPEG")
    size = whole.index(b"\xff\xc0") + 5
    return whole[:size] + struct.pack(">HH", 0xFFFF, 0xFFFF) + whole[size + 4 :]


def heic_of_declared_size(width: int, height: int) -> bytes:
    """A header with a size of its own and the data of a small photo."""
    whole = photo("HEIF")
    size = whole.index(b"ispe") + 8
    return whole[:size] + struct.pack(">II", width, height) + whole[size + 8 :]


def heic_bomb() -> bytes:
    return heic_of_declared_size(30_000, 30_000)


def avif_with_understated_size() -> bytes:
    """A container that declares 100 x 100 pixels but has 225 million, all of one colour."""
    whole = bytearray(photo("AVIF", Image.new("RGB", (15_000, 15_000), GREEN), speed=10, quality=20))
    size = whole.index(b"ispe") + 8
    whole[size : size + 8] = struct.pack(">II", 100, 100)
    return bytes(whole)


def fifty_megapixel_jpeg(*, progressive: bool = False, subsampling: str = "4:4:4") -> bytes:
    """The largest size of common cameras; progressive 4:4:4 takes the most memory to decode."""
    return photo("JPEG", texture(8660, 5774), quality=75, progressive=progressive, subsampling=subsampling)


def twenty_five_megabyte_jpeg() -> bytes:
    """Few pixels, many bytes."""
    return photo("JPEG", noise(4000, 3400), quality=90, subsampling="4:4:4")


def big_png(channels: int = 3) -> bytes:
    """24 megapixels of uncompressed noise: 72 MB in RGB, 96 MB in RGBA."""
    return photo("PNG", noise(6000, 4000, channels), compress_level=0)


def big_sixteen_bit_png() -> bytes:
    """24 megapixels in 144 MB."""
    row = b"\0" + np.random.default_rng(7).bytes(6000 * 6)
    return png(6000, 4000, 16, 2, row * 4000, level=0)


def big_heic() -> bytes:
    """48 megapixels, as newer phones make. Encoding takes several seconds."""
    picture = Image.new("RGB", (8064, 6048), GREEN)
    return photo("HEIF", picture, quality=20, tile_size=2016, enc_params={"preset": "ultrafast"})


ODD_KEYS = (
    "route 7/a+b c.png",
    "räder/摩托车 🏍.jpg",
    "..%2F..%2Fetc/passwd",
    "100%25 & more/?x=#y.jpg",
    "line\nbreak\ttab.jpg",
    "'quotes\" and \\ slashes",
    "é" * 490,
)
"""File names that users and programs choose, for use under any prefix."""

READABLE: dict[str, Callable[[], bytes]] = {
    "a JPEG": photo,
    "a progressive JPEG": lambda: photo(progressive=True),
    "a gray JPEG": lambda: photo("JPEG", scene().convert("L")),
    "a CMYK JPEG with a profile": cmyk_jpeg,
    "a JPEG with broken EXIF": with_broken_exif,
    "a JPEG of two images": of_two_images,
    "a JPEG with a broken second image": with_broken_second_image,
    "a PNG": lambda: photo("PNG"),
    "a 1-bit PNG": lambda: photo("PNG", scene().convert("1")),
    "a 16-bit gray PNG": sixteen_bit_gray_png,
    "a 16-bit colour PNG": sixteen_bit_colour_png,
    "a palette PNG with alpha": palette_png_with_alpha,
    "a gray PNG with alpha": lambda: photo("PNG", scene().convert("LA")),
    "a 1x1 PNG": lambda: sliver(1, 1),
    "a 20000x1 PNG": lambda: sliver(20_000, 1),
    "a 1x20000 JPEG": lambda: sliver(1, 20_000, "JPEG"),
    "a GIF": lambda: photo("GIF"),
    "an animated GIF": lambda: animated("GIF"),
    "a WebP": lambda: photo("WEBP"),
    "a lossless WebP": lambda: photo("WEBP", lossless=True),
    "an animated WebP": lambda: animated("WEBP"),
    "an AVIF": lambda: photo("AVIF"),
    "an animated AVIF": lambda: animated("AVIF"),
    "a HEIC": lambda: photo("HEIF"),
    "a gray HEIC": lambda: photo("HEIF", scene().convert("L")),
    "a HEIC in tiles": lambda: photo("HEIF", scene(1200, 900), tile_size=512),
    "a HEIC with orientation": lambda: with_orientation(6, "HEIF"),
    "a JPEG with orientation": lambda: with_orientation(6),
}

REJECTED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "an empty file": ("empty", bytes),
    "a text called .jpg": ("unreadable", text_called_jpg),
    "a TIFF": ("unreadable", lambda: photo("TIFF")),
    "a BMP": ("unreadable", lambda: photo("BMP")),
    "a PDF": ("unreadable", lambda: photo("PDF")),
    "an EPS": ("unreadable", lambda: photo("EPS")),
    "two bytes": ("unreadable", lambda: b"\xff\xd8"),
    "half a JPEG": ("damaged", lambda: truncated(photo(), 8)),
    "the first bytes of a JPEG": ("damaged", lambda: photo()[:20]),
    "a PNG without data": ("damaged", lambda: png(32, 24, 8, 2, b"")),
    "a PNG of no height": ("damaged", lambda: png(32, 0, 8, 2, b"")),
    # libheif reads these sizes as 0.
    "a HEIC of no pixels": ("damaged", lambda: heic_of_declared_size(2**31, 2**31)),
    "a HEIC of no height": ("damaged", lambda: heic_of_declared_size(1, 2**31)),
    "a PNG with a text bomb": ("damaged", png_with_text_bomb),
    "a PNG bomb": ("too_many_pixels", png_bomb),
    "a WebP bomb": ("too_many_pixels", webp_bomb),
    "a GIF bomb": ("too_many_pixels", gif_bomb),
    "a JPEG bomb": ("too_many_pixels", jpeg_bomb),
    "a HEIC bomb": ("too_many_pixels", heic_bomb),
}


LARGE: dict[str, Callable[[], bytes]] = {
    "HEIC of 48 megapixels": big_heic,
    "JPEG of 50 megapixels": fifty_megapixel_jpeg,
    "JPEG of 50 megapixels, progressive": lambda: fifty_megapixel_jpeg(progressive=True),
    "JPEG of 25 MB": twenty_five_megabyte_jpeg,
    "PNG of 24 megapixels": big_png,
    "PNG of 24 megapixels with alpha": lambda: big_png(4),
    "PNG of 24 megapixels in 16 bits": big_sixteen_bit_png,
    "GIF of 24 megapixels": lambda: photo("GIF", texture(6000, 4000).convert("L")),
    "WebP of 21 megapixels": lambda: photo("WEBP", texture(5300, 4000), method=0, quality=50),
    "AVIF of 24 megapixels": lambda: photo("AVIF", texture(6000, 4000), speed=10, quality=50),
}
"""The largest photos that are accepted, in each format."""
