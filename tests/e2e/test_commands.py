"""The commands of `scones`, as one who types them meets them: also when something goes wrong."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline import sample_images
from tests.conftest import ROOT, free_port


@pytest.fixture
def ports() -> dict[str, str]:
    return {"EMULATOR_PORT": str(free_port()), "ENDPOINT_PORT": str(free_port())}


def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scones", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def nothing_listens(ports: dict[str, str]) -> bool:
    wanted = {int(port) for port in ports.values()}
    return (
        not {c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN} & wanted
    )


@pytest.fixture(autouse=True)
def no_stack_of_ones_own():
    """These tests are about the stack in .local, which someone may be using."""
    if (ROOT / ".local" / "processes.json").exists():
        pytest.skip("`make up` left a stack running: `make down` to run this test")


def test_the_demo_ends_in_a_table_of_ones_own_photos_and_leaves_nothing_running(tmp_path, ports):
    (tmp_path / "monday").mkdir()
    (tmp_path / "monday" / "[bold]a+b.png").write_bytes(
        sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1), "PNG")
    )
    (tmp_path / "notes.jpg").write_text("no photo")

    demo = start("demo", "--photos", str(tmp_path), **ports)
    shown, said = demo.communicate(timeout=300)

    assert demo.returncode == 0, said
    assert re.search(r"monday/\[bold\]a\+b\.png +accepted +bicycle +0\.\d{3}", shown)
    assert re.search(r"notes\.jpg +rejected +unreadable", shown)
    assert nothing_listens(ports)
    assert str(ROOT / ".local" / "report" / "report.html") in shown
    metrics = json.loads((ROOT / ".local" / "report" / "metrics.json").read_text())
    assert (metrics["records"], metrics["class_mix"]["bicycle"]) == (1, 1)


@pytest.mark.parametrize("signalled", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing_running(signalled, ports):
    demo = start("demo", **ports)
    deadline = time.monotonic() + 60
    while nothing_listens(ports) and time.monotonic() < deadline:
        time.sleep(0.1)

    demo.send_signal(signalled)
    _, said = demo.communicate(timeout=60)

    assert demo.returncode == 130
    assert said == "Interrupted; nothing is left running.\n"
    assert nothing_listens(ports)


@pytest.mark.parametrize("name", ["EMULATOR_PORT", "ENDPOINT_PORT"])
def test_a_port_that_is_taken_is_named_with_who_has_it(name, ports):
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(ports[name])))
        other.listen()

        demo = start("demo", **ports)
        _, said = demo.communicate(timeout=60)

    assert demo.returncode == 1
    assert said.startswith(f"Error: port {ports[name]}, which ")
    assert f"process {os.getpid()}" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_folder_without_photos_is_refused_before_anything_starts(folder, tmp_path):
    (tmp_path / "empty").mkdir()

    demo = start("demo", "--photos", str(tmp_path / folder))
    _, said = demo.communicate(timeout=60)

    assert demo.returncode == 1
    assert (
        said
        == f"Error: {tmp_path / folder} {'is no folder' if folder == 'missing' else 'holds no files'}: "
        + ("give one with photos in it\n" if folder == "missing" else "give a folder with photos in it\n")
    )


def test_up_leaves_a_stack_and_its_description_and_down_nothing(ports):
    up = start("up", **ports)
    shown, said = up.communicate(timeout=300)
    assert up.returncode == 0, said
    described = json.loads((ROOT / ".local" / "stack.json").read_text())
    try:
        assert described["endpoint_url"] == f"http://127.0.0.1:{ports['EMULATOR_PORT']}"
        assert described["sagemaker_runtime_url"] == f"http://127.0.0.1:{ports['ENDPOINT_PORT']}"
        assert f"s3://{described['outputs']['UploadBucketName']}/uploads/" in shown
        again = start("up", **ports)
        assert "is up already" in again.communicate(timeout=60)[1]
        assert again.returncode == 1
    finally:
        down = start("down")
        ended, _ = down.communicate(timeout=60)

    assert ended == "Ended the endpoint and the emulator.\n"
    assert nothing_listens(ports)
    assert not (ROOT / ".local" / "stack.json").exists()


def test_drift_needs_a_stack_to_rehearse_on():
    drift = start("drift")

    assert drift.communicate(timeout=60) == ("", "Error: no local stack is up: `make up` first\n")
    assert drift.returncode == 1


def test_down_is_fine_when_nothing_is_up():
    down = start("down")

    assert down.communicate(timeout=60) == ("Nothing was running.\n", "")
    assert down.returncode == 0


def test_down_spares_a_process_that_has_taken_over_a_dead_servers_id(tmp_path):
    from local import processes  # noqa: PLC0415

    registry = tmp_path / "processes.json"
    registry.write_text(f'[{{"name": "the emulator", "pid": {os.getpid()}, "created": 1.0}}]')

    assert processes.stop_all(registry) == []
    assert not Path(registry).exists()
