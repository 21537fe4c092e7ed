"""The whole stack on this machine: start, deploy, and take it all down again."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil

from local import HOME, LocalError, Ports, processes
from model.network.artifact import Description
from model.network.classifier import Classifier
from pipeline import sample_images
from pipeline.stack import CREDENTIALS, NO_HOST_PREFIX, local_session

ROOT = Path(__file__).parents[1]

ENDPOINT = "the endpoint"
"""What the model's server is called where processes are."""
ENDPOINT_NAME = "vehicle-classifier"
CAPTURE_BUCKET = "scones-unlimited-captures"
CAPTURE_URI = f"s3://{CAPTURE_BUCKET}/captures"
BASELINE = "baseline.json"
DOCKER_BRIDGE = "docker0"

Report = Callable[[str], None]
"""Is told each step as it begins."""


@dataclass
class Stack:
    """The emulator, the model's endpoint, and the template's stack on them.

    Everything it writes is in ``home``: ``stack.json``, which describes it to whoever wants to use it, logs,
    the endpoint's captures, and the build. ``model`` is what `scones train` wrote, or ``None`` for the
    ready-made one. ``for_containers``, functions run in Lambda's own images, and others' containers reach it.
    """

    home: Path = HOME
    ports: Ports = field(default_factory=Ports)
    model: Path | None = None
    for_containers: bool = False
    region: str = "us-east-1"
    name: str = "scones-unlimited"
    outputs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def find(cls, home: Path = HOME, model: Path | None = None) -> Self:
        """Return the stack that `up` left running.

        Raises
        ------
        LocalError
            None is.
        """
        stack = cls(home=home, model=model)
        if not stack.description.exists() or not processes.running(stack._registry):
            raise LocalError("no local stack is up: `make up` first")
        described = json.loads(stack.description.read_text())
        emulator, endpoint = (
            urlsplit(described[url]).port for url in ("endpoint_url", "sagemaker_runtime_url")
        )
        stack.ports = Ports(emulator or Ports.emulator, endpoint or Ports.endpoint)
        stack.outputs = described["outputs"]
        return stack

    @property
    def endpoint_url(self) -> str:
        """Where the emulator answers for every AWS service."""
        return f"http://127.0.0.1:{self.ports.emulator}"

    @property
    def container_url(self) -> str:
        """Where the emulator answers a container on Docker's default network.

        Raises
        ------
        LocalError
            There is no such network on this machine.
        """
        for address in psutil.net_if_addrs().get(DOCKER_BRIDGE, []):
            if address.family == socket.AF_INET:
                return f"http://{address.address}:{self.ports.emulator}"
        raise LocalError(f"no network {DOCKER_BRIDGE}: start Docker first, or leave --for-containers out")

    @property
    def sagemaker_runtime_url(self) -> str:
        """Where the model's endpoint itself answers, past IAM."""
        return f"http://127.0.0.1:{self.ports.endpoint}"

    @property
    def description(self) -> Path:
        """The file that says where everything is, while the stack is up."""
        return self.home / "stack.json"

    @property
    def captures(self) -> Path:
        """Where the endpoint's data capture goes, in SageMaker's layout."""
        return self.home / "captures"

    def client(self, service: str) -> Any:  # noqa: ANN401  boto3 names its clients' types at run time
        """Return boto3's client of an AWS service, on this stack."""
        session = local_session(self.region)
        return session.client(service, endpoint_url=self.endpoint_url, config=NO_HOST_PREFIX)  # type: ignore[call-overload]

    @contextmanager
    def running(self, report: Report) -> Iterator[None]:
        """Have the stack up for a ``with`` block, and nothing of it afterwards, come what may."""
        self.up(report)
        try:
            yield
        finally:
            # Saying so fails where whoever listened is gone: a closed terminal, a pipe into head.
            try:
                report("Taking it all down")
            finally:
                self.down()

    def up(self, report: Report) -> None:
        """Start the emulator and the endpoint, deploy the template to them, and describe it all in a file.

        Raises
        ------
        LocalError
            It is up already, a port is taken, a server does not start, or the deployment fails. Nothing is
            left running then.
        """
        if names := processes.running(self._registry):
            raise LocalError(
                f"a local stack is up already ({', '.join(names)}): use it, or `make down` first"
            )
        shutil.rmtree(self.captures, ignore_errors=True)
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            report("Preparing the model")
            described = Classifier.load(self.model).description
            report("Starting the emulator and the endpoint")
            processes.start([self._endpoint(), self._emulator()], self._registry)
            report("Building the functions")
            self.build()
            report("Deploying the stack")
            self.client("s3").create_bucket(Bucket=CAPTURE_BUCKET)
            self.deploy(parameters(described) | self.place_baseline(self.model))
            self._place_sample()
        except BaseException:
            self.down()
            raise

    def down(self) -> list[str]:
        """End every process of the stack; return the names of the servers that ran."""
        # A second Ctrl-C must not leave half of it behind.
        with processes.uninterrupted():
            self.description.unlink(missing_ok=True)
            stopped = processes.stop_all(self._registry)
            shutil.rmtree(self._scratch, ignore_errors=True)
        return stopped

    def build(self, template: Path = ROOT / "template.yaml") -> None:
        """Build the functions as Lambda gets them."""
        cache = HOME / "build-cache"
        # sam uses what it has built before only where its notes of that are, beside what it builds.
        notes, kept = self._built.with_name("build.toml"), cache / "build.toml"
        with alone(cache):
            if kept.exists():
                shutil.copy(kept, notes)
            self._sam(
                "build",
                f"--template={template}",
                f"--build-dir={self._built}",
                f"--cache-dir={cache}",
                cwd=cache,
            )
            shutil.copy(notes, kept)

    def deploy(self, parameters: Mapping[str, object]) -> None:
        """Deploy what was built, or bring what is deployed up to it."""
        overrides = [f"{name}={value}" for name, value in parameters.items()]
        self._sam(
            "deploy", f"--template={self._built / 'template.yaml'}", "--parameter-overrides", *overrides
        )
        (deployed,) = self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in deployed["Outputs"]}
        described = {
            "endpoint_url": self.endpoint_url,
            "region": self.region,
            "stack_name": self.name,
            "sagemaker_runtime_url": self.sagemaker_runtime_url,
            "outputs": self.outputs,
        }
        self.description.write_text(json.dumps(described, indent=2) + "\n")

    def serve(self, model: Path | None) -> None:
        """Have the endpoint serve another model, and the stack know its labels, threshold and baseline.

        Raises
        ------
        ArtifactError
            There is no such model; the endpoint serves what it did.
        LocalError
            It does not start, or the deployment fails.
        """
        described = Classifier.load(model).description
        self.model = model.resolve() if model else None
        processes.stop([ENDPOINT], self._registry)
        processes.start([self._endpoint()], self._registry)
        # said even when there is none: a stack that is updated keeps what it was told before
        self.deploy(parameters(described) | {"BaselineUri": '""'} | self.place_baseline(self.model))

    def place_baseline(self, source: Path | None) -> dict[str, object]:
        """Put a baseline, a file or in a model's folder, where monitoring finds it; return its parameter."""
        file = source / BASELINE if source and source.is_dir() else source
        if not file or file.suffix != ".json" or not file.exists():
            return {}
        self.client("s3").upload_file(str(file), CAPTURE_BUCKET, BASELINE)
        return {"BaselineUri": f"s3://{CAPTURE_BUCKET}/{BASELINE}"}

    def _place_sample(self) -> None:
        """Put a photo where the sample event says that one is, so that the event can be used as it is."""
        sample = json.loads((ROOT / "events" / "serialize.json").read_text())
        s3 = self.client("s3")
        s3.create_bucket(Bucket=sample["bucket"])
        photo = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1), "PNG")
        s3.put_object(Bucket=sample["bucket"], Key=sample["key"], Body=photo)

    @property
    def _registry(self) -> Path:
        return self.home / "processes.json"

    @property
    def _logs(self) -> Path:
        return self.home / "logs"

    @property
    def _built(self) -> Path:
        return self.home / "build"

    @property
    def _scratch(self) -> Path:
        return self.home / "tmp"

    def _endpoint(self) -> processes.Server:
        serve = [sys.executable, "-m", "model", "serve", *([f"--model={self.model}"] if self.model else [])]
        return processes.Server(
            name=ENDPOINT,
            command=[
                *serve,
                f"--port={self.ports.endpoint}",
                f"--capture={self.captures}",
                f"--capture={CAPTURE_URI}",
            ],
            port=self.ports.endpoint,
            health="/ping",
            env=self._environment(),
            log=self._logs / "endpoint.log",
        )

    def _emulator(self) -> processes.Server:
        urls = [self.endpoint_url, self.container_url] if self.for_containers else [self.endpoint_url]
        binds = [f"--bind={urlsplit(url).netloc}" for url in urls]
        emulation = {
            "AUTH": "true",
            # A broker that would listen on every network, port 8883.
            "IOT_MTLS_ENABLED": "0",
            "GATEWAY_PORT": str(self.ports.emulator),
            "MINISTACK_REGION": self.region,
            "MODEL_URL": self.sagemaker_runtime_url,
        }
        if self.for_containers:
            # Functions run in Lambda's images or not at all, each with the memory that it has.
            emulation |= {"LAMBDA_STRICT": "1", "LAMBDA_DOCKER_FLAGS": "--memory={memory}m"}
        return processes.Server(
            name="the emulator",
            command=[
                sys.executable,
                "-m",
                "hypercorn",
                "--workers=0",
                "--keep-alive=75",
                *binds,
                "local.emulator:app",
            ],
            port=self.ports.emulator,
            health="/_ministack/health",
            env=self._environment() | emulation,
            log=self._logs / "emulator.log",
        )

    def _environment(self) -> dict[str, str]:
        """Return this process's environment with the local AWS in it, and no trace of a real account."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        mine = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return mine | {
            # sam build and the emulator look for the functions' runtime, python3.13, on the path.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self._scratch),
            "SAM_CLI_TELEMETRY": "0",
            # Seconds; its 5 are for CloudFormation.
            "SAM_CLI_POLL_DELAY": "0.5",
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **CREDENTIALS,
        }

    def _sam(self, command: str, *arguments: str, cwd: Path = ROOT) -> None:
        """Run a command of the SAM CLI under samconfig.toml's ``local``; its failure is a LocalError."""
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"sam-{command}.log"
        # sam looks for its configuration beside the template, and what it built lies elsewhere.
        config = [f"--config-file={ROOT / 'samconfig.toml'}", "--config-env=local"]
        with log.open("wb") as output:
            done = subprocess.run(
                [Path(sys.executable).parent / "sam", command, *config, *arguments],
                cwd=cwd,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise LocalError(f"sam {command} failed: {processes.last_line(log)} (more: {log})")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this block for the folder: sam deletes there what it did not make."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def parameters(model: Description) -> dict[str, object]:
    """Return the template's parameters for a stack that asks this model."""
    return {
        "EndpointName": ENDPOINT_NAME,
        "ClassLabels": ",".join(model.labels),
        "ConfidenceThreshold": model.threshold,
        "ImageSize": model.input_size,
        "CaptureUri": CAPTURE_URI,
    }
