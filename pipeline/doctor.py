"""Check this machine and an AWS account for what would make the first deployment or local run fail."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from model.sagemaker import endpoint, preflight
from model.sagemaker.account import AccountError, translate_aws_errors
from model.sagemaker.endpoint import Hosting
from model.sagemaker.preflight import Check
from pipeline.stack import DESCRIPTION as STACK_FILE

ROOT = Path(__file__).parents[1]
PORTS = {"EMULATOR_PORT": 4566, "ENDPOINT_PORT": 4567}
"""Where the local stack listens, by the variable that moves it."""
DISK_GB = 4
"""Virtual environment, build cache and two container images."""


def diagnose(stage: str, hosting: Hosting) -> Iterator[Check]:
    """Yield each check as it is done: this machine's first, then the account's."""
    yield check_python()
    yield check_disk()
    yield from check_ports()
    yield check_docker()
    checks, account = preflight.check_account()
    yield from checks
    if account is None:
        return
    yield from preflight.check_permissions(account)
    try:
        with translate_aws_errors():
            serving = endpoint.find(account, stage)
    except AccountError as error:
        yield Check("endpoint", "unknown", f"stage {stage}: {error}")
        serving = None
    yield from preflight.check_quotas(account, hosting, serving)


def check_python() -> Check:
    """Check that SAM finds the functions' runtime."""
    found = shutil.which(
        "python3.13", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    )
    if sys.version_info[:2] != (3, 13) or not found:
        return Check(
            "python",
            "failed",
            f"{sys.version.split()[0]}",
            "Run `make setup` with Python 3.13 or uv installed.",
        )
    return Check("python", "ok", f"{sys.version.split()[0]} ({found})")


def check_disk(folder: Path = ROOT) -> Check:
    """Check the free space where the project is."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < DISK_GB:
        return Check("disk", "failed", f"{free:.1f} GB free in {folder}", f"Free up {DISK_GB} GB.")
    return Check("disk", "ok", f"{free:.0f} GB free")


def check_ports() -> Iterator[Check]:
    """Check that the local stack's ports are free, or its own."""
    for variable, default in PORTS.items():
        port = int(os.environ.get(variable, default))
        if _is_free(port):
            yield Check("port", "ok", f"{port} is free")
        elif STACK_FILE.exists():
            yield Check("port", "ok", f"{port} is taken; a local stack is up")
        else:
            yield Check(
                "port",
                "failed",
                f"{port} is taken",
                f"End the process that listens there, or set {variable}.",
            )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def check_docker() -> Check:
    """Check that Docker runs and can write the manifest format that SageMaker accepts."""
    needed = "`scones image` and `make up CONTAINERS=1` need it; `make demo` does not."
    if not shutil.which("docker"):
        return Check("docker", "failed", "not installed", f"Install Docker. {needed}")
    done = subprocess.run(
        ["docker", "info", "--format", "{{.ServerVersion}}"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no engine answers"
        return Check("docker", "failed", reason, f"Start Docker. {needed}")
    return Check("docker", "ok", f"engine {done.stdout.strip()}")
