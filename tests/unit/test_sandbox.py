"""The subprocess that decodes: it ends with its photo, and never outlives the function."""

import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from functions.serialize import sandbox
from functions.serialize.photo import PngImageFile, RejectedError
from tests.conftest import ROOT
from tests.photos import photo


def serialize(file: bytes = b"") -> dict:
    return sandbox.serialize_in_subprocess(io.BytesIO(file or photo("PNG")), 224, {})


def test_a_decoder_that_stalls_is_killed_and_not_waited_for(monkeypatch, tmp_path):
    """A process that goes on would share the next photo's processor and memory."""

    def stall(self):
        time.sleep(20)
        (tmp_path / "went on").touch()

    monkeypatch.setattr(sandbox, "DECODING_SECONDS", 1)
    monkeypatch.setattr(PngImageFile, "load", stall)

    with pytest.raises(RejectedError, match="too_many_pixels"):
        serialize()

    assert multiprocessing.active_children() == []
    assert not (tmp_path / "went on").exists()


def test_no_process_and_no_pipe_is_left_of_a_photo():
    before = set(Path("/dev/fd").iterdir())

    serialize()

    assert multiprocessing.active_children() == []
    assert set(Path("/dev/fd").iterdir()) == before


def test_a_decoder_whose_function_was_killed_ends_by_itself(monkeypatch, tmp_path):
    """The limit is beyond the function's own, and before the function's timeout."""
    load = PngImageFile.load

    def note_limit(self):
        (tmp_path / "limit").write_text(json.dumps(resource.getrlimit(resource.RLIMIT_CPU)))
        return load(self)

    monkeypatch.setattr(PngImageFile, "load", note_limit)
    limits = resource.getrlimit(resource.RLIMIT_CPU)

    serialize()

    soft, _ = json.loads((tmp_path / "limit").read_text())
    assert sandbox.DECODING_SECONDS < soft < 45
    assert resource.getrlimit(resource.RLIMIT_CPU) == limits


def test_the_class_of_a_decoders_error_is_logged():
    log_keys = {}

    with pytest.raises(RejectedError):
        sandbox.serialize_in_subprocess(io.BytesIO(photo("PNG")[:60]), 224, log_keys)

    assert log_keys["cause"] == "OSError"


def test_a_crash_is_logged_by_its_signal(monkeypatch):
    monkeypatch.setattr(PngImageFile, "load", lambda self: os.abort())
    log_keys = {}

    with pytest.raises(RejectedError):
        sandbox.serialize_in_subprocess(io.BytesIO(photo("PNG")), 224, log_keys)

    assert log_keys["cause"] == "SIGABRT"


def test_only_a_heic_photo_loads_its_decoder_and_in_the_function_itself(tmp_path):
    """In a subprocess, it would be loaded again for each photo."""
    script = (
        "import io, sys; from pathlib import Path; from functions.serialize.sandbox import *; "
        "serialize_in_subprocess(io.BytesIO(Path(sys.argv[1]).read_bytes()), 224, {}); "
        "print('pillow_heif' in sys.modules)"
    )
    for kind, loaded in (("PNG", "False"), ("HEIF", "True")):
        file = tmp_path / kind
        file.write_bytes(photo(kind))
        done = subprocess.run(
            [sys.executable, "-c", script, str(file)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == loaded
