"""Servers that outlive the command that starts them, and are found and ended again by their process ids."""

import contextlib
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

STARTED_WITHIN = 60.0
"""Seconds that a server is given to answer; the first start also reads everything from a cold disk."""
STOPPED_WITHIN = 10.0
"""Seconds that a process is given to end by itself before it is killed."""

_children: list[subprocess.Popen[bytes]] = []
"""The servers that this very process started: Python wants to know of each child's end."""


@dataclass(frozen=True)
class Server:
    """A program that listens on a port of 127.0.0.1 and answers 200 at ``health`` when it is ready."""

    name: str
    command: Sequence[str]
    port: int
    health: str
    env: Mapping[str, str]
    log: Path


def start(servers: Sequence[Server], registry: Path) -> None:
    """Start servers side by side, write them down in the registry, and return when all are ready.

    Raises
    ------
    LocalError
        Another process has one's port, or one ends at once or does not answer in time.
    """
    for server in servers:
        require_free(server)
    processes = [launch(server, registry) for server in servers]
    for server, process in zip(servers, processes, strict=True):
        wait_until_ready(server, process)


def launch(server: Server, registry: Path) -> subprocess.Popen[bytes]:
    """Start a server and write it down in the registry."""
    server.log.parent.mkdir(parents=True, exist_ok=True)
    with uninterrupted(), server.log.open("wb") as log:
        process = subprocess.Popen(
            server.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(server.env),
            # A Ctrl-C in the terminal is for the command in front, which then ends these in order.
            start_new_session=True,
        )
        _children.append(process)
        created = psutil.Process(process.pid).create_time()
        entry = {"name": server.name, "pid": process.pid, "created": created}
        # one that ended by itself is nobody's to end any more
        running = [one for one in registered(registry) if alive(one)]
        registry.write_text(json.dumps([*running, entry], indent=2))
    return process


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and requests to end until the ``with`` block is done."""
    asked: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: asked.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if asked:
            signal.raise_signal(asked[0])


def wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Return once the server answers; raise :class:`LocalError` where it ends or stays silent."""
    url = f"http://127.0.0.1:{server.port}{server.health}"
    give_up_at = time.monotonic() + STARTED_WITHIN
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise LocalError(f"{server.name} ended at once: {last_line(server.log)} (more: {server.log})")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=2).is_success:
                return
        time.sleep(0.1)
    raise LocalError(
        f"{server.name} does not answer at {url} after {STARTED_WITHIN:.0f} s (more: {server.log})"
    )


def stop_all(registry: Path) -> list[str]:
    """End every registered server and all that it started; return the names of those that still ran."""
    stopped = stop([entry["name"] for entry in registered(registry)], registry)
    registry.unlink(missing_ok=True)
    return stopped


def stop(names: Collection[str], registry: Path) -> list[str]:
    """End the registered servers of these names, as `stop_all` does."""
    entries = registered(registry)
    ending = [entry for entry in entries if entry["name"] in names]
    found = {entry["name"]: process for entry in ending if (process := alive(entry))}
    family = [member for process in found.values() for member in [process, *process.children(recursive=True)]]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    for member in outlasting(family):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    outlasting(family)
    _children[:] = [child for child in _children if child.poll() is None]
    if entries:
        registry.write_text(json.dumps([entry for entry in entries if entry not in ending], indent=2))
    return list(found)


def outlasting(family: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes to end; return those that have not after `STOPPED_WITHIN`."""
    give_up_at = time.monotonic() + STOPPED_WITHIN
    left = [member for member in family if lives(member)]
    while left and time.monotonic() < give_up_at:
        psutil.wait_procs(left, timeout=0.1)
        left = [member for member in left if lives(member)]
    return left


def lives(process: psutil.Process) -> bool:
    """Tell whether a process has not ended; one that its parent has not asked about yet has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def running(registry: Path) -> list[str]:
    """Return the names of the registered servers that run."""
    return [entry["name"] for entry in registered(registry) if alive(entry)]


def registered(registry: Path) -> list[dict[str, Any]]:
    """Return the registry's entries (``name``, ``pid``, ``created`` in seconds since 1970), oldest first."""
    return json.loads(registry.read_text()) if registry.exists() else []


def alive(entry: Mapping[str, Any]) -> psutil.Process | None:
    """Return an entry's process, unless it has ended and its id may be another's by now."""
    try:
        process = psutil.Process(entry["pid"])
        same = process.create_time() == entry["created"]
    except psutil.NoSuchProcess:
        return None
    return process if same and lives(process) else None


def require_free(server: Server) -> None:
    """Raise :class:`LocalError`, naming who has it, unless the server's port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", server.port))
        except OSError:
            raise LocalError(
                f"port {server.port}, which {server.name} needs, is taken by {owner(server.port)}: "
                "end that, or choose another with EMULATOR_PORT or ENDPOINT_PORT"
            ) from None


def owner(port: int) -> str:
    """Describe the process that listens on a port, as far as this user may see it."""
    try:
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        pid = next(c.pid for c in listening if c.pid and c.laddr[1:] == (port,))
        return f"process {pid} ({' '.join(psutil.Process(pid).cmdline())[:80]})"
    except (psutil.Error, StopIteration):
        return "another process"


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")
