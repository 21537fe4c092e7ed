"""Read a courier's photo of any common format from S3 and reduce it to what the model takes in."""

import base64
import functools
import hashlib
import io
import multiprocessing
import os
import re
import resource
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as BotoConnectionError
from PIL import ExifTags, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Resampling, Transpose
from PIL.JpegImagePlugin import JpegImageFile, get_sampling, samplings
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef
    from pillow_heif import HeifImage

# Three attempts of at most 7 s and their pauses, and then the decoding, end within the function's 45 s.
S3: "S3Client" = boto3.client(
    "s3",
    config=Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3}),
)

MAX_BYTES = 160_000_000
"""What /tmp easily holds (512 MB: AWS Lambda Developer Guide, "Lambda quotas"), and enough for 24 megapixels
of 16-bit PNG that do not compress."""

DECODING_MEMORY = 370_000_000
"""Bytes that decoding may take: the function's 512 MB less Python, boto3 and all that is always there."""

DECODING_SECONDS = 15
"""What decoding may take, on the third of a processor that comes with 512 MB (AWS Lambda Developer Guide,
"Configure Lambda function memory"): several times what 50 megapixels take."""

FORK = multiprocessing.get_context("fork")
"""A copy of this process, ready in milliseconds; a new one would import everything again."""

CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
"""How a process ends that its own code brings down (signal(7))."""

STATUS = Path("/proc/self/status")
"""Where Linux tells of this process's memory (proc_pid_status(5))."""

LARGEST_BOX = 224
"""Pixels. Beyond it, a photo of noise could take more than the 64 KB that the state may hold."""

FEW_PIXELS = 96 * 96
"""Up to which a PNG, of 28 KB at most, is worth it: JPEG blurs what little detail there is."""

FEW_BYTES = 40_000
"""Of a JPEG at quality 90: a photo takes 13 KB. Noise takes 49 KB, and 39 KB at quality 80."""

BREAKS = (BotoConnectionError, HTTPClientError, IncompleteReadError)
"""What a connection that is not made, or that breaks, raises: no answer, or only a part of one."""

type Photo = "Image.Image | HeifImage"
type Reason = Literal["missing", "empty", "too_many_bytes", "too_many_pixels", "unreadable", "damaged"]

logger = Logger()
metrics = Metrics()


class RejectedError(Exception):
    """The object cannot be read as a photo, however often it is tried."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class StorageUnavailableError(Exception):
    """S3 is throttled, broken or out of reach for now: worth another try, which the state machine makes."""


class DecodingStoppedError(Exception):
    """Decoding was ended from outside, which is not about the photo: worth another try, as above."""


class SettingError(ValueError):
    """An environment variable of the function has no usable value."""


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context(correlation_id_path="execution", clear_state=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Handle ``{"bucket", "key", "version_id"?, "execution"?}``.

    Returns the reduced photo, or ``{"rejected": {"reason", "detail"}}``.

    Raises
    ------
    StorageUnavailableError
        A fault of S3's that may pass.
    botocore.exceptions.ClientError
        S3 does not give the object, for another reason than that it is gone.
    DecodingStoppedError
        Somebody killed the process that decodes.
    SettingError
        The function's environment is wrong.
    """
    box = image_size()
    logger.append_keys(bucket=event["bucket"], key=event["key"], version_id=event.get("version_id"))
    with tempfile.SpooledTemporaryFile(max_size=8_000_000) as file:
        try:
            sha256 = download(event["bucket"], event["key"], event.get("version_id"), file)
            answer = serialize_in_subprocess(file, box) | {"sha256": sha256}
        except RejectedError as rejection:
            answer = {"rejected": {"reason": rejection.reason, "detail": rejection.detail}}
    record(answer)
    return answer


@functools.cache
def image_size() -> int:
    """Return ``IMAGE_SIZE``, the side in pixels of the square that photos are reduced to fit in.

    Raises
    ------
    SettingError
        It is no whole number from 1 to LARGEST_BOX.
    """
    size = os.environ.get("IMAGE_SIZE", "")
    if not re.fullmatch("[0-9]{1,3}", size) or not 1 <= int(size) <= LARGEST_BOX:
        raise SettingError(f"IMAGE_SIZE has to be a whole number from 1 to {LARGEST_BOX}, not {size!r}")
    return int(size)


