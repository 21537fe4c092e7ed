"""Every uploaded file becomes a small upright photo, or is rejected for a reason that people understand."""

import hashlib
import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
from base64 import b64decode
from datetime import UTC, datetime

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError
from botocore.response import StreamingBody
from botocore.stub import Stubber
from hypothesis import given, settings
from hypothesis import strategies as st
from moto import mock_aws
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from functions.serialize import app, sandbox
from functions.serialize import photo as photo_module
from functions.serialize.photo import PngImageFile, RejectedError, serialize
from tests import bad_photos, photos
from tests.photos import ODD_KEYS, READABLE, REJECTED, photo

BUCKET = "uploads"
STORED_AT = datetime(2026, 12, 1, tzinfo=UTC)
EVENT = {"bucket": BUCKET, "key": "uploads/photo", "version_id": None, "execution": "arn:of:the:execution"}
REASONS = {"missing", "empty", "too_many_bytes", "too_many_pixels", "unreadable", "damaged"}


@pytest.fixture(autouse=True)
def image_size(monkeypatch):
    monkeypatch.setenv("IMAGE_SIZE", "224")
    app.image_size.cache_clear()


@pytest.fixture(scope="module")
def bucket():
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "S3", boto3.client("s3"))
        bucket = boto3.resource("s3").create_bucket(Bucket=BUCKET)
        bucket.Versioning().enable()
        yield bucket


@pytest.fixture
def answer_to(bucket, context):
    def answer_to(file: bytes) -> dict:
        bucket.put_object(Key=EVENT["key"], Body=file)
        return app.lambda_handler(EVENT, context)

    return answer_to


@pytest.fixture
def stubbed_s3():
    with Stubber(app.S3) as s3:
        yield s3


def outcome(file: bytes) -> str:
    try:
        serialize(io.BytesIO(file), 224)
    except RejectedError as rejection:
        assert_a_person_can_read(rejection.detail)
        return rejection.reason
    return "serialized"


def assert_a_person_can_read(detail: str) -> None:
    assert 10 < len(detail) < 200
    assert detail.isprintable()
    assert detail.endswith(".")


def picture(answer: dict) -> Image.Image:
    image = Image.open(io.BytesIO(b64decode(answer["image_data"], validate=True)))
    assert (Image.MIME[image.format or ""], image.mode) == (answer["content_type"], "RGB")
    image.load()
    return image


def serialized(file: bytes, box: int = 224) -> Image.Image:
    return picture(serialize(io.BytesIO(file), box))


def colours_at_the_corners(image: Image.Image) -> tuple:
    width, height = image.size
    return tuple(
        image.getpixel((x, y)) for y in (height // 5, height * 4 // 5) for x in (width // 5, width * 4 // 5)
    )


def assert_close(colour: tuple, expected: tuple, tolerance: int = 12) -> None:
    assert all(abs(a - b) <= tolerance for a, b in zip(colour, expected, strict=True)), (colour, expected)


def assert_upright(image: Image.Image, tolerance: int = 12) -> None:
    for colour, expected in zip(colours_at_the_corners(image), photos.CORNERS, strict=True):
        assert_close(colour, expected, tolerance)


# ── Good photos ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", READABLE)
def test_every_kind_of_photo_is_reduced(name, answer_to):
    file = READABLE[name]()

    answer = answer_to(file)

    assert set(answer) == {"image_data", "content_type", "width", "height", "sha256", "uploaded_at"}
    assert answer["content_type"] in {"image/jpeg", "image/png"}
    assert answer["sha256"] == hashlib.sha256(file).hexdigest()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer["uploaded_at"])
    assert max(picture(answer).size) == min(224, max(answer["width"], answer["height"]))


def test_a_large_photo_becomes_a_jpeg():
    assert serialized(photo("PNG")).format == "JPEG"


def test_a_tiny_picture_is_unchanged():
    tiny = photos.noise(32, 32)

    image = serialized(photo("PNG", tiny))

    assert image.format == "PNG"
    assert image.tobytes() == tiny.tobytes()


@pytest.mark.parametrize("kind", photos.FORMATS)
def test_colours_are_unchanged(kind):
    assert_upright(serialized(photo(kind)))


def test_a_cmyk_photo_is_not_inverted():
    assert_upright(serialized(photos.cmyk_jpeg()), tolerance=25)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_photo_is_turned_upright_according_to_its_exif(kind, orientation):
    answer = serialize(io.BytesIO(photos.with_orientation(orientation, kind)), 224)

    assert_upright(picture(answer))
    assert (answer["width"], answer["height"]) == (320, 240)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_only_once(orientation):
    answer = serialize(io.BytesIO(photos.with_orientation(orientation, "HEIF")), 224)

    assert_upright(picture(answer))
    assert (answer["width"], answer["height"]) == (320, 240)


