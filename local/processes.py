"""Programs that may outlive the command that starts them; a registry file lists their process ids.

Servers do so on purpose, and a build does if the command is killed.
"""

import contextlib
import errno
import json
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from local import LocalError

START_TIMEOUT = 300.0
"""Seconds for a server to become ready; the first start reads all libraries from a cold disk."""
STOP_TIMEOUT = 10.0
"""Seconds for a process to end after SIGTERM before it is killed."""

_children: list[subprocess.Popen[bytes]] = []
"""The servers that this process started, kept until they end so that they do not become zombies."""


@dataclass(frozen=True)
class Program:
    """A command, and the file that it writes its output to."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path


@dataclass(frozen=True)
class Server(Program):
    """A program that listens on a port of 127.0.0.1, and returns 200 at ``health`` when it is ready."""

    port: int
    health: str


def start(servers: Sequence[Server], registry: Path) -> None:
    """Start servers in parallel, register them, and return when all are ready.

    Raises :class:`LocalError` if a port is in use, or if a server exits or is not ready in time.
    """
    for server in servers:
        _require_free_port(server)
    processes = [launch(server, registry) for server in servers]
    for server, process in zip(servers, processes, strict=True):
        _wait_until_ready(server, process)


def run(program: Program, registry: Path, cwd: Path) -> int:
    """Run a program to its end and return its exit code; it is registered while it runs."""
    process = launch(program, registry, cwd)
    try:
        return process.wait()
    finally:
        stop([program.name], registry)


def launch(program: Program, registry: Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a program and register it, without waiting until it is ready."""
    program.log.parent.mkdir(parents=True, exist_ok=True)
    with defer_signals(), program.log.open("wb") as log:
        process = subprocess.Popen(
            program.command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(program.env),
            # Ctrl-C in the terminal must reach only the command, which then stops its programs in order.
            start_new_session=True,
        )
        _children.append(process)
        created = psutil.Process(process.pid).create_time()
        entry = {"name": program.name, "pid": process.pid, "created": created}
        still_running = [other for other in registered(registry) if find_process(other)]
        registry.write_text(json.dumps([*still_running, entry], indent=2))
    return process


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Deliver SIGINT, SIGTERM and SIGHUP only when the ``with`` block is done."""
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    url = f"http://127.0.0.1:{server.port}{server.health}"
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LocalError(f"Could not start {server.name}: {last_line(server.log)} (log: {server.log})")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=2).is_success:
                return
        time.sleep(0.1)
    raise LocalError(
        f"Could not start {server.name}: no answer at {url} after {START_TIMEOUT:.0f} s. Log: {server.log}"
    )


def stop_all(registry: Path) -> list[str]:
    """Stop every registered program with its child processes; return the names of those that were running."""
    stopped = stop([entry["name"] for entry in registered(registry)], registry)
    registry.unlink(missing_ok=True)
    return stopped


def stop(names: Collection[str], registry: Path) -> list[str]:
    """Stop the registered programs with these names, as `stop_all` does."""
    entries = registered(registry)
    stopping = [entry for entry in entries if entry["name"] in names]
    found = {entry["name"]: process for entry in stopping if (process := find_process(entry))}
    remaining = [one for process in found.values() for one in [process, *process.children(recursive=True)]]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for member in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(member)
        remaining = _wait_for_end(remaining)
    _children[:] = [child for child in _children if child.poll() is None]
    if entries:
        registry.write_text(json.dumps([entry for entry in entries if entry not in stopping], indent=2))
    return list(found)


def _wait_for_end(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes to end; return those that are still running after `STOP_TIMEOUT`."""
    deadline = time.monotonic() + STOP_TIMEOUT
    while (remaining := list(filter(is_running, processes))) and time.monotonic() < deadline:
        psutil.wait_procs(remaining, timeout=0.1)
    return remaining


def is_running(process: psutil.Process) -> bool:
    """Return whether a process is running; a zombie, whose parent has not yet waited for it, is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def running(registry: Path) -> list[str]:
    """Return the names of the registered programs that are running."""
    return [entry["name"] for entry in registered(registry) if find_process(entry)]


def registered(registry: Path) -> list[dict[str, Any]]:
    """Return the registry's entries (``name``, ``pid``, ``created`` in seconds since 1970), oldest first."""
    return json.loads(registry.read_text()) if registry.exists() else []


def find_process(entry: Mapping[str, Any]) -> psutil.Process | None:
    """Return a registered server's process, or ``None`` if it ended, even if its id has been reused since."""
    try:
        process = psutil.Process(entry["pid"])
        same = process.create_time() == entry["created"]
    except psutil.NoSuchProcess:
        return None
    return process if same and is_running(process) else None


def _require_free_port(server: Server) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", server.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                place = f"127.0.0.1, port {server.port}: {error.strerror}"
                raise LocalError(f"{server.name.capitalize()} cannot listen on {place}.") from None
            raise LocalError(
                f"Port {server.port}, which {server.name} needs, is in use by {_port_user(server.port)}. "
                "Stop it, or choose another port with EMULATOR_PORT or ENDPOINT_PORT."
            ) from None


def _port_user(port: int) -> str:
    try:  # macOS shows only root which process has a port
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        pid = next(c.pid for c in listening if c.pid and c.laddr[1:] == (port,))
        return f"process {pid} ({' '.join(psutil.Process(pid).cmdline())[:80]})"
    except (psutil.Error, StopIteration):
        return "another process"


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it wrote no output")
