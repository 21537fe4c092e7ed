"""The machine that the local stack runs on: whether it is supported, and libraries for it."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

from local import LocalError

SUPPORTED = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")}
"""Systems and processors for which all dependencies have wheels (uv.lock)."""
ON_LINUX = sys.platform == "linux"


def require_supported() -> None:
    """Raise :class:`LocalError` on a machine that cannot run the local stack."""
    system, processor = platform.system(), platform.machine()
    if (system, processor) not in SUPPORTED:
        raise LocalError(
            f"The local stack does not run on {system} {processor}, only on Linux (x86-64 or arm64) and on "
            "Macs with Apple silicon. On Windows, use WSL 2."
        )


def architecture() -> str:
    """Return Lambda's name for this machine's processor."""
    return "x86_64" if platform.machine() == "x86_64" else "arm64"


def install_libraries(build: Path, *options: str) -> None:
    """Replace the native libraries in built functions, which are for Linux, by those for this machine.

    Options of pip such as ``--platform`` select another machine.
    """
    native = sorted(build.rglob("*.so"))
    for file in native:
        file.unlink()
    for folder in dict.fromkeys(build / file.relative_to(build).parts[0] for file in native):
        for libraries in folder.glob("*.libs"):  # auditwheel's folders, which only wheels for Linux have
            shutil.rmtree(libraries)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        into = ["--only-binary=:all:", "--upgrade", f"--target={folder}"]
        done = subprocess.run(
            [*pip, *into, f"--requirement={folder / 'requirements.txt'}", *options],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LocalError(f"pip cannot install the libraries of {folder.name}: {done.stderr.strip()}")
