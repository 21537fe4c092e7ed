"""The servers that a stack consists of: what starts or ends them is not cut short."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from local import processes
from local.processes import Server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_waits_until_all_is_done(number):
    told = []
    before = signal.signal(number, lambda *_: told.append("to end"))
    try:
        with processes.uninterrupted():
            signal.raise_signal(number)
            told.append("done")
    finally:
        signal.signal(number, before)

    assert told == ["done", "to end"]


def test_one_server_is_ended_and_the_others_stay(tmp_path):
    registry = tmp_path / "processes.json"
    started = {
        name: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        for name in ("one", "other")
    }
    entries = [
        {"name": name, "pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        for name, process in started.items()
    ]
    registry.write_text(json.dumps(entries))
    try:
        assert processes.stop(["one"], registry) == ["one"]
        assert processes.running(registry) == ["other"]
        assert [entry["name"] for entry in processes.registered(registry)] == ["other"]
        assert processes.stop(["one"], registry) == []
        assert processes.stop_all(registry) == ["other"]
        assert not registry.exists()
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def test_a_server_that_ended_by_itself_is_forgotten_when_it_is_started_again(tmp_path):
    registry = tmp_path / "processes.json"
    sleeps = Server(
        name="one",
        command=[sys.executable, "-c", "import time; time.sleep(60)"],
        port=0,
        health="/",
        env=os.environ,
        log=tmp_path / "log",
    )
    first = processes.launch(sleeps, registry)
    first.kill()
    first.wait()

    second = processes.launch(sleeps, registry)

    assert [entry["pid"] for entry in processes.registered(registry)] == [second.pid]
    assert processes.stop_all(registry) == ["one"]


def test_a_server_that_another_process_started_has_ended_when_it_is_a_zombie(tmp_path, monkeypatch):
    """Whoever started it asks about it later, or never."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    created = psutil.Process(started.pid).create_time()
    registry = tmp_path / "processes.json"
    registry.write_text(json.dumps([{"name": "one", "pid": started.pid, "created": created}]))
    monkeypatch.setattr(psutil, "wait_procs", lambda *_, **__: None)  # as one that is not its parent waits
    killed = []
    monkeypatch.setattr(psutil.Process, "kill", lambda process: killed.append(process.pid))
    try:
        assert processes.stop(["one"], registry) == ["one"]
        assert killed == []
        assert not processes.lives(psutil.Process(started.pid))
    finally:
        started.kill()
        started.wait()
