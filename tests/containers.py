"""What the tests and benches run in containers: functions in Lambda's own runtime, and the model."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

IMAGES = ("public.ecr.aws/lambda/python:3.13", "public.ecr.aws/lambda/python:3.13-x86_64")
"""What the emulator runs a function in, and `sam local invoke`."""
TICKS = 100
"""Of a second, in which /proc counts processor time (USER_HZ, time(7))."""


def missing(images: Sequence[str] = IMAGES) -> str | None:
    """What is missing to run a container of each image, if anything."""
    if not shutil.which("docker"):
        return "no docker on the path"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker engine runs"
    for image in images:
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode:
            return f"the image {image} is not here: docker pull {image}"
    return None


def docker(*arguments: object) -> str:
    done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class ModelContainer:
    """The container that SageMaker runs, which answers on a port of this machine once it is made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.url = f"http://{docker('port', name, 8080).splitlines()[0]}"
        give_up_at = time.monotonic() + 60
        while self.ask("/ping") is None:
            assert docker("inspect", name, "--format", "{{.State.Running}}") == "true", docker("logs", name)
            assert time.monotonic() < give_up_at, docker("logs", name)
            time.sleep(0.02)

    def ask(self, path: str, body: bytes | None = None) -> bytes | None:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "image/jpeg"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.read()
        except (urllib.error.URLError, ConnectionError):
            return None

    def probabilities(self, photo: bytes) -> list[float]:
        answer = self.ask("/invocations", photo)
        assert answer is not None, docker("logs", self.name)
        return json.loads(answer)

    def of_the_process(self, file: str) -> str:
        """What /proc tells of the first process in it (proc(5)), which serves."""
        return docker("exec", self.name, "cat", f"/proc/1/{file}")

    def peak_memory(self) -> int:
        """Bytes."""
        (line,) = [line for line in self.of_the_process("status").splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def processor_seconds(self) -> float:
        """Its own and the system's on its behalf, whatever else the machine does meanwhile."""
        after_the_name = self.of_the_process("stat").rpartition(")")[2].split()
        return sum(map(int, after_the_name[11:13])) / TICKS


@contextmanager
def serving(image: str, *options: str) -> Iterator[ModelContainer]:
    name = docker("run", "--detach", "--publish", "127.0.0.1::8080", *options, image, "serve")
    try:
        yield ModelContainer(name)
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
