"""Starting and stopping the servers of a local stack."""

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
def test_a_signal_is_deferred_until_the_block_is_done(number):
    events = []
    before = signal.signal(number, lambda *_: events.append("signal"))
    try:
        with processes.defer_signals():
            signal.raise_signal(number)
            events.append("done")
    finally:
        signal.signal(number, before)

    assert events == ["done", "signal"]


def test_one_server_is_stopped_and_the_others_keep_running(tmp_path):
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


def test_restarting_a_server_that_exited_replaces_its_entry(tmp_path):
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


def test_a_zombie_counts_as_stopped(tmp_path, monkeypatch):
    """Another process started the server, and may never wait for it."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    created = psutil.Process(started.pid).create_time()
    registry = tmp_path / "processes.json"
    registry.write_text(json.dumps([{"name": "one", "pid": started.pid, "created": created}]))
    monkeypatch.setattr(psutil, "wait_procs", lambda *_, **__: None)  # which only its parent can wait for
    killed = []
    monkeypatch.setattr(psutil.Process, "kill", lambda process: killed.append(process.pid))
    try:
        assert processes.stop(["one"], registry) == ["one"]
        assert killed == []
        assert not processes.is_running(psutil.Process(started.pid))
    finally:
        started.kill()
        started.wait()