@pytest.mark.parametrize("name", ["a JPEG with broken EXIF", "a JPEG with a broken second image"])
def test_a_good_photo_with_broken_metadata_is_accepted(name):
    assert_upright(serialized(READABLE[name]()))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "HEIF"])
def test_half_transparent_pixels_are_put_on_white(kind):
    assert_close(serialized(photos.half_transparent(kind)).getpixel((99, 99)), (127, 127, 127), tolerance=3)


def test_a_transparent_palette_colour_becomes_white():
    image = serialized(photos.palette_png_with_alpha())

    assert_close(image.getpixel((20, 80)), (255, 255, 255))
    assert_close(image.getpixel((200, 80)), photos.BLUE)


@pytest.mark.parametrize("level", [0, 0x1234, 0x8000, 0xFFFF])
def test_sixteen_bit_samples_are_scaled_not_clipped(level):
    gray = level >> 8
    assert_close(serialized(photos.sixteen_bit_gray_png(level)).getpixel((9, 9)), (gray,) * 3, tolerance=2)


def test_sixteen_bit_colour_samples_are_scaled():
    assert_close(serialized(photos.sixteen_bit_colour_png()).getpixel((9, 9)), (255, 127, 0), tolerance=4)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF"])
def test_the_first_frame_of_an_animation_is_used(kind):
    assert_upright(serialized(photos.animated(kind)))


