"""Generate hundreds of bad files, always the same: broken, inconsistent, huge, foreign and odd ones.

`corpus` yields each with a name that says what is wrong with it. Its outcome may be any documented one.
"""

import functools
import io
import itertools
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from tests import photos
from tests.photos import chunk, photo, png

type Files = Iterator[tuple[str, bytes]]

SEED = 20261125


def corpus() -> Files:
    """Every bad file, each content once."""
    seen: set[bytes] = set()
    for family in FAMILIES:
        files = family()
        while made := quietly(files):
            name, content = made
            if content not in seen:
                yield f"{family.__name__}/{name}", content
            seen.add(content)


def quietly(files: Files) -> tuple[str, bytes] | None:
    """Generate the next file without warnings about it or about formats that Pillow will drop."""
    with warnings.catch_warnings(action="ignore"):
        return next(files, None)


# ── Whole files of each format, to be broken ────────────────────────────────────────────────────────────


@functools.cache
def seeds() -> dict[str, bytes]:
    """A small good file of each readable kind, by a name with the usual suffix."""
    picture = photos.scene(96, 72).rotate(7, expand=True)
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    frames = [picture.rotate(30 * turn) for turn in range(1, 4)]
    more = {"save_all": True, "append_images": frames}
    return {
        "baseline.jpg": photo("JPEG", picture, restart_marker_blocks=4),
        "progressive.jpg": photo("JPEG", picture, progressive=True),
        "cmyk.jpg": photos.cmyk_jpeg(),
        "oriented.jpg": photos.with_orientation(6),
        "of-two-images.jpg": photo("MPO", picture, **more),
        "colour.png": photo("PNG", picture),
        "interlaced.png": interlaced_png(),
        "palette.png": photos.palette_png_with_alpha(),
        "16-bit.png": photos.sixteen_bit_colour_png(),
        "animated.png": photo("PNG", picture, **more),
        "still.gif": photo("GIF", picture),
        "animated.gif": photo("GIF", picture, **more),
        "lossy.webp": photo("WEBP", picture),
        "lossless.webp": photo("WEBP", alpha, lossless=True),
        "animated.webp": photo("WEBP", picture, **more),
        "still.avif": photo("AVIF", alpha, speed=10),
        "animated.avif": photo("AVIF", picture, speed=10, **more),
        "still.heic": photo("HEIF", alpha),
        "tiled.heic": photo("HEIF", photos.scene(400, 300), tile_size=128),
        "of-two-images.heic": photo("HEIF", picture, **more),
    }


