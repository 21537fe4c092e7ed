"""The functions' requirements are those of the lock, with hashes, and with all that they depend on."""

import os
import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

UV = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".local" / "uv" / "bin" / "uv")
FUNCTIONS = sorted(file.parent.name for file in (ROOT / "functions").glob("*/requirements.txt"))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_requirements_are_those_of_the_lock(function):
    command = [UV, "export", "--quiet", "--frozen", "--only-group", function, "--no-annotate", "--no-header"]
    exported = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert (ROOT / "functions" / function / "requirements.txt").read_text() == exported, "make requirements"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_requirement_is_one_version_with_hashes(function):
    text = (ROOT / "functions" / function / "requirements.txt").read_text().replace("\\\n", "")

    for line in text.splitlines():
        assert re.fullmatch(r"[a-z0-9-]+==[\d.]+( +--hash=sha256:[0-9a-f]{64})+ *", line), line


def test_pillow_has_the_fixes_of_october_2026():
    """CVE-2026-112403, a heap overflow in decoding JPEG, and others: fixed in 13.0.0."""
    versions = {
        found[1]
        for function in ("monitor", "serialize")
        for found in re.finditer(
            r"^pillow==(\d+)\.", (ROOT / "functions" / function / "requirements.txt").read_text(), re.M
        )
    }

    assert versions
    assert min(map(int, versions)) >= 13