@pytest.mark.parametrize(
    ("original", "reduced"),
    [
        ((1, 1), (1, 1)),
        ((32, 32), (32, 32)),
        ((224, 224), (224, 224)),
        ((225, 224), (224, 223)),
        ((4000, 3000), (224, 168)),
        ((3000, 4000), (168, 224)),
        ((20_000, 1), (224, 1)),
        ((1, 20_000), (1, 224)),
        ((5000, 30), (224, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photo_is_reduced_to_fit_the_box_and_never_enlarged(original, reduced, kind):
    assert serialized(photos.sliver(*original, kind)).size == reduced


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_reducing_averages_pixels_instead_of_picking_some(kind):
    stripes = Image.new("RGB", (2, 1))
    stripes.putdata([(0, 0, 0), (255, 255, 255)])
    fine = Image.new("RGB", (2400, 1600))
    for x in range(0, 2400, 2):
        fine.paste(stripes.resize((2, 1600)), (x, 0))

    levels = serialized(photo(kind, fine)).convert("L").getextrema()

    assert 120 <= levels[0] <= levels[1] <= 135


def test_a_jpeg_decoded_at_reduced_size_looks_like_the_full_one_reduced():
    whole = photos.scene(2000, 1500).resize((2000, 1500), Image.Resampling.BICUBIC)

    by_jpeg = serialized(photo("JPEG", whole, quality=95))
    by_png = serialized(photo("PNG", whole))

    assert all(
        abs(a - b) < 12
        for a, b in zip(by_jpeg.resize((20, 15)).tobytes(), by_png.resize((20, 15)).tobytes(), strict=True)
    )


@pytest.mark.parametrize("seed", range(3))
def test_even_noise_stays_within_the_states_limit_of_64_kb(seed, answer_to):
    answer = answer_to(photo("PNG", photos.noise(224, 224, seed=seed)))

    # The rest of the state has a key of at most 1,024 bytes, each of which JSON may write as six.
    assert len(json.dumps(answer)) + 6 * 1024 < 64 * 1024


@pytest.mark.parametrize("size", ["", "0", "-1", "225", "1e2", "224.0", "²"])
def test_an_invalid_image_size_is_reported_by_its_name(size, monkeypatch):
    monkeypatch.setenv("IMAGE_SIZE", size)

    with pytest.raises(app.SettingError, match=f"IMAGE_SIZE .*{re.escape(repr(size))}"):
        app.image_size()


def test_a_missing_image_size_is_reported_too(monkeypatch):
    monkeypatch.delenv("IMAGE_SIZE")

    with pytest.raises(app.SettingError, match="not ''"):
        app.image_size()


@pytest.mark.parametrize("size", ["1", "224"])
def test_the_smallest_and_the_largest_image_size_are_valid(size, monkeypatch):
    monkeypatch.setenv("IMAGE_SIZE", size)

    assert app.image_size() == int(size)


def test_the_image_size_comes_from_the_environment(monkeypatch, answer_to):
    monkeypatch.setenv("IMAGE_SIZE", "96")

    assert picture(answer_to(photo())).size == (96, 72)


# ── Bad photos ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", REJECTED)
def test_every_bad_file_is_rejected_with_the_right_reason(name, answer_to):
    reason, file = REJECTED[name]

    answer = answer_to(file())

    assert set(answer) == {"rejected", "uploaded_at"}
    assert answer["rejected"]["reason"] == reason
    assert_a_person_can_read(answer["rejected"]["detail"])


@pytest.mark.parametrize("sixteenths", range(1, 16))
@pytest.mark.parametrize("kind", photos.FORMATS)
def test_a_photo_truncated_anywhere_is_damaged(kind, sixteenths):
    assert outcome(photos.truncated(photo(kind, photos.noise(64, 48)), sixteenths)) == "damaged"


@pytest.mark.parametrize("kind", photos.FORMATS)
def test_a_photo_with_wrong_bytes_has_an_outcome(kind):
    whole, chance = photo(kind, photos.texture(64, 48)), random.Random(kind)
    for _ in range(200):
        file = bytearray(whole)
        for _ in range(chance.choice((1, 2, 30))):
            file[chance.randrange(len(file))] = chance.randrange(256)
        assert outcome(bytes(file)) in REASONS | {"serialized"}


@settings(max_examples=200)
@given(
    start=st.sampled_from([photo(kind)[:40] for kind in photos.FORMATS] + [b""]),
    rest=st.binary(max_size=400),
)
def test_any_bytes_have_an_outcome(start, rest):
    assert outcome(start + rest) in {"too_many_pixels", "unreadable", "damaged"}


def test_a_bomb_is_rejected_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))

    assert outcome(photos.png_bomb(8_000, 8_000)) == "too_many_pixels"


def test_the_detail_of_a_bomb_names_the_limit(answer_to):
    detail = answer_to(photos.png_bomb())["rejected"]["detail"]

    assert detail == "The PNG has 60000 x 60000 pixels; at most 59 million can be read."


@pytest.mark.parametrize("error", [MemoryError, Image.DecompressionBombError])
def test_a_decoder_that_runs_out_of_memory_means_too_many_pixels(error, monkeypatch):
    def load(self):
        raise error

    monkeypatch.setattr(PngImageFile, "load", load)

    assert outcome(photo("PNG")) == "too_many_pixels"


@pytest.mark.parametrize(
    ("name", "megabytes", "million"),
    [
        ("JPEG", 0, 59),
        ("PNG", 100, 59),
        ("WEBP", 0, 22),
        ("WEBP", 50, 16),
        ("HEIC", 0, 22),
        ("HEIC", 100, 16),
    ],
)
def test_a_decoder_that_copies_the_file_has_less_memory_for_pixels(name, megabytes, million):
    picture = Image.new("RGB", (1, 1))
    picture._size = (60_000, 60_000)  # declared but not decoded

    with pytest.raises(RejectedError, match=f"at most {million} million"):
        photo_module._check_pixel_limit(name, picture, megabytes * 1_000_000)


def test_a_photo_with_subsampled_colours_may_have_more_pixels():
    """As phones' photos have; libheif and libjpeg then need half the memory."""
    for bomb, million in ((photos.heic_bomb(), 54), (photos.jpeg_bomb(), 117)):
        with pytest.raises(RejectedError, match=f"at most {million} million"):
            serialize(io.BytesIO(bomb), 224)


@pytest.mark.skipif(not photo_module.PROCESS_STATUS.exists(), reason="only Linux limits memory")
def test_a_decoder_has_its_memory_and_what_comes_after_it_has_all():
    before = resource.getrlimit(resource.RLIMIT_DATA)

    with photo_module._limited_memory():
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)

    assert photo_module.DECODING_MEMORY < soft < photo_module.DECODING_MEMORY + 8 * 2**30
    assert hard == before[1]
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_without_linuxs_status_of_the_process_nothing_is_limited(monkeypatch, tmp_path):
    monkeypatch.setattr(photo_module, "PROCESS_STATUS", tmp_path / "none")
    before = resource.getrlimit(resource.RLIMIT_DATA)

    with photo_module._limited_memory():
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_large_jpeg_is_decoded_at_reduced_size(monkeypatch):
    """Which is what makes it quick."""
    sizes, load = [], JpegImageFile.load

    def note_size(self):
        sizes.append(self.size)
        return load(self)

    monkeypatch.setattr(JpegImageFile, "load", note_size)
    serialize(io.BytesIO(photo("JPEG", photos.texture(2000, 1500))), 224)

    assert sizes[0] == (500, 375)


@pytest.mark.parametrize("size", [(11, 4), (4, 11)])
def test_an_edge_that_does_not_fill_a_step_of_the_reduction_has_its_own_weight(size):
    """The last row or column is white and the rest black, so that the mean is a white eleventh."""
    width, height = size
    picture = Image.new("RGB", size)
    picture.paste("white", (10 if width == 11 else 0, 10 if height == 11 else 0, width, height))

    reduced = serialized(photo("PNG", picture), box=2).convert("L")

    mean = sum(reduced.tobytes()) / (reduced.width * reduced.height)
    assert 15 < mean < 32


def test_what_is_worth_logging_is_passed_on():
    log_keys = {"before": 1}

    answer = serialize(io.BytesIO(photo("JPEG")), 224, log_keys)

    assert log_keys == {
        "before": 1,
        "format": "JPEG",
        "mode": "RGB",
        "width": 320,
        "height": 240,
        "bytes_out": len(b64decode(answer["image_data"])),
    }


# ── Decoders that crash or stall ─────────────────────────────────────────────────────────────────────


def test_a_photo_that_takes_too_long_to_decode_is_rejected(monkeypatch, answer_to):
    monkeypatch.setattr(sandbox, "DECODING_SECONDS", 1)

    answer = answer_to(bad_photos.scan_bomb(6_000, 6_000, 1_000))

    assert answer["rejected"] == {
        "reason": "too_many_pixels",
        "detail": "The file takes longer than 1 s to decode.",
    }


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGSEGV, "damaged"), (signal.SIGABRT, "damaged"), (signal.SIGXCPU, "too_many_pixels")],
)
def test_a_crashing_decoder_does_not_crash_the_function(number, reason, monkeypatch, answer_to):
    monkeypatch.setattr(PngImageFile, "load", lambda self: os.kill(os.getpid(), number))

    rejected = answer_to(photo("PNG"))["rejected"]

    assert rejected["reason"] == reason
    assert_a_person_can_read(rejected["detail"])