def interlaced_png() -> bytes:
    """A PNG with Adam7 interlacing, which Pillow reads but does not write."""
    width, height, rows = 32, 24, b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        across, down = -(-(width - x) // dx), -(-(height - y) // dy)
        rows += (b"\0" + b"\x40\x80\xc0" * across) * down
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# ── Broken anywhere ─────────────────────────────────────────────────────────────────────────────────────


def cut_off() -> Files:
    """Files truncated at every sixteenth, in the middle of the header, and one byte before the end."""
    for name, whole in seeds().items():
        for sixteenth in range(1, 16):
            yield f"{sixteenth:02}-16ths-of-{name}", photos.truncated(whole, sixteenth)
        for length in (1, 3, 4, 8, 12, 13, 16, 24, 30, len(whole) - 1):
            yield f"{length}-bytes-of-{name}", whole[:length]


def flipped() -> Files:
    """Files with one flipped bit, or one in a hundred."""
    for name, whole in seeds().items():
        chance = random.Random(f"{SEED} flipped {name}")
        for number, share in enumerate([0.0] * 6 + [0.01] * 3):
            file = bytearray(whole)
            for _ in range(max(1, int(share * len(file)))):
                file[chance.randrange(len(file))] ^= 1 << chance.randrange(8)
            yield f"{number}-{name}", bytes(file)


def gone_wrong() -> Files:
    """Files with a part zeroed, replaced by noise, duplicated or removed, or by the start of another file."""
    for name, whole in seeds().items():
        chance = random.Random(f"{SEED} gone wrong {name}")
        start, length = len(whole) // 3, max(8, len(whole) // 8)
        before, stretch, after = whole[:start], whole[start : start + length], whole[start + length :]
        yield f"zeroes-in-{name}", before + bytes(length) + after
        yield f"noise-in-{name}", before + chance.randbytes(length) + after
        yield f"all-ones-in-{name}", before + b"\xff" * length + after
        yield f"a-stretch-twice-in-{name}", before + stretch + stretch + after
        yield f"a-stretch-gone-from-{name}", before + after
        yield f"backwards-{name}", whole[:16] + whole[:15:-1]
        yield f"line-ends-changed-in-{name}", whole.replace(b"\n", b"\r\n")
        yield f"read-as-text-{name}", whole.decode("utf-8", "replace").encode()
        yield f"padded-{name}", whole + bytes(100_000)
        yield f"twice-{name}", whole + whole
        yield f"a-line-before-{name}", b"\n" + whole
    for (one, first), (other, second) in itertools.pairwise(seeds().items()):
        yield f"half-of-{one}-half-of-{other}", first[: len(first) // 2] + second[len(second) // 2 :]


def wrong_numbers() -> Files:
    """Files in which a 16- or 32-bit number of the header is zero, negative or as large as possible."""
    for name, whole in seeds().items():
        places = range(4, min(len(whole) - 4, 400), 2) if name.endswith(("heic", "avif")) else range(4, 60)
        chance = random.Random(f"{SEED} numbers {name}")
        for place in chance.sample(list(places), min(14, len(places))):
            value = chance.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\xff\xff")
            )
            size = chance.choice((1, 2, 4))
            yield (
                f"{value[-size:].hex()}-at-{place}-in-{name}",
                whole[:place] + value[-size:] + whole[place + size :],
            )


# ── Bombs, and files that are just large ────────────────────────────────────────────────────────────────


def bombs() -> Files:
    """Small files that declare, or unpack to, far more than memory or time allow."""
    yield "60000x60000.png", photos.png_bomb()
    yield "2147483647x1.png", png(2**31 - 1, 1, 8, 0, b"")
    yield "1x2147483647.png", png(1, 2**31 - 1, 8, 0, b"")
    yield "100-million-zeroes.png", png(9_000, 11_000, 8, 0, bytes(9_001 * 11_000), level=9)
    yield "50-million-zeroes.png", png(7_000, 7_000, 1, 0, bytes(876 * 7_000), level=9)
    yield "text-that-unpacks.png", photos.png_with_text_bomb()
    for name, start in (("iCCP", b"profile\0\0"), ("iTXt", b"Comment\0\1\0\0\0"), ("zTXt", b"Comment\0\0")):
        bomb = chunk(name.encode(), start + zlib.compress(bytes(50_000_000), 9))
        yield f"{name}-of-50-megabytes.png", png(32, 24, 8, 0, (b"\0" + b"\x80" * 32) * 24, bomb)
    texts = [chunk(b"zTXt", b"C%d\0\0" % n + zlib.compress(bytes(900_000), 9)) for n in range(90)]
    yield "ninety-texts-of-a-megabyte.png", png(32, 24, 8, 0, (b"\0" + b"\x80" * 32) * 24, *texts)
    rows = (b"\0" + b"\x80" * 32) * 24
    yield "twenty-thousand-empty-chunks.png", png(32, 24, 8, 0, rows, chunk(b"prVt", b"") * 20_000)
    yield "too-many-rows.png", png(32, 24, 8, 0, bytes(33 * 1_000_000), level=9)
    yield "largest-header.webp", photos.webp_bomb()
    yield "16383x16383.webp", photo("WEBP", Image.new("L", (16_383, 4_000)).convert("RGB"), method=0)
    yield "65535x65535-screen.gif", photos.gif_bomb()
    yield "65535x65535-frame.gif", gif(10, 10, frame=(0, 0, 65_535, 65_535))
    yield "many-frames.gif", gif(4_000, 4_000, frames=2_000)
    yield "65535x65535.jpg", photos.jpeg_bomb()
    yield "7000x7000-in-a-thousand-scans.jpg", scan_bomb(7_000, 7_000, 1_000)
    yield "500x500-in-ten-thousand-scans.jpg", scan_bomb(500, 500, 10_000)
    yield "30000x30000.heic", photos.heic_bomb()
    yield "more-pixels-than-declared.avif", photos.avif_with_understated_size()
    for size in (2**16, 2**31, 2**32 - 1):
        for kind in ("still.heic", "still.avif"):
            whole = seeds()[kind]
            place = whole.index(b"ispe") + 8
            yield (
                f"ispe-of-{size}-in-{kind}",
                whole[:place] + struct.pack(">II", size, size) + whole[place + 8 :],
            )


def scan_bomb(width: int, height: int, scans: int) -> bytes:
    """A gray JPEG with a tiny scan repeated many times, each of which is a pass over all pixels."""
    whole = photo("JPEG", Image.new("L", (width, height), 128), progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def gif(
    width: int,
    height: int,
    *,
    frame: tuple[int, int, int, int] | None = None,
    frames: int = 1,
    start: int = 2,
    data: bytes = b"\x02\x44\x01\x00",
) -> bytes:
    """A GIF built by hand: a screen, and repeated frames of the same place and size with compressed data."""
    header = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    left, top, across, down = frame or (0, 0, width, height)
    image = b"," + struct.pack("<HHHHB", left, top, across, down, 0) + bytes([start]) + data
    return header + image * frames + b";"


def large() -> Files:
    """Files that are only large."""
    yield "of-zeroes.jpg", bytes(8_000_000)
    yield "with-8-megabytes-behind.jpg", photo() + bytes(8_000_000)
    yield (
        "with-a-thousand-comments.jpg",
        with_segments(b"\xff\xfe" + struct.pack(">H", 65_535) + b"x" * 65_533, 100),
    )
    yield "sliver-1x60000.png", photos.sliver(1, 60_000)
    yield "sliver-60000x1.jpg", photos.sliver(60_000, 1, "JPEG")
    yield "too-long-for-webp.png", photos.sliver(100_000, 1)


def with_segments(segment: bytes, times: int = 1) -> bytes:
    """A good JPEG with extra segments after its first marker."""
    whole = photo()
    return whole[:2] + segment * times + whole[2:]


# ── Other formats, whatever the name says ─────────────────────────────────────────────────────────────


def foreign() -> Files:
    """Every other image format that Pillow writes, and other files that people upload as photos."""
    Image.init()
    for kind in sorted(set(Image.SAVE) - {"JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIF", "MPO"}):
        for mode in ("RGB", "L", "1", "P"):
            with_pillow = io.BytesIO()
            try:
                photos.scene(64, 48).convert(mode).save(with_pillow, kind)
            except (OSError, ValueError, KeyError, AttributeError):
                continue
            yield f"{mode}.{kind.lower()}.jpg", with_pillow.getvalue()
            break
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("photo.jpg", photo())
    yield "archive.jpg", archive.getvalue()
    yield "page.jpg", b"<!DOCTYPE html><title>404</title><p>Not found"
    yield (
        "vector.svg",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9"/></svg>',
    )
    yield "entities.svg", b'<!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><svg>&b;</svg>'
    yield "layers.psd", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 24, 32, 8, 3) + bytes(64)
    yield "camera.dng", b"II*\0\x08\0\0\0" + bytes(200)
    yield "camera.cr3", struct.pack(">I", 24) + b"ftypcrx " + bytes(120)
    yield "clip.mp4", struct.pack(">I", 24) + b"ftypisom\0\0\2\0isomiso2" + bytes(200)
    yield "clip.mov", struct.pack(">I", 20) + b"ftypqt  \0\0\0\0qt  " + bytes(200)
    yield "naked.jxl", b"\xff\x0a" + bytes(100)
    yield "container.jxl", bytes.fromhex("0000000c4a584c200d0a870a") + bytes(100)
    yield "stream.jxr", b"II\xbc\x01" + bytes(60)
    yield "photo.flif", b"FLIF44" + bytes(60)
    yield "photo.bpg", b"BPG\xfb" + bytes(60)
    yield "program.jpg", b"\x7fELF\2\1\1" + bytes(200)
    yield "wave.webp", b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(36)
    yield "pickle.jpg", b"\x80\x04\x95" + bytes(40)
    yield "utf-16.txt", "Foto folgt später".encode("utf-16")
    yield "base64-of-a-photo.jpg", b"/9j/4AAQSkZJRgABAQAAAQABAAD/" * 40
    yield "data-url.jpg", b"data:image/jpeg;base64,/9j/4AAQSkZJRg=="
    yield "empty.jpg", b""
    yield "one-zero.jpg", b"\0"
    yield "spaces.jpg", b" " * 1000


def only_a_beginning() -> Files:
    """A format's first bytes followed by nothing, zeroes or noise."""
    starts = {
        "jpg": b"\xff\xd8\xff",
        "jfif": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
        "exif": b"\xff\xd8\xff\xe1\x00\x40Exif\0\0MM\0*\0\0\0\x08",
        "png": b"\x89PNG\r\n\x1a\n",
        "ihdr": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "gif87": b"GIF87a",
        "gif89": b"GIF89a",
        "webp": b"RIFF\0\0\0\0WEBP",
        "vp8": b"RIFF\x40\0\0\0WEBPVP8 ",
        "vp8l": b"RIFF\x40\0\0\0WEBPVP8L",
        "vp8x": b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0",
        **{
            brand: b"\0\0\0\x18ftyp" + brand.encode() + b"\0\0\0\0mif1" + brand.encode()
            for brand in ("avif", "avis", "heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1")
        },
    }
    for name, start in starts.items():
        noise = random.Random(f"{SEED} beginning {name}").randbytes(500)
        for what, rest in (
            ("nothing", b""),
            ("zeroes", bytes(500)),
            ("noise", noise),
            ("ones", b"\xff" * 500),
        ):
            yield f"{name}-and-{what}", start + rest


def polyglots() -> Files:
    """Files that are valid in two formats."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("run.sh", "#!/bin/sh\n")
    for name, whole in seeds().items():
        yield f"{name}-and-an-archive", whole + archive.getvalue()
        yield f"{name}-and-a-script", whole + b"\n<script>alert(1)</script><?php echo 1 ?>"
        yield f"a-program-and-{name}", b"MZ" + bytes(62) + whole
    yield "page-in-a-comment.jpg", with_segments(b"\xff\xfe\x00\x2a<html><script>alert(document.domain)//")
    yield "pdf-in-a-comment.jpg", with_segments(b"\xff\xfe\x00\x12%PDF-1.4\n1 0 obj\n")
    yield "script.gif", b"GIF89a=1;/*" + gif(10, 10)[6:] + b"*/;alert(1)"
    yield "gif-called.webp", b"RIFF" + photo("GIF")
    yield "jpeg-in-png-chunk.png", png(32, 24, 8, 0, (b"\0" + b"\x80" * 32) * 24, chunk(b"jpEg", photo()))


# ── One defect in a known part ───────────────────────────────────────────────────────────────────


def jpegs() -> Files:
    """Markers, tables and EXIF that are rare, missing, or wrong."""
    whole = photo("JPEG", photos.scene(96, 72))
    frame = whole.index(b"\xff\xc0")
    for marker in range(0xC0, 0xD0):
        yield f"frame-of-kind-{marker:02x}.jpg", whole[: frame + 1] + bytes([marker]) + whole[frame + 2 :]
    for bits in (0, 1, 2, 7, 12, 16, 255):
        yield f"{bits}-bit.jpg", whole[: frame + 4] + bytes([bits]) + whole[frame + 5 :]
    for width, height in (
        (0, 72),
        (96, 0),
        (0, 0),
        (1, 1),
        (65_535, 1),
        (1, 65_535),
        (97, 73),
        (3_000, 3_000),
    ):
        size = struct.pack(">HH", height, width)
        yield f"says-{width}x{height}.jpg", whole[: frame + 5] + size + whole[frame + 9 :]
    for components in (0, 1, 2, 4, 5, 255):
        yield f"{components}-components.jpg", whole[: frame + 9] + bytes([components]) + whole[frame + 10 :]
    for sampling in (0x00, 0x13, 0x44, 0x51, 0xFF):
        yield f"sampling-{sampling:02x}.jpg", whole[: frame + 11] + bytes([sampling]) + whole[frame + 12 :]
    for name, marker in (
        ("quantization", b"\xff\xdb"),
        ("huffman", b"\xff\xc4"),
        ("frame", b"\xff\xc0"),
        ("scan", b"\xff\xda"),
    ):
        start = whole.index(marker)
        length = 2 + int.from_bytes(whole[start + 2 : start + 4])
        yield f"no-{name}.jpg", whole[:start] + whole[start + length :]
        yield f"two-{name}s.jpg", whole[: start + length] + whole[start:]
        for declared in (0, 1, 2, 0xFFFF):
            yield (
                f"{name}-of-{declared}-bytes.jpg",
                whole[: start + 2] + struct.pack(">H", declared) + whole[start + 4 :],
            )
    yield "no-end.jpg", whole[:-2]
    yield "no-data.jpg", whole[: whole.index(b"\xff\xda")] + b"\xff\xd9"
    yield "end-first.jpg", b"\xff\xd8\xff\xd9" + whole[2:]
    yield "begins-twice.jpg", b"\xff\xd8" + whole
    yield "filled-with-ff.jpg", b"\xff\xd8" + b"\xff" * 5_000 + whole[3:]
    scan = whole.index(b"\xff\xda") + 14
    for marker in range(0xD0, 0xD8):
        yield f"restart-{marker:02x}-in-the-data.jpg", whole[:scan] + bytes([0xFF, marker]) + whole[scan:]
    yield "garbage-between-segments.jpg", with_segments(b"garbage without a marker")
    for name, profile in (
        ("garbage", b"no profile"),
        ("lying-size", b"\xff\xff\xff\xff" + bytes(124) + b"acsp"),
        ("empty", b""),
    ):
        yield f"icc-of-{name}.jpg", photo("JPEG", icc_profile=profile)
    yield "icc-part-9-of-3.jpg", with_segments(b"\xff\xe2\x00\x14ICC_PROFILE\0\x09\x03abcd")
    yield "adobe-of-5-bytes.jpg", with_segments(b"\xff\xee\x00\x07Adobe")
    yield (
        "photoshop-of-nothing.jpg",
        with_segments(b"\xff\xed\x00\x1cPhotoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff"),
    )
    yield "mpo-of-garbage.jpg", photos.with_broken_second_image()
    yield from exifs()
    yield from xmps()


def exifs() -> Files:
    """Invalid orientations, circular pointers, counts beyond the end."""

    def with_exif(tiff: bytes) -> bytes:
        content = b"Exif\0\0" + tiff
        return with_segments(b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content)

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        return struct.pack(">HHII", tag, kind, count, value)

    def directory(*entries: bytes, after: int = 0) -> bytes:
        return (
            b"MM\0*\0\0\0\x08"
            + struct.pack(">H", len(entries))
            + b"".join(entries)
            + struct.pack(">I", after)
        )

    for orientation in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 65_535):
        yield f"orientation-{orientation}.jpg", with_exif(directory(entry(0x0112, 3, 1, orientation << 16)))
    for kind in (0, 1, 2, 4, 5, 7, 10, 12, 13, 99):
        yield f"orientation-of-type-{kind}.jpg", with_exif(directory(entry(0x0112, kind, 1, 6 << 16)))
    yield "orientations-by-the-billion.jpg", with_exif(directory(entry(0x0112, 3, 2**32 - 1, 8)))
    yield "directory-that-follows-itself.jpg", with_exif(directory(entry(0x0112, 3, 1, 6 << 16), after=8))
    yield "exif-directory-in-itself.jpg", with_exif(directory(entry(0x8769, 4, 1, 8)))
    yield (
        "gps-directory-in-itself.jpg",
        with_exif(directory(entry(0x8825, 4, 1, 8), entry(0x0112, 3, 1, 3 << 16))),
    )
    yield (
        "thumbnail-of-4-gigabytes.jpg",
        with_exif(directory(entry(0x0201, 4, 1, 8), entry(0x0202, 4, 1, 2**32 - 1))),
    )
    yield "65535-entries.jpg", with_exif(b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 30)
    yield "offset-beyond-the-end.jpg", with_exif(b"MM\0*\xff\xff\xff\xff")
    yield "byte-order-of-its-own.jpg", with_exif(b"XX\0*\0\0\0\x08")
    yield "big-tiff.jpg", with_exif(b"MM\0+\0\x08\0\0" + bytes(16))
    yield "nothing-in-exif.jpg", with_exif(b"")
    yield "fraction-by-zero.jpg", with_exif(directory(entry(0x011A, 5, 1, 26)) + bytes(8))
    yield "exif-twice.jpg", with_segments(b"\xff\xe1\x00\x08Exif\0\0", 2)
    for kind in ("PNG", "WEBP", "AVIF", "HEIF"):
        yield f"broken-exif.{kind.lower()}", photo(kind, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\x99" * 40)
        for orientation in range(2, 9):
            yield f"orientation-{orientation}.{kind.lower()}", photos.with_orientation(orientation, kind)


def xmps() -> Files:
    """XML that is invalid, never ends, or expands."""
    start = b"http://ns.adobe.com/xap/1.0/\0"
    layers = b"".join(b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 10))
    for name, xml in (
        ("garbage", b"<<<>>>\0\xff"),
        ("open-tags", b"<x>" * 9_000),
        ("billion-laughs", b'<!DOCTYPE x [<!ENTITY l0 "lol">' + layers + b"]><x>&l9;</x>"),
        ("file-of-the-system", b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>'),
        (
            "orientation",
            b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>99</tiff:Orientation></x:xmpmeta>',
        ),
    ):
        content = start + xml
        yield f"xmp-of-{name}.jpg", with_segments(b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content)
        yield f"xmp-of-{name}.webp", photo("WEBP", xmp=xml)
        text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xml)
        yield f"xmp-of-{name}.png", png(32, 24, 8, 0, (b"\0" + b"\x80" * 32) * 24, text)


def pngs() -> Files:  # noqa: C901  a list
    """Headers, chunks and checksums that are rare, missing, or wrong."""
    rows = (b"\0" + b"\x80" * 256) * 24
    for bits, colour in itertools.product((0, 1, 2, 3, 4, 8, 16, 32), (0, 1, 2, 3, 4, 5, 6, 7)):
        yield f"{bits}-bit-of-colour-{colour}.png", png(32, 24, bits, colour, rows)
    for width, height in ((0, 24), (32, 0), (0, 0), (2**31, 24), (32, 2**31), (2**32 - 1, 2**32 - 1)):
        yield f"{width}x{height}.png", png(width, height, 8, 2, rows)
    for place, what in ((26, "compression"), (27, "filter"), (28, "interlace")):
        whole = bytearray(png(32, 24, 8, 2, rows))
        whole[place] = 7
        whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
        yield f"unknown-{what}.png", bytes(whole)
    whole = photo("PNG", photos.scene(64, 48))
    places = [whole.index(name) for name in (b"IHDR", b"IDAT", b"IEND")]
    for start, name in zip(places, ("IHDR", "IDAT", "IEND"), strict=True):
        length = int.from_bytes(whole[start - 4 : start])
        end = start + 4 + length
        yield f"wrong-checksum-of-{name}.png", whole[:end] + b"\0\0\0\0" + whole[end + 4 :]
        yield f"no-{name}.png", whole[: start - 4] + whole[end + 4 :]
        yield f"two-{name}s.png", whole[: end + 4] + whole[start - 4 :]
        for declared in (0, length - 1, length + 1, 2**31, 2**32 - 1):
            if declared >= 0:
                yield (
                    f"{name}-of-{declared}-bytes.png",
                    whole[: start - 4] + struct.pack(">I", declared) + whole[start:],
                )
    for row_filter in (5, 255):
        yield f"row-filter-{row_filter}.png", png(32, 24, 8, 0, (bytes([row_filter]) + bytes(32)) * 24)
    yield "rows-missing.png", png(32, 24, 8, 0, (b"\0" + bytes(32)) * 12)
    yield "no-palette.png", png(32, 24, 8, 3, (b"\0" + bytes(32)) * 24)
    yield "palette-too-short.png", png(32, 24, 8, 3, (b"\0" + b"\xff" * 32) * 24, chunk(b"PLTE", b"\0\0\0"))
    yield "palette-of-4-bytes.png", png(32, 24, 8, 3, (b"\0" + bytes(32)) * 24, chunk(b"PLTE", b"\0\0\0\0"))
    yield "palette-of-300.png", png(32, 24, 8, 3, (b"\0" + bytes(32)) * 24, chunk(b"PLTE", bytes(900)))
    for colour, alpha in (
        (0, b""),
        (0, b"\0\x80"),
        (0, b"\xff" * 9),
        (2, b"\0\1"),
        (3, b"\0" * 300),
        (6, b"\0\0"),
    ):
        named = f"transparency-of-{len(alpha)}-for-colour-{colour}.png"
        yield named, png(8, 24, 8, colour, rows[: 33 * 24], chunk(b"PLTE", bytes(12)), chunk(b"tRNS", alpha))
    for name in (
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"iCCP",
        b"pHYs",
        b"tIME",
        b"bKGD",
        b"eXIf",
        b"acTL",
        b"fcTL",
        b"fdAT",
        b"tEXt",
        b"zTXt",
        b"iTXt",
    ):
        for content in (b"", b"\0", b"\xff" * 26):
            yield (
                f"{name.decode()}-of-{len(content)}.png",
                png(32, 24, 8, 0, (b"\0" + bytes(32)) * 24, chunk(name, content)),
            )
    yield (
        "frames-by-the-billion.png",
        png(32, 24, 8, 0, (b"\0" + bytes(32)) * 24, chunk(b"acTL", b"\xff" * 8)),
    )
    yield "nothing-compressed.png", png(32, 24, 8, 0, b"")
    yield "not-compressed.png", png(32, 24, 8, 0, rows).replace(zlib.compress(rows, 6), rows[:200])
    yield "mng.png", b"\x8aMNG\r\n\x1a\n" + whole[8:]
    yield "apple-cgbi.png", whole[:8] + chunk(b"CgBI", b"\x50\0\x20\2") + whole[8:]
    yield "16-bit-gray.png", photos.sixteen_bit_gray_png()
    yield "1-bit.png", photo("PNG", photos.scene().convert("1"))


def gifs() -> Files:
    """Screens, frames and data that do not fit together."""
    yield "no-frame.gif", gif(10, 10, frames=0)
    yield "no-screen.gif", gif(0, 0, frame=(0, 0, 10, 10))
    yield "no-screen-no-frame.gif", gif(0, 0)
    yield "screen-0x10.gif", gif(0, 10)
    yield "screen-10x0.gif", gif(10, 0)
    yield "frame-0x0.gif", gif(10, 10, frame=(0, 0, 0, 0))
    yield "frame-0x10.gif", gif(10, 10, frame=(0, 0, 0, 10))
    yield "small-frame.gif", gif(1_000, 1_000, frame=(500, 500, 1, 1))
    yield "frame-outside.gif", gif(10, 10, frame=(9_000, 9_000, 10, 10))
    yield "frame-larger-than-screen.gif", gif(10, 10, frame=(0, 0, 3_000, 3_000))
    for start in (0, 1, 2, 8, 11, 12, 13, 255):
        yield f"code-size-{start}.gif", gif(100, 100, start=start)
    for name, data in (
        ("none", b"\0"),
        ("endless", b"\xff" + b"\x55" * 255),
        ("ones", b"\x05\xff\xff\xff\xff\xff\0"),
        ("clear", b"\x05" + b"\x24" * 5 + b"\0"),
    ):
        yield f"data-{name}.gif", gif(100, 100, data=data)
    whole = gif(10, 10)
    palette = whole[:13] + whole[19:]
    yield "palette-declared-but-missing.gif", palette
    yield "no-palette.gif", palette[:10] + b"\0" + palette[11:]
    for code in (0x01, 0xF9, 0xFE, 0xFF, 0x00):
        for content in (
            b"\0",
            b"\x01\xff\0",
            b"\xff" + b"\xfe" * 255 + b"\0",
            b"\x0bNETSCAPE2.0\x03\x01\0\0\0",
        ):
            extension = b"!" + bytes([code]) + content
            yield f"extension-{code:02x}-{len(content)}.gif", whole[:19] + extension + whole[19:]
    yield "unknown-block.gif", whole[:19] + b"\x99" + whole[19:]
    yield "no-end.gif", whole[:-1]
    yield "ends-first.gif", whole[:19] + b";" + whole[19:]
    yield "98a.gif", b"GIF98a" + whole[6:]
    yield "extensions-without-end.gif", whole[:19] + b"!\xfe\x01a\0" * 50_000
    for disposal in range(8):
        control = b"!\xf9\x04" + bytes([disposal << 2 | 1]) + b"\0\0\0\0"
        yield f"disposal-{disposal}.gif", whole[:19] + control + whole[19:-1] + control + whole[19:]


def webps() -> Files:
    """Chunks and sizes that do not fit together."""
    for name in ("lossy.webp", "lossless.webp", "animated.webp"):
        whole = seeds()[name]
        for size in (0, 4, 12, len(whole), 2**31, 2**32 - 1):
            yield f"riff-of-{size}-{name}", whole[:4] + struct.pack("<I", size) + whole[8:]
            yield f"chunk-of-{size}-{name}", whole[:16] + struct.pack("<I", size) + whole[20:]
        for kind in (
            b"VP8 ",
            b"VP8L",
            b"VP8X",
            b"ANIM",
            b"ANMF",
            b"ALPH",
            b"EXIF",
            b"XMP ",
            b"ICCP",
            b"JUNK",
        ):
            yield f"called-{kind.decode().strip()}-{name}", whole[:12] + kind + whole[16:]
        for place in (20, 21, 22, 23, 24, 25, 26, 27, 28, 29):
            yield f"ff-at-{place}-{name}", whole[:place] + b"\xff" + whole[place + 1 :]
            yield f"00-at-{place}-{name}", whole[:place] + b"\0" + whole[place + 1 :]
    canvas = b"VP8X\x0a\0\0\0\x02\0\0\0" + struct.pack("<I", 99)[:3] + struct.pack("<I", 99)[:3]
    yield "animation-of-no-frames.webp", b"RIFF\x2c\0\0\0WEBP" + canvas + b"ANIM\x06\0\0\0" + bytes(6)
    yield "canvas-alone.webp", b"RIFF\x16\0\0\0WEBP" + canvas
    huge = b"VP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff"
    yield "canvas-of-16777216.webp", b"RIFF\x16\0\0\0WEBP" + huge


def boxes() -> Files:
    """HEIC's and AVIF's boxes renamed, resized, duplicated and removed; wrong brands."""
    for name in ("still.heic", "tiled.heic", "still.avif", "animated.avif"):
        whole = seeds()[name]
        for kind in (
            b"ftyp",
            b"meta",
            b"hdlr",
            b"pitm",
            b"iloc",
            b"iinf",
            b"infe",
            b"iprp",
            b"ipco",
            b"ipma",
            b"ispe",
            b"pixi",
            b"hvcC",
            b"av1C",
            b"iref",
            b"idat",
            b"mdat",
            b"moov",
            b"trak",
            b"stsz",
            b"colr",
            b"auxC",
        ):
            place = whole.find(kind)
            if place < 4:
                continue
            length = int.from_bytes(whole[place - 4 : place])
            label = kind.decode()
            yield f"no-{label}-{name}", whole[:place] + b"free" + whole[place + 4 :]
            for declared in (0, 1, 7, length * 2, 2**31 - 1):
                yield (
                    f"{label}-of-{declared}-{name}",
                    whole[: place - 4] + struct.pack(">I", declared) + whole[place:],
                )
            yield (
                f"{label}-twice-{name}",
                whole[: place - 4] + whole[place - 4 : place - 4 + length] + whole[place - 4 :],
            )
            start = place + 4
            yield (
                f"{label}-of-ones-{name}",
                whole[:start] + b"\xff" * (length - 8) + whole[start + length - 8 :],
            )
            yield (
                f"{label}-of-zeroes-{name}",
                whole[:start] + bytes(max(0, length - 8)) + whole[start + length - 8 :],
            )
    heic, avif = seeds()["still.heic"], seeds()["still.avif"]
    for brand in (
        b"heic",
        b"heix",
        b"hevc",
        b"hevx",
        b"heim",
        b"heis",
        b"mif1",
        b"msf1",
        b"avif",
        b"avis",
        b"mif2",
        b"jpeg",
        b"j2ki",
        b"vvic",
    ):
        yield f"a-heic-called-{brand.decode()}", heic[:8] + brand + heic[12:]
        yield f"an-avif-called-{brand.decode()}", avif[:8] + brand + avif[12:]
    yield "avif-in-heic.heic", heic[: heic.index(b"mdat") + 4] + avif[avif.index(b"mdat") + 4 :]
    yield "grid-of-256x256.heic", grid(255, 255, 2**16, 2**16)
    yield "grid-of-1x1-beyond.heic", grid(0, 0, 2**31, 2**31)
    yield "grid-of-0x0.heic", grid(1, 1, 0, 0)
    yield "thousands-of-items.heic", with_items(5_000)
    yield "reference-to-itself.heic", self_reference()


def grid(rows: int, columns: int, width: int, height: int) -> bytes:
    """The tiled HEIC with a wrong grid; rows and columns are stored minus one."""
    whole = bytearray(seeds()["tiled.heic"])
    place = whole.find(b"idat")
    content = bytes([0, 1, rows, columns]) + struct.pack(">II", width, height)
    whole[place + 4 : place + 4 + len(content)] = content
    return bytes(whole)


def with_items(count: int) -> bytes:
    """A HEIC that declares thousands of items."""
    whole = bytearray(seeds()["still.heic"])
    place = whole.index(b"iinf")
    whole[place + 8 : place + 10] = struct.pack(">H", count)
    return bytes(whole)


def self_reference() -> bytes:
    """A HEIC whose tiles each refer to the whole image."""
    whole = bytearray(seeds()["tiled.heic"])
    place = whole.find(b"dimg")
    if place > 0:
        count = int.from_bytes(whole[place + 6 : place + 8])
        item = bytes(whole[place + 4 : place + 6])
        whole[place + 8 : place + 8 + 2 * count] = item * count
    return bytes(whole)


def odd_but_good() -> Files:
    """Good files that could be mistaken for bad ones."""
    for name, make in photos.READABLE.items():
        yield name.replace(" ", "-"), make()
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16"):
        for kind in ("PNG", "GIF", "WEBP", "AVIF"):
            file = io.BytesIO()
            picture = (
                Image.fromarray(np.full((24, 32), 700, np.uint16))
                if mode == "I;16"
                else photos.scene(32, 24).convert(mode)
            )
            try:
                picture.save(file, kind)
            except (OSError, ValueError):
                continue
            yield f"{mode.replace(';', '-')}.{kind.lower()}", file.getvalue()
    for quality in (1, 100):
        for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
            try:
                yield (
                    f"quality-{quality}-{sampling.replace(':', '')}.jpg",
                    photo("JPEG", quality=quality, subsampling=sampling),
                )
            except (ValueError, TypeError):
                continue


FAMILIES: tuple[Callable[[], Files], ...] = (
    cut_off,
    flipped,
    gone_wrong,
    wrong_numbers,
    bombs,
    large,
    foreign,
    only_a_beginning,
    polyglots,
    jpegs,
    pngs,
    gifs,
    webps,
    boxes,
    odd_but_good,
)


def odd_names() -> Iterator[str]:
    """Names for use after ``uploads/``; S3 accepts any UTF-8 of up to 1,024 bytes."""
    yield from photos.ODD_KEYS
    yield from (
        "",
        "/",
        "//",
        "folder/",
        "a//b.jpg",
        ".",
        "..",
        "./photo.jpg",
        "../photo.jpg",
        "../../etc/passwd",
        "a/../b.jpg",
        "%2F",
        "%2E%2E%2F",
        "%00",
        "%",
        "%zz.jpg",
        "a%20b.jpg",
        "+",
        "a+b.jpg",
        " ",
        " lead.jpg",
        "trail.jpg ",
        "two  spaces.jpg",
        "tab\t.jpg",
        "new\nline.jpg",
        "carriage\rreturn.jpg",
        "line\u2028sep.jpg",
        "bell\x07.jpg",
        "escape\x1b[31m.jpg",
        "delete\x7f.jpg",
        "start\x01.jpg",
        "c1\x85.jpg",
        "\ufeffbom.jpg",
        "right\u202eto\u202cleft.gpj",
        "e\u0301 combined.jpg",
        "é composed.jpg",
        "ﬁ ligature.jpg",
        "ﷺ.jpg",
        "👩‍👩‍👧‍👦🚲.jpg",
        "\U0010ffff.jpg",
        "\ufffd.jpg",
        "zero\u200bwidth.jpg",
        "$.jpg",
        "${key}.jpg",
        "{{key}}.jpg",
        "{% $states.input %}.jpg",
        "<script>.jpg",
        "&amp;.jpg",
        "&.jpg",
        "=cmd|' /C calc'!A0.jpg",
        "'; DROP TABLE x;--.jpg",
        '"',
        "'",
        "`",
        "\\",
        "\\n.jpg",
        "\\u0000.jpg",
        "a\\b.jpg",
        "*",
        "?",
        "a?versionId=x.jpg",
        "#frag.jpg",
        "@.jpg",
        "~.jpg",
        "^.jpg",
        "|.jpg",
        ":.jpg",
        "C:\\photo.jpg",
        "file:///etc/passwd",
        "s3://other/key.jpg",
        "null",
        "undefined",
        "true",
        "0",
        "-1",
        "1e999",
        "NaN",
        "[]",
        "{}",
        "photo.JPG.exe",
        "PHOTO.JPEG",
        "noextension",
        "con.jpg",
        ".hidden.jpg",
        "a" * 1016,
        "é" * 508,
        "🚲" * 254,
        "a/" * 508,
        "%" * 1016,
        "\n" * 1016,
        '"' * 1016,
        "x" * 300 + ".jpg",
    )
