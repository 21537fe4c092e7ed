"""The whole stack on this machine: start the servers, deploy the template, and take everything down."""

import fcntl
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil

from local import HOME, LocalError, Ports, host, processes
from local.build_source import copy_source, stated_architecture
from model.network.artifact import Description
from model.network.classifier import Classifier
from pipeline import sample_images
from pipeline.stack import CREDENTIALS, NO_HOST_PREFIX, local_session

ROOT = Path(__file__).parents[1]

EMULATOR, ENDPOINT = "the emulator", "the endpoint"
"""Names of the servers in the registry of processes."""
ENDPOINT_NAME = "vehicle-classifier"
CAPTURE_BUCKET = "scones-unlimited-captures"
CAPTURE_URI = f"s3://{CAPTURE_BUCKET}/captures"
BASELINE = "baseline.json"
DOCKER_BRIDGE = "docker0"

type Progress = Callable[[str], None]
"""Called with the description of each step when it starts."""


@dataclass
class Stack:
    """The emulator, the model's endpoint, and the template's stack deployed to them.

    ``home`` holds all files: ``description``, which has every name and address for other programs while
    the stack is up; the endpoint's ``captures``, in SageMaker's layout; logs, and the build. ``model`` is a
    folder that `scones train` wrote, or ``None`` for the ready-made model. With ``for_containers``, functions
    run in Lambda's images, and other containers can reach the emulator.
    """

    home: Path = HOME
    ports: Ports = field(default_factory=Ports)
    model: Path | None = None
    for_containers: bool = False
    region: str = "us-east-1"
    name: str = "scones-unlimited"
    outputs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.description, self.captures = self.home / "stack.json", self.home / "captures"
        self._registry, self._logs = self.home / "processes.json", self.home / "logs"
        self._built, self._scratch = self.home / "build", self.home / "tmp"

    @classmethod
    def find(cls, home: Path = HOME, model: Path | None = None) -> Self:
        """Return the stack that `up` left running."""
        stack = cls(home=home, model=model)
        if not stack.description.exists() or not (running := processes.running(stack._registry)):
            raise LocalError("No local stack is up. Start one with: make up")
        if ended := [name for name in (EMULATOR, ENDPOINT) if name not in running]:
            log = stack._logs / f"{ended[0].split()[-1]}.log"
            raise LocalError(
                f"{ended[0].capitalize()} of the local stack has ended (log: {log}). Run: make up"
            )
        description = json.loads(stack.description.read_text())
        emulator, endpoint = (
            urlsplit(description[url]).port for url in ("endpoint_url", "sagemaker_runtime_url")
        )
        stack.ports = Ports(emulator or Ports.emulator, endpoint or Ports.endpoint)
        stack.outputs = description["outputs"]
        return stack

    @property
    def endpoint_url(self) -> str:
        """The emulator's address, for every AWS service."""
        return f"http://127.0.0.1:{self.ports.emulator}"

    @property
    def container_url(self) -> str:
        """The emulator's address for containers on Docker's default network."""
        if not host.ON_LINUX:  # Docker Desktop, whose containers reach this machine's 127.0.0.1 by name
            return f"http://host.docker.internal:{self.ports.emulator}"
        for address in psutil.net_if_addrs().get(DOCKER_BRIDGE, []):
            if address.family == socket.AF_INET:
                return f"http://{address.address}:{self.ports.emulator}"
        raise LocalError(f"No such network: {DOCKER_BRIDGE}. Start Docker, or omit --for-containers.")

    @property
    def sagemaker_runtime_url(self) -> str:
        """The address of the model's endpoint itself, which does not check IAM."""
        return f"http://127.0.0.1:{self.ports.endpoint}"

    def client(self, service: str) -> Any:  # noqa: ANN401  boto3 creates its clients' types at run time
        """Return a boto3 client for this stack."""
        session = local_session(self.region)
        return session.client(service, endpoint_url=self.endpoint_url, config=NO_HOST_PREFIX)  # type: ignore[call-overload]

    @contextmanager
    def running(self, progress: Progress) -> Iterator[None]:
        """Start the stack for a ``with`` block, and always take it down afterwards."""
        self.up(progress)
        try:
            yield
        finally:
            # The callback fails if its output is gone: a closed terminal, or a pipe into head.
            try:
                progress("Taking everything down")
            finally:
                self.down()

    def up(self, progress: Progress) -> None:
        """Start the emulator and the endpoint, deploy the template, and write the description.

        What is left of a stack whose command was killed, or one of whose servers has ended, is stopped
        first. If starting fails, nothing is left running.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        with self._starting():
            if names := processes.running(self._registry):
                if self.description.exists() and {EMULATOR, ENDPOINT} <= set(names):
                    raise LocalError("A local stack is up already. Use it, or stop it with: make down")
                progress(f"Stopping what an earlier stack left: {', '.join(names)}")
                self.down()
            self._start(progress)

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """Keep others from starting a stack in the same folder during a ``with`` block."""
        with (self.home / "starting.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalError(
                    "Another command is starting the local stack. Wait until it is up, or press Ctrl-C there."
                ) from None
            yield

    def _start(self, progress: Progress) -> None:
        shutil.rmtree(self.captures, ignore_errors=True)
        try:
            progress("Preparing the model")
            model = Classifier.load(self.model).description
            progress("Starting the emulator and the endpoint")
            processes.start([self._endpoint(), self._emulator()], self._registry)
            progress("Building the functions")
            self.build()
            progress("Deploying the stack")
            self.client("s3").create_bucket(Bucket=CAPTURE_BUCKET)
            self.deploy(parameters(model) | self.place_baseline(self.model))
            self._place_sample_photo()
        except BaseException:
            self.down()
            raise

    def down(self) -> list[str]:
        """Stop every process of the stack; return the names of the servers that were running."""
        # A second Ctrl-C must not leave half of it running.
        with processes.defer_signals():
            self.description.unlink(missing_ok=True)
            stopped = processes.stop_all(self._registry)
            shutil.rmtree(self._scratch, ignore_errors=True)
        return stopped

    def build(self) -> None:
        """Build the functions with `sam build`, for the processor and the system that they will run on."""
        cache = HOME / "build-cache"
        # sam reuses a cached build only if build.toml, its index, lies next to the build folder.
        index, cached_index = self._built.with_name("build.toml"), cache / "build.toml"
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            # sam build deletes files in its cache that it does not know.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if cached_index.exists():
                shutil.copy(cached_index, index)
            self._sam(
                "build",
                f"--template={self._template()}",
                f"--build-dir={self._built}",
                f"--cache-dir={cache}",
                cwd=cache,
            )
            shutil.copy(index, cached_index)
        if not host.ON_LINUX and not self.for_containers:
            host.install_libraries(self._built)

    def _template(self) -> Path:
        """Return the checkout's template, or a copy's if it is read-only or for another processor."""
        if os.access(ROOT / "functions", os.W_OK) and stated_architecture() == host.architecture():
            return ROOT / "template.yaml"
        return copy_source(self.home / "source", host.architecture())

    def deploy(self, parameters: Mapping[str, object]) -> None:
        """Deploy the build, or update the deployed stack to it, and write the description."""
        overrides = [f"{name}={value}" for name, value in parameters.items()]
        self._sam(
            "deploy", f"--template={self._built / 'template.yaml'}", "--parameter-overrides", *overrides
        )
        (deployed,) = self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in deployed["Outputs"]}
        self.description.write_text(json.dumps(self.describe(), indent=2) + "\n")

    def describe(self) -> dict[str, Any]:
        """Return the content of the description."""
        return {
            "endpoint_url": self.endpoint_url,
            "region": self.region,
            "stack_name": self.name,
            "sagemaker_runtime_url": self.sagemaker_runtime_url,
            "outputs": self.outputs,
        }

    def serve(self, model: Path | None) -> None:
        """Serve another model from the endpoint, and deploy its labels, threshold and baseline."""
        description = Classifier.load(model).description
        self.model = model.resolve() if model else None
        processes.stop([ENDPOINT], self._registry)
        processes.start([self._endpoint()], self._registry)
        # An update keeps parameters that it does not set, so a model without a baseline must clear this one.
        self.deploy(parameters(description) | {"BaselineUri": '""'} | self.place_baseline(self.model))

    def place_baseline(self, source: Path | None) -> dict[str, object]:
        """Upload a baseline file, or the one in a model's folder; return its template parameter."""
        file = source / BASELINE if source and source.is_dir() else source
        if not file or file.suffix != ".json" or not file.exists():
            return {}
        self.client("s3").upload_file(str(file), CAPTURE_BUCKET, BASELINE)
        return {"BaselineUri": f"s3://{CAPTURE_BUCKET}/{BASELINE}"}

    def _place_sample_photo(self) -> None:
        """Upload the photo that events/serialize.json refers to, so that the event works unchanged."""
        sample = json.loads((ROOT / "events" / "serialize.json").read_text())
        s3 = self.client("s3")
        s3.create_bucket(Bucket=sample["bucket"])
        photo = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1), "PNG")
        s3.put_object(Bucket=sample["bucket"], Key=sample["key"], Body=photo)

    def _endpoint(self) -> processes.Server:
        captures = (f"--capture={self.captures}", f"--capture={CAPTURE_URI}")
        model = [f"--model={self.model}"] if self.model else []
        serve = [sys.executable, "-m", "model", "serve", *model, f"--port={self.ports.endpoint}", *captures]
        log = self._logs / "endpoint.log"
        return processes.Server(ENDPOINT, serve, self._environment(), log, self.ports.endpoint, "/ping")

    def _emulator(self) -> processes.Server:
        on_bridge = self.for_containers and host.ON_LINUX
        urls = [self.endpoint_url, self.container_url] if on_bridge else [self.endpoint_url]
        binds = [f"--bind={urlsplit(url).netloc}" for url in urls]
        hypercorn = [sys.executable, "-m", "hypercorn", "--workers=0", "--keep-alive=75", *binds]
        settings = {
            "AUTH": "true",
            # Off, because the MQTT broker would listen on every network interface (port 8883).
            "IOT_MTLS_ENABLED": "0",
            "GATEWAY_PORT": str(self.ports.emulator),
            "MINISTACK_REGION": self.region,
            "MODEL_URL": self.sagemaker_runtime_url,
        }
        if self.for_containers:
            # Run functions only in Lambda's images, each with its own memory size.
            settings |= {"LAMBDA_STRICT": "1", "LAMBDA_DOCKER_FLAGS": "--memory={memory}m"}
        command, env = [*hypercorn, "local.emulator:app"], self._environment() | settings
        health, log = "/_ministack/health", self._logs / "emulator.log"
        return processes.Server(EMULATOR, command, env, log, self.ports.emulator, health)

    def _environment(self) -> dict[str, str]:
        """Return this process's environment with the local AWS settings, and none of a real account."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return inherited | {
            # sam build and the emulator look for the functions' runtime, python3.13, on PATH.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self._scratch),
            "SAM_CLI_TELEMETRY": "0",
            # Seconds; the default of 5 is meant for CloudFormation in AWS.
            "SAM_CLI_POLL_DELAY": "0.5",
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **CREDENTIALS,
        }

    def _sam(self, command: str, *arguments: str, cwd: Path = ROOT) -> None:
        """Run the SAM CLI with the ``local`` environment of samconfig.toml; raise LocalError if it fails."""
        log = self._logs / f"sam-{command}.log"
        # By default, sam looks for its configuration next to the template, which is elsewhere after a build.
        config = [f"--config-file={ROOT / 'samconfig.toml'}", "--config-env=local"]
        home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path.home() fails if there is none
        sam = [str(Path(sys.executable).parent / "sam"), command, *config, *arguments]
        env = self._environment() | {"HOME": str(home if home.is_absolute() else self.home)}
        if processes.run(processes.Program(f"sam {command}", sam, env, log), self._registry, cwd):
            raise LocalError(f"sam {command} failed: {processes.last_line(log)} (log: {log})")


def parameters(model: Description) -> dict[str, object]:
    """Return the template's parameters for a model."""
    return {
        "EndpointName": ENDPOINT_NAME,
        "ClassLabels": ",".join(model.labels),
        "ConfidenceThreshold": model.threshold,
        "ImageSize": model.input_size,
        "CaptureUri": CAPTURE_URI,
    }