def download(bucket: str, key: str, version_id: str | None, file: IO[bytes]) -> str:
    """Write an object to a file, a megabyte at a time, and return the SHA-256 of its bytes in hex.

    Raises
    ------
    RejectedError
        ``missing``, ``empty`` or ``too_many_bytes``, of which none is then read.
    StorageUnavailableError
        No answer, an answer that breaks off, throttling, or an error of S3's own (5XX).
    botocore.exceptions.ClientError
        Any other refusal. API Reference, "Error Responses", lists them.
    """
    request: GetObjectRequestTypeDef = {"Bucket": bucket, "Key": key}
    if version_id:
        request["VersionId"] = version_id
    try:
        return copy(S3.get_object(**request), file)
    except BREAKS as error:
        raise StorageUnavailableError(str(error)) from error
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "NoSuchVersion", "404"}:
            raise RejectedError("missing", "The file is gone: it was deleted before it was read.") from error
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise StorageUnavailableError(str(error)) from error
        raise


def copy(stored: "GetObjectOutputTypeDef", file: IO[bytes]) -> str:
    """Write what S3 sends to a file, unless that is nothing or too much, and return its SHA-256 in hex."""
    with closing(stored["Body"]) as body:
        logger.append_keys(bytes_in=stored["ContentLength"])
        if stored["ContentLength"] == 0:
            raise RejectedError("empty", "The file is empty.")
        if stored["ContentLength"] > MAX_BYTES:
            raise RejectedError("too_many_bytes", f"The file is larger than {MAX_BYTES / 1e6:.0f} MB.")
        digest = hashlib.sha256()
        for chunk in body.iter_chunks(1_000_000):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def serialize_in_subprocess(file: IO[bytes], box: int) -> dict[str, Any]:
    """Serialize in a process of its own: no file can make a decoder crash or hold up more than that.

    Raises
    ------
    RejectedError
        As `serialize`, or its decoder crashes (``damaged``), or it is not done in DECODING_SECONDS
        (``too_many_pixels``).
    DecodingStoppedError
        The process ended in another way.
    """
    if kind_of(file) == "HEIC":
        # Here it stays for the next photo; loading it takes longer than most photos.
        import pillow_heif  # noqa: F401, PLC0415
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=send_serialized, args=(sender, file, box))
    with closing(receiver), warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        # Python warns where there are other threads; decoders take no lock that one could hold.
        process.start()
        sender.close()
        try:
            if not receiver.poll(DECODING_SECONDS):
                raise too_slow()
            sent: tuple[dict[str, Any] | Exception, dict[str, Any]] = receiver.recv()
        except EOFError as error:
            process.join()
            raise ended(process.exitcode) from error
        finally:
            process.kill()
            process.join()
    answer, keys = sent
    logger.append_keys(**keys)
    if isinstance(answer, Exception):
        raise answer
    return answer


def send_serialized(sender: Connection, file: IO[bytes], box: int) -> None:
    """Send what `serialize` returns or raises, and what is to be logged with it."""
    # Should the function itself be killed, nobody else would end this.
    resource.setrlimit(resource.RLIMIT_CPU, (2 * DECODING_SECONDS, resource.RLIM_INFINITY))
    answer: dict[str, Any] | Exception
    try:
        answer = serialize(file, box)
    except Exception as error:  # noqa: BLE001 - it is raised again on the other side
        error.add_note(traceback.format_exc())
        answer = error
    sender.send((answer, logger.get_current_keys()))


def ended(exit_code: int | None) -> Exception:
    """Return what it means that decoding ended without an answer."""
    if exit_code == -signal.SIGXCPU:
        return too_slow()
    if exit_code is not None and -exit_code in CRASHES:
        logger.append_keys(cause=signal.Signals(-exit_code).name)
        return RejectedError("damaged", "The file is corrupt: its decoder crashes.")
    return DecodingStoppedError(f"the process that decodes ended with {exit_code}")


def too_slow() -> RejectedError:
    """Return what becomes of a photo that another try would not decode sooner."""
    return RejectedError("too_many_pixels", f"The file takes longer to decode than {DECODING_SECONDS} s.")


