"""`scones demo`, `up`, `down` and `drift` on the command line, also when they fail."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local import processes
from pipeline import sample_images
from tests.conftest import HOME, ROOT, free_port
from tests.waiting import PATIENCE, eventually


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


def test_the_demo_shows_the_outcomes_of_a_folder_and_leaves_nothing_running(tmp_path, ports):
    (tmp_path / "monday").mkdir()
    (tmp_path / "monday" / "[bold]a+b.png").write_bytes(
        sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1), "PNG")
    )
    (tmp_path / "notes.jpg").write_text("not a photo")

    demo = start("demo", "--photos", str(tmp_path), **ports)
    stdout, stderr = demo.communicate(timeout=PATIENCE)

    assert demo.returncode == 0, stderr
    assert re.search(r"monday/\[bold\]a\+b\.png +accepted +bicycle +0\.\d{3}", stdout)
    assert re.search(r"notes\.jpg +rejected +unreadable", stdout)
    assert nothing_listens(ports)
    assert str(HOME / "report" / "report.html") in stdout
    metrics = json.loads((HOME / "report" / "metrics.json").read_text())
    assert (metrics["records"], metrics["class_mix"]["bicycle"]) == (1, 1)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_running(signal_number, ports):
    demo = start("demo", **ports)
    eventually(lambda: not nothing_listens(ports))

    demo.send_signal(signal_number)
    _, stderr = demo.communicate(timeout=PATIENCE)

    assert demo.returncode == 130
    assert stderr == "Interrupted; nothing is left running.\n"
    assert nothing_listens(ports)


@pytest.mark.parametrize("name", ["EMULATOR_PORT", "ENDPOINT_PORT"])
def test_a_port_in_use_is_reported_with_the_process_that_uses_it(name, ports):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(ports[name])))
        listener.listen()

        demo = start("demo", **ports)
        _, stderr = demo.communicate(timeout=PATIENCE)

    assert demo.returncode == 1
    assert stderr.startswith(f"Error: Port {ports[name]}, which ")
    assert f"process {os.getpid()}" in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_folder_without_photos_is_refused_before_anything_starts(folder, tmp_path):
    (tmp_path / "empty").mkdir()

    demo = start("demo", "--photos", str(tmp_path / folder))
    _, stderr = demo.communicate(timeout=PATIENCE)

    assert demo.returncode == 1
    expected = {
        "missing": f"Error: Not a folder: {tmp_path / folder}. Give one that contains photos.\n",
        "empty": f"Error: No files in {tmp_path / folder}. Give a folder that contains photos.\n",
    }
    assert stderr == expected[folder]


def test_up_leaves_a_stack_with_its_description_running_and_down_removes_both(ports):
    up = start("up", **ports)
    stdout, stderr = up.communicate(timeout=PATIENCE)
    assert up.returncode == 0, stderr
    description = json.loads((HOME / "stack.json").read_text())
    try:
        assert description["endpoint_url"] == f"http://127.0.0.1:{ports['EMULATOR_PORT']}"
        assert description["sagemaker_runtime_url"] == f"http://127.0.0.1:{ports['ENDPOINT_PORT']}"
        assert f"s3://{description['outputs']['UploadBucketName']}/uploads/" in stdout
        again = start("up", **ports)
        assert "is up already" in again.communicate(timeout=PATIENCE)[1]
        assert again.returncode == 1
    finally:
        down = start("down")
        stopped, _ = down.communicate(timeout=PATIENCE)

    assert stopped == "Stopped the endpoint and the emulator.\n"
    assert nothing_listens(ports)
    assert not (HOME / "stack.json").exists()


@pytest.fixture
def cleared(ports) -> Iterator[None]:
    """Take down what a test leaves running."""
    yield
    start("down").communicate(timeout=PATIENCE)
    assert nothing_listens(ports)


def registered(name: str) -> psutil.Process | None:
    """The running process of a name in the registry."""
    entries = processes.registered(HOME / "processes.json")
    return next(filter(None, (processes.find_process(one) for one in entries if one["name"] == name)), None)


@pytest.mark.usefixtures("cleared")
def test_a_killed_start_is_cleared_up_by_the_next_of_which_only_one_goes_on(ports):
    killed = start("up", **ports)
    build = eventually(lambda: registered("sam build"))
    killed.kill()
    killed.communicate(timeout=PATIENCE)
    assert build.is_running()

    both = [start("up", **ports), start("up", **ports)]
    results = [one.communicate(timeout=PATIENCE) for one in both]

    assert sorted(one.returncode for one in both) == [0, 1]
    (refused,) = (stderr for one, (_, stderr) in zip(both, results, strict=True) if one.returncode)
    assert re.match(r"Error: (Another command is starting the local stack|A local stack is up)", refused)
    assert not build.is_running()


@pytest.mark.usefixtures("cleared")
def test_a_stack_whose_emulator_has_ended_says_so_and_can_be_started_again(ports):
    up = start("up", **ports)
    assert "The stack is up" in up.communicate(timeout=PATIENCE)[0]
    emulator = registered("the emulator")
    emulator.kill()
    eventually(lambda: not processes.is_running(emulator))

    drift = start("drift")
    assert "The emulator of the local stack has ended (log: " in drift.communicate(timeout=PATIENCE)[1]
    again = start("up", **ports)
    stdout, _ = again.communicate(timeout=PATIENCE)

    assert again.returncode == 0
    assert "The stack is up" in stdout


def test_drift_needs_a_running_stack():
    drift = start("drift")

    assert drift.communicate(timeout=PATIENCE) == (
        "",
        "Error: No local stack is up. Start one with: make up\n",
    )
    assert drift.returncode == 1


def test_down_succeeds_when_nothing_is_running():
    down = start("down")

    assert down.communicate(timeout=PATIENCE) == ("Nothing was running.\n", "")
    assert down.returncode == 0


def test_down_does_not_stop_a_process_that_reuses_a_servers_id(tmp_path):
    registry = tmp_path / "processes.json"
    registry.write_text(f'[{{"name": "the emulator", "pid": {os.getpid()}, "created": 1.0}}]')

    assert processes.stop_all(registry) == []
    assert not Path(registry).exists()
