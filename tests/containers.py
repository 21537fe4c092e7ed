"""Containers for tests and benchmarks: Lambda's runtime, and the model's container."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.waiting import PATIENCE, eventually

IMAGES = ("public.ecr.aws/lambda/python:3.13", "public.ecr.aws/lambda/python:3.13-x86_64")
"""The images in which the emulator and `sam local invoke` run functions."""
TICKS = 100
"""Clock ticks per second in /proc (USER_HZ, time(7))."""


def missing(images: Sequence[str] = IMAGES) -> str | None:
    """Say what is missing to run containers of these images; ``None`` if nothing is."""
    if not shutil.which("docker"):
        return "no docker on the path"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "Docker is not running"
    for image in images:
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode:
            return f"missing image, get it with: docker pull {image}"
    return None


def docker(*arguments: object) -> str:
    done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class ModelContainer:
    """The model's container, ready to answer on a port of this machine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.url = f"http://{docker('port', name, 8080).splitlines()[0]}"
        eventually(self._answers, pause=0.02)

    def _answers(self) -> bool:
        running = docker("inspect", self.name, "--format", "{{.State.Running}}")
        assert running == "true", docker("logs", self.name)
        return self.ask("/ping") is not None

    def ask(self, path: str, body: bytes | None = None) -> bytes | None:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "image/jpeg"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.read()
        except (urllib.error.URLError, ConnectionError):
            return None

    def probabilities(self, photo: bytes) -> list[float]:
        answer = self.ask("/invocations", photo)
        assert answer is not None, docker("logs", self.name)
        return json.loads(answer)

    def proc(self, file: str) -> str:
        """Read a file in /proc/1 of the container (proc(5)): its first process is the server."""
        return docker("exec", self.name, "cat", f"/proc/1/{file}")

    def peak_memory(self) -> int:
        """Peak resident memory of the server, in bytes."""
        (line,) = [line for line in self.proc("status").splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def processor_seconds(self) -> float:
        """User and system CPU time of the server, which other load on the machine does not affect."""
        after_the_name = self.proc("stat").rpartition(")")[2].split()
        return sum(map(int, after_the_name[11:13])) / TICKS


@contextmanager
def serving(image: str, *options: str) -> Iterator[ModelContainer]:
    name = docker("run", "--detach", "--publish", "127.0.0.1::8080", *options, image, "serve")
    try:
        yield ModelContainer(name)
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