def serialize(file: IO[bytes], box: int) -> dict[str, Any]:
    """Reduce the photo in a file to fit in ``box`` x ``box`` pixels, upright and RGB, in base64.

    Its aspect stays and it is never enlarged. ``width`` and ``height`` are the original's, in pixels, as a
    person sees it. Of several frames the first counts; colour profiles do not.

    Raises
    ------
    RejectedError
        ``unreadable``, ``damaged``, or ``too_many_pixels``, of which none is then decoded.
    """
    size_in_bytes = file.seek(0, io.SEEK_END)
    kind = kind_of(file)
    with decoding(kind):
        photo = FORMATS[kind].open(file)
    width, height = photo.size
    logger.append_keys(format=kind, mode=photo.mode, width=width, height=height)
    check_pixel_limit(kind, photo, size_in_bytes)
    scale = min(1, box / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    with decoding(kind):
        if isinstance(photo, JpegImageFile):
            photo.draft(None, (2 * size[0], 2 * size[1]))
        photo.load()
    small = reduce(photo, size)
    if (turn := orientation(photo)) is not None:
        small = small.transpose(turn)
    if turn in SIDEWAYS:
        width, height = height, width
    content_type, encoded = encode(small)
    logger.append_keys(bytes_out=len(encoded))
    image_data = base64.b64encode(encoded).decode()
    return {"image_data": image_data, "content_type": content_type, "width": width, "height": height}


def kind_of(file: IO[bytes]) -> str:
    """Return the format by which a file begins, so that no other decoder ever sees it."""
    file.seek(0)
    start = file.read(64)
    file.seek(0)
    for kind, known in FORMATS.items():
        if re.match(known.signature, start, re.DOTALL):
            return kind
    raise RejectedError("unreadable", f"The file is no photo of a known format ({', '.join(FORMATS)}).")


@contextmanager
def decoding(kind: str) -> Iterator[None]:
    """Reject the photo when its decoder fails. Nothing but decoders may run in here."""
    try:
        with warnings.catch_warnings(action="ignore"), limited_memory():
            yield
    # Another try would not help: the file needs more than its header told, and would need it again.
    except (MemoryError, Image.DecompressionBombError) as error:
        raise RejectedError("too_many_pixels", f"The {kind} unpacks to more than memory holds.") from error
    # Decoders raise whatever they like, zlib.error and struct.error included, and it is about the bytes.
    except Exception as error:
        logger.append_keys(cause=type(error).__name__)
        raise RejectedError("damaged", f"The {kind} is cut off, corrupt or of a rare kind.") from error


@contextmanager
def limited_memory() -> Iterator[None]:
    """Give what runs in here no more than DECODING_MEMORY: a header may say less than the pixels then take.

    Only Linux, which Lambda runs on, has the limit (getrlimit(2), RLIMIT_DATA) and tells how much is taken.
    """
    if not STATUS.exists():
        yield
        return
    status = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    taken = int(status["VmData"].removesuffix("kB")) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (taken + DECODING_MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def open_heic(file: IO[bytes]) -> "HeifImage":
    """Read the header of a HEIC's main image."""
    # Loading libheif takes as long as all other decoders: only a HEIC pays for it.
    import pillow_heif  # noqa: PLC0415

    photos = pillow_heif.open_heif(file)
    photo = photos[photos.primary_index]
    if 0 in photo.size:
        raise ValueError("no pixels")
    return photo


class Format(NamedTuple):
    """How to know and open a format, and the memory that decoding it takes at the peak.

    That is ``bytes_per_sample`` for each channel of a pixel, and ``copies`` times the file, as
    tests/integration/test_serialize_memory.py measures it.
    """

    signature: bytes
    # The class: Image.open takes a phone's JPEG for an MPO, and fails when that has an odd second image.
    open: Callable[[IO[bytes]], Photo]
    bytes_per_sample: float
    copies: int


FORMATS = {
    # libjpeg keeps all coefficients of a progressive photo, two bytes each, however small it is decoded.
    "JPEG": Format(rb"\xff\xd8\xff", JpegImageFile, 2.1, 0),
    "PNG": Format(rb"\x89PNG\r\n\x1a\n", PngImageFile, 2.1, 0),
    "GIF": Format(rb"GIF8[79]a", GifImageFile, 2.1, 0),
    "WEBP": Format(rb"RIFF....WEBP", WebPImageFile, 5.6, 2),
    # These two share a container, whose brands come in any order.
    "AVIF": Format(rb"....ftyp(?:....)*?avi[fs]", AvifImageFile, 4.9, 2),
    "HEIC": Format(rb"....ftyp(?:....)*?(?:hei[cmsx]|hev[cmsx]|mif1|msf1)", open_heic, 5.5, 1),
}
LIGHTER = {"JPEG": 1.05, "HEIC": 2.3}
"""Bytes per sample when colour is stored at half the resolution (4:2:0), as cameras do."""


def check_pixel_limit(kind: str, photo: Photo, size_in_bytes: int) -> None:
    """Reject a photo that takes more memory to decode than there is."""
    per_sample = LIGHTER[kind] if is_light(photo) else FORMATS[kind].bytes_per_sample
    held = FORMATS[kind].copies * size_in_bytes
    limit = (DECODING_MEMORY - held) / (per_sample * Image.getmodebands(photo.mode))
    width, height = photo.size
    if width * height > limit:
        detail = f"The {kind} has {width} x {height} pixels, and {limit / 1e6:.0f} million can be read."
        raise RejectedError("too_many_pixels", detail)


def is_light(photo: Photo) -> bool:
    """Tell whether a photo is 4:2:0 and, where that varies, of 8 bits."""
    if isinstance(photo, Image.Image):
        return isinstance(photo, JpegImageFile) and get_sampling(photo) == samplings[2, 2, 1, 1, 1, 1]
    return (photo.info.get("chroma"), photo.info["bit_depth"]) == (420, 8)


def reduce(photo: Photo, size: tuple[int, int]) -> Image.Image:
    """Return a decoded photo as RGB of the given width and height in pixels.

    It goes strip by strip through a box filter to about twice that, so that there never is a second copy of
    all its pixels, and from there through Lanczos.
    """
    width, height = photo.size
    across, down = max(1, width // (2 * size[0])), max(1, height // (2 * size[1]))
    rows = down * max(1, 1_000_000 // (width * down))
    coarse = Image.new("RGB", (-(-width // across), -(-height // down)))
    for top in range(0, height, rows):
        strip = rgb(strip_of(photo, top, min(top + rows, height)))
        coarse.paste(strip.reduce((across, down)), (0, top // down))
    return coarse.resize(size, Resampling.LANCZOS, box=(0, 0, width / across, height / down))


def strip_of(photo: Photo, top: int, bottom: int) -> Image.Image:
    """Return some rows of a decoded photo."""
    width = photo.size[0]
    if isinstance(photo, Image.Image):
        return photo.crop((0, top, width, bottom))
    # Straight from libheif's buffer: beside it, a Pillow image of the whole would take as much again.
    rows = photo.data[top * photo.stride : bottom * photo.stride]
    return Image.frombuffer(photo.mode, (width, bottom - top), rows, "raw", photo.mode, photo.stride, 1)


def rgb(strip: Image.Image) -> Image.Image:
    """Convert to RGB: alpha on white, 16 bits scaled (Pillow would clip them)."""
    if strip.mode.startswith("I"):
        strip = strip.point(lambda value: value / 256).convert("L")
    if strip.has_transparency_data:
        strip = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
    return strip.convert("RGB")


def orientation(photo: Photo) -> Transpose | None:
    """Return what turns a photo upright, by its EXIF. A HEIC's decoder has done so already."""
    if not isinstance(photo, Image.Image):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return TURNS.get(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - a photo is good even if its EXIF is not
        return None


def encode(picture: Image.Image) -> tuple[str, bytes]:
    """Return a reduced photo's content type and file: a JPEG, or where that would cost it much, a PNG."""
    file = io.BytesIO()
    if picture.width * picture.height <= FEW_PIXELS:
        picture.save(file, "PNG")
        return "image/png", file.getvalue()
    for quality in (90, 80):
        file.seek(0)
        file.truncate()
        picture.save(file, "JPEG", quality=quality, subsampling="4:2:0")
        if file.tell() <= FEW_BYTES:
            break
    return "image/jpeg", file.getvalue()


TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
SIDEWAYS = {TURNS[orientation] for orientation in (5, 6, 7, 8)}


def record(answer: dict[str, Any]) -> None:
    """Count and log the outcome of a photo, without its pixels."""
    if "rejected" in answer:
        metrics.add_metric("PhotosRejected", MetricUnit.Count, 1)
        # Not as a dimension, which would split the count that alarms watch.
        metrics.add_metadata("reason", answer["rejected"]["reason"])
        logger.info("photo rejected", extra=answer["rejected"])
    else:
        metrics.add_metric("PhotosSerialized", MetricUnit.Count, 1)
        logger.info("photo serialized", extra={"sha256": answer["sha256"]})
