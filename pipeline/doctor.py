"""Check this machine and an AWS account for what would make the first deployment or local run fail."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from model.sagemaker import endpoint, image, preflight
from model.sagemaker.account import AccountError, translate_aws_errors
from model.sagemaker.endpoint import Hosting
from model.sagemaker.preflight import Check
from model.serving.listener import listen
from pipeline.stack import DESCRIPTION as STACK_FILE

ROOT = Path(__file__).parents[1]
PORTS = {"EMULATOR_PORT": 4566, "ENDPOINT_PORT": 4567}
"""The local stack's ports, by the variable that changes each."""
DISK_GB = 4
"""Size of the virtual environment, the build cache and two container images."""


def diagnose(stage: str, hosting: Hosting) -> Iterator[Check]:
    """Check this machine, then the account; yield each check when it is done."""
    yield _check_python()
    yield _check_disk()
    yield from _check_ports()
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


def _check_python() -> Check:
    """Check that SAM finds the functions' runtime."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    version, found = platform.python_version(), shutil.which("python3.13", path=path)
    if sys.version_info[:2] != (3, 13) or not found:
        return Check("python", "failed", version, "Run `make setup` with Python 3.13 or uv installed.")
    return Check("python", "ok", f"{version} ({found})")


def _check_disk() -> Check:
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB:
        return Check("disk", "failed", f"{free:.1f} GB free in {ROOT}", f"Free up {DISK_GB} GB.")
    return Check("disk", "ok", f"{free:.0f} GB free")


def _check_ports() -> Iterator[Check]:
    """Check that each of the local stack's ports is free, or in use by the local stack."""
    for variable, default in PORTS.items():
        port = int(os.environ.get(variable, default))
        try:
            listen("127.0.0.1", port).close()
        except OSError:
            advice = f"End the process that listens there, or set {variable}."
            if STACK_FILE.exists():
                yield Check("port", "ok", f"{port} is taken; a local stack is up")
            else:
                yield Check("port", "failed", f"{port} is taken", advice)
        else:
            yield Check("port", "ok", f"{port} is free")


def check_docker() -> Check:
    """Check that Docker is installed and runs, and that SageMaker accepts the manifests that it pushes."""
    needed = "`scones image` and `make up CONTAINERS=1` need it; `make demo` does not."
    if not shutil.which("docker"):
        return Check("docker", "failed", "not installed", f"Install Docker. {needed}")
    command = ["docker", "info", "--format", "{{.ServerVersion}} {{.DriverStatus}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the engine is not running"
        return Check("docker", "failed", reason, f"Start Docker. {needed}")
    version, _, driver_status = done.stdout.strip().partition(" ")
    manifest = image.manifest_to_push(driver_status)
    finding = f"engine {version} pushes {manifest}"
    if manifest != image.MANIFEST:
        reason = f"{finding}, which SageMaker rejects: its images are in containerd's store, without buildx"
        return Check("docker", "failed", reason, f"{image.FIX_MANIFEST}, for `scones image --push`.")
    return Check("docker", "ok", finding)
