"""The photos that the demo uploads, and the table of their outcomes."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from local import LocalError, Ports, demo
from tests.conftest import ROOT


def test_every_file_in_a_folder_is_a_photo_except_hidden_ones(tmp_path):
    for name in ("b.jpg", "a.txt", "sub/c d.png", ".DS_Store", ".thumbnails/e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone.jpg").symlink_to("nowhere")

    assert demo.photos(tmp_path) == {
        "a.txt": tmp_path / "a.txt",
        "b.jpg": tmp_path / "b.jpg",
        "sub/c d.png": tmp_path / "sub" / "c d.png",
    }


def test_a_folder_with_only_hidden_files_has_no_photos(tmp_path):
    (tmp_path / ".DS_Store").touch()

    with pytest.raises(LocalError, match=r"^No files in .*Give a folder that contains photos"):
        demo.photos(tmp_path)


@pytest.mark.parametrize(
    "name", ["[bold]räder 摩托车.jpg", "latin-1 \udcfc.jpg", "two\nlines.jpg", "\x1b[31m.jpg"]
)
def test_any_name_can_be_shown(name):
    shown = io.TextIOWrapper(io.BytesIO(), "utf-8")

    Console(file=shown, width=110).print(demo.table([demo.Outcome(name, "failed", "no such file")]))

    shown.seek(0)
    assert name[-4:] in shown.read()


def test_the_two_servers_need_different_ports():
    with pytest.raises(LocalError, match=r"Port 4567 .* EMULATOR_PORT or ENDPOINT_PORT"):
        Ports(emulator=4567, endpoint=4567)


def test_help_imports_no_large_libraries():
    """Nor does a command before it handles signals."""
    imports = "import sys, scones, local.commands.demo"
    loaded = f"{imports}; print({{'boto3', 'numpy', 'PIL', 'httpx'}} & sys.modules.keys())"

    done = subprocess.run(
        [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "set()\n"