def test_decoding_that_is_killed_from_outside_is_retried(monkeypatch, answer_to):
    monkeypatch.setattr(PngImageFile, "load", lambda self: os.kill(os.getpid(), signal.SIGKILL))

    with pytest.raises(sandbox.DecodingStoppedError, match="-9"):
        answer_to(photo("PNG"))


def test_a_bug_in_the_subprocess_is_raised_with_its_traceback(monkeypatch, answer_to):
    def encode(picture):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(photo_module, "encode", encode)

    with pytest.raises(ZeroDivisionError) as bug:
        answer_to(photo())
    assert "in serialize" in "".join(bug.value.__notes__)


# ── S3 ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_is_read_unchanged(key, bucket, context):
    bucket.put_object(Key=key, Body=photo())

    assert "image_data" in app.lambda_handler(EVENT | {"key": key}, context)


def test_the_events_version_is_read_even_if_a_later_one_exists(bucket, context):
    version = bucket.put_object(Key=EVENT["key"], Body=photo()).version_id
    bucket.put_object(Key=EVENT["key"], Body=b"something else")

    assert app.lambda_handler(EVENT | {"version_id": version}, context)["width"] == 320


def test_without_a_version_the_latest_one_is_read(bucket, context):
    bucket.put_object(Key=EVENT["key"], Body=photo())

    assert app.lambda_handler({"bucket": BUCKET, "key": EVENT["key"]}, context)["width"] == 320


@pytest.mark.parametrize("version", [None, "3HL4kqtJvjVBH40Nrjfkd"])
def test_a_deleted_photo_is_missing(version, bucket, context):
    key = "uploads/gone" if version is None else bucket.put_object(Key="uploads/other", Body=photo()).key

    answer = app.lambda_handler(EVENT | {"key": key, "version_id": version}, context)

    assert answer["rejected"]["reason"] == "missing"
    assert_a_person_can_read(answer["rejected"]["detail"])


@pytest.mark.parametrize("code", ["NoSuchKey", "NoSuchVersion", "404"])
def test_every_way_in_which_s3_says_that_a_photo_is_gone_is_missing(code, stubbed_s3, context):
    stubbed_s3.add_client_error("get_object", code, http_status_code=404)

    assert app.lambda_handler(EVENT, context)["rejected"]["reason"] == "missing"


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchBucket", "KMS.DisabledException"])
def test_every_other_refusal_is_a_permanent_fault(code, stubbed_s3, context):
    stubbed_s3.add_client_error("get_object", code, http_status_code=403)

    with pytest.raises(ClientError, match=code):
        app.lambda_handler(EVENT, context)


