import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from model import photo
from model.photo import MARGIN, PhotoError, read_pixels

SIZE = 64


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def drawing(width: int = 200, height: int = 100) -> Image.Image:
    """A picture with a red top left quarter; the rest is blue."""
    image = Image.new("RGB", (width, height), "blue")
    ImageDraw.Draw(image).rectangle([0, 0, width // 2 - 1, height // 2 - 1], fill="red")
    return image


def color(pixels: np.ndarray, row: int, column: int) -> str:
    red, green, blue = (int(value) for value in pixels[row, column])
    names = {(1, 0, 0): "red", (0, 0, 1): "blue", (1, 1, 1): "white", (0, 0, 0): "black"}
    return names.get((red > 200, green > 200, blue > 200), f"{red},{green},{blue}")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "HEIF", "AVIF"])
def test_each_format_is_read(kind):
    pixels = read_pixels(encoded(drawing(), kind), SIZE)

    assert (pixels.shape, pixels.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert (color(pixels, 20, 10), color(pixels, 20, 54), color(pixels, 44, 10)) == ("red", "blue", "blue")


def test_the_aspect_ratio_is_kept_by_gray_margins():
    pixels = read_pixels(encoded(drawing(200, 100)), SIZE)

    assert (pixels[:16] == MARGIN).all()
    assert (pixels[48:] == MARGIN).all()
    assert not (pixels[16:48] == MARGIN).all(axis=2).any()


def test_a_small_picture_fills_the_square():
    pixels = read_pixels(encoded(drawing(32, 32)), SIZE)

    assert (color(pixels, 2, 2), color(pixels, 61, 61)) == ("red", "blue")


@pytest.mark.parametrize("size", [(1600, 900), (90, 160), (63, 64), (1, 1), (3000, 1), (1, 500)])
def test_a_photo_and_its_reduced_form_give_the_same_pixels(size):
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    whole = Image.fromarray(noise)
    reduced = whole.copy()
    reduced.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS, reducing_gap=2.0)

    assert np.array_equal(read_pixels(encoded(whole), SIZE), read_pixels(encoded(reduced), SIZE))


@pytest.mark.parametrize(
    ("orientation", "red_corner"), [(1, (20, 10)), (2, (20, 54)), (3, (44, 54)), (6, (10, 40)), (8, (54, 24))]
)
@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("JPEG", "L")])
def test_exif_orientation_is_applied(orientation, red_corner, kind, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = drawing().convert(mode)

    pixels = read_pixels(encoded(image, kind, exif=exif), SIZE)

    assert pixels[red_corner][0] > 60
    assert pixels[red_corner][0] != pixels[32, 32][0] or mode != "L"
    if mode != "L":
        assert color(pixels, *red_corner) == "red"


def test_transparent_parts_are_white():
    image = drawing().convert("RGBA")
    image.putalpha(
        Image.linear_gradient("L").resize(image.size).point(lambda value: 255 if value < 128 else 0)
    )

    pixels = read_pixels(encoded(image), SIZE)

    assert (color(pixels, 20, 10), color(pixels, 44, 10)) == ("red", "white")


def test_a_color_that_marks_transparency_becomes_white_too():
    assert color(read_pixels(encoded(drawing(), transparency=(0, 0, 255)), SIZE), 44, 54) == "white"


def test_a_transparent_palette_entry_becomes_white_too():
    image = drawing().convert("P", palette=Image.Palette.ADAPTIVE)
    blue = image.getpixel((199, 99))

    assert color(read_pixels(encoded(image, transparency=blue), SIZE), 44, 54) == "white"


@pytest.mark.parametrize(
    ("mode", "kind"), [("CMYK", "JPEG"), ("L", "JPEG"), ("LA", "PNG"), ("1", "PNG"), ("P", "PNG")]
)
def test_other_modes_become_rgb(mode, kind):
    image = Image.new("L", (80, 80), 255)
    image.paste(0, (0, 0, 40, 80))

    pixels = read_pixels(
        encoded(image.convert("RGB").convert(mode) if mode == "CMYK" else image.convert(mode), kind), SIZE
    )

    assert (color(pixels, 32, 10), color(pixels, 32, 54)) == ("black", "white")


def test_sixteen_bits_are_scaled_rather_than_clipped():
    ramp = np.linspace(0, 65535, SIZE).astype(np.uint16)
    image = Image.fromarray(np.tile(ramp, (SIZE, 1)))

    pixels = read_pixels(encoded(image), SIZE)

    assert np.allclose(pixels[0, :, 0], np.linspace(0, 255, SIZE), atol=1)


def test_the_first_frame_of_an_animation_is_read():
    red, blue = (Image.new("RGB", (80, 80), name) for name in ("red", "blue"))
    animation = encoded(red, "GIF", save_all=True, append_images=[blue])

    assert color(read_pixels(animation, SIZE), 32, 32) == "red"


def test_a_photo_of_many_megapixels_is_read():
    assert color(read_pixels(encoded(drawing(8000, 6000), "JPEG"), SIZE), 20, 10) == "red"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"a text that calls itself a photo", "not a JPEG"),
        (encoded(drawing(), "BMP"), "not a JPEG"),
        (encoded(drawing(), "JPEG")[:-300], "damaged"),
        (encoded(drawing())[:-60], "damaged"),
        (encoded(drawing(), "WEBP")[:-60], "damaged|not a JPEG"),
        (encoded(drawing(), "AVIF")[:-60], "damaged|not a JPEG"),
        (encoded(drawing(), "HEIF")[:-60], "damaged|not a JPEG"),
    ],
    ids=["empty", "text", "bmp", "cut jpeg", "cut png", "cut webp", "cut avif", "cut heic"],
)
def test_an_invalid_photo_is_refused_with_the_reason(content, reason):
    with pytest.raises(PhotoError, match=reason):
        read_pixels(content, SIZE)


@pytest.mark.parametrize("size", [(8001, 8000), (20_000, 20_000)])
def test_a_decompression_bomb_is_refused_before_decoding(size):
    header = encoded(Image.new("1", (8, 8)))
    claim = b"".join(side.to_bytes(4) for side in size)
    chunk = b"IHDR" + claim + header[24:29]
    bomb = header[:12] + chunk + zlib.crc32(chunk).to_bytes(4) + header[33:]

    with pytest.raises(PhotoError, match="pixels"):
        read_pixels(bomb, SIZE)


def test_running_out_of_memory_is_not_a_photo_error(monkeypatch):
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(photo, "_reduce", exhausted)

    with pytest.raises(MemoryError):
        read_pixels(encoded(drawing()), SIZE)