@pytest.mark.parametrize(("code", "status"), [("SlowDown", 503), ("InternalError", 500)])
def test_a_transient_fault_of_s3_is_raised_as_the_error_that_the_state_machine_retries(
    code, status, stubbed_s3, context
):
    stubbed_s3.add_client_error("get_object", code, http_status_code=status)

    with pytest.raises(app.StorageUnavailableError, match=code):
        app.lambda_handler(EVENT, context)


@pytest.mark.parametrize("error", [EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError])
def test_an_unreachable_s3_is_retried(error, monkeypatch, context):
    def unreachable(**request):
        raise error(endpoint_url="https://s3")

    monkeypatch.setattr(app.S3, "get_object", unreachable)

    with pytest.raises(app.StorageUnavailableError):
        app.lambda_handler(EVENT, context)


def test_an_interrupted_download_is_retried(stubbed_s3, context):
    body = StreamingBody(io.BytesIO(photo()[:100]), 2000)
    stubbed_s3.add_response("get_object", {"Body": body, "ContentLength": 2000, "LastModified": STORED_AT})

    with pytest.raises(app.StorageUnavailableError, match="100"):
        app.lambda_handler(EVENT, context)


def test_a_file_that_is_too_large_is_not_downloaded(stubbed_s3, context):
    body = io.BytesIO(photo())
    answer = {"Body": StreamingBody(body, 10**9), "ContentLength": 10**9, "LastModified": STORED_AT}
    stubbed_s3.add_response("get_object", answer)

    assert app.lambda_handler(EVENT, context)["rejected"] == {
        "reason": "too_many_bytes",
        "detail": "The file is larger than 160 MB.",
    }
    assert body.closed


# ── Use outside Lambda ───────────────────────────────────────────────────────────────────────────────────


def test_importing_the_photo_module_creates_no_client_and_imports_no_powertools():
    imports = "import functions.serialize.photo, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, check=True)

    assert {"boto3", "botocore", "aws_lambda_powertools"}.isdisjoint(loaded.stdout.split())


# ── What is logged and counted ───────────────────────────────────────────────────────────────────────────


def test_one_line_logs_a_photo_without_its_pixels(bucket, context, logged):
    file = photo()
    bucket.put_object(Key="uploads/zwei\nZeilen.jpg", Body=file)
    logged(app.logger)

    answer = app.lambda_handler(EVENT | {"key": "uploads/zwei\nZeilen.jpg"}, context)

    (line,) = [line for line in logged(app.logger) if "message" in line]
    assert line["message"] == "photo serialized"
    assert line["key"] == "uploads/zwei\nZeilen.jpg"
    assert line["correlation_id"] == "arn:of:the:execution"
    assert (line["format"], line["mode"], line["width"], line["height"]) == ("JPEG", "RGB", 320, 240)
    assert (line["bytes_in"], line["bytes_out"]) == (len(file), len(b64decode(answer["image_data"])))
    assert answer["image_data"][:40] not in json.dumps(line)
    assert len(json.dumps(line)) < 2000


def test_a_log_line_is_ascii_whatever_the_key(bucket, context, capsys, monkeypatch):
    key = "uploads/\x1b[2J\x9b31m\u2028\u202egpj.exe"
    bucket.put_object(Key=key, Body=photo())
    monkeypatch.setattr(app.logger.registered_handler, "stream", sys.stdout)

    app.lambda_handler(EVENT | {"key": key}, context)

    lines = capsys.readouterr().out.splitlines()
    assert key in [json.loads(line).get("key") for line in lines]
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_a_log_line_contains_nothing_of_the_previous_photo(bucket, context, logged):
    bucket.put_object(Key="good", Body=photo())
    bucket.put_object(Key="bad", Body=b"")
    app.lambda_handler(EVENT | {"key": "good"}, context)
    logged(app.logger)

    app.lambda_handler(EVENT | {"key": "bad"}, context)

    (line,) = [line for line in logged(app.logger) if "message" in line]
    assert (line["message"], line["reason"]) == ("photo rejected", "empty")
    assert "width" not in line


@pytest.mark.parametrize(
    ("file", "metric", "reason"),
    [(photo(), "PhotosSerialized", None), (b"text", "PhotosRejected", "unreadable")],
)
def test_photos_are_counted_by_outcome(file, metric, reason, answer_to, capsys):
    answer_to(file)

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (counted,) = [line for line in lines if metric in line]
    assert counted[metric] == [1.0]
    assert counted.get("reason") == reason
    assert counted["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service"]]


def test_a_photos_outcome_is_one_metric(answer_to, metrics):
    answer_to(photo())
    answer_to(b"text")

    assert metrics() == {"PhotosSerialized": ("Count", [1]), "PhotosRejected": ("Count", [1])}
