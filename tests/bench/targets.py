"""Measure every figure in docs/performance.md in one run: ``python -m tests.bench targets``."""

import contextlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import numpy as np
import psutil
from matplotlib.figure import Figure
from rich.progress import track
from samcli.yamlhelper import yaml_parse

from local import Ports
from local.stack import ENDPOINT_NAME, Stack
from model.charts import RED, SOFT, STYLE, TEAL, svg_file
from model.network import embedding
from model.network.classifier import Classifier
from pipeline import sample_images
from pipeline.costs import bill, usage
from pipeline.costs.table import SCALES
from pipeline.markdown import update_section
from tests import containers, measurements, photos
from tests.bench.memory_sizes import BUILT, STARTS, build, of_start
from tests.bench.serve_overhead import runtime_of, serving, trained
from tests.bench.usage import CLIENTS, histories_of, photo, serialized
from tests.conftest import ROOT, free_port

RESULTS = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "performance.md"
INPUT_SIZES = RESULTS.with_name("input_sizes.json")
PLOT = PAGE.with_suffix(".svg")
BEGIN = "<!-- make bench -->"
BEGIN_COMPUTED = "<!-- make bench: computed -->"
MET, MISSED = TEAL, RED
BASELINE_DESIGN = Path(__file__).with_name("baseline_design.yaml")
TARGETS = {
    "serialize, 12 megapixels": ("to_floor", "at most", 1.25),
    "serialize, 12 megapixels, decoded in a subprocess": ("to_floor", "at most", 1.25),
    "serialize, peak memory for a phone's 50 megapixels": ("project", "at most", 200),
    "serialize, peak memory for the worst file accepted": ("project", "at most", 472),
    "cold start of serialize": ("to_floor", "at most", 1.3),
    "cold start of classify": ("to_floor", "at most", 1.3),
    "cold start of filter": ("to_floor", "at most", 1.3),
    "zip of serialize": ("project", "at most", 16),
    "zip of classify": ("project", "at most", 3),
    "zip of filter": ("project", "at most", 3),
    "arm64 in the cloud, x86-64 on the emulator": ("project", "at least", 1),
    "accuracy at the input size chosen, and at the best": ("to_floor", "at least", 0.995),
    "endpoint, one request, median": ("to_floor", "at most", 1.15),
    "endpoint, 8 clients, 99th percentile": ("to_floor", "at most", 1.5),
    "endpoint, photos a second": ("to_floor", "at least", 0.9),
    "training on CIFAR's 1,000 photos": ("project", "at most", 60),
    "upload to result, 190 KB": ("to_original", "at most", 1),
    "upload to result, 12 megapixels": ("to_original", "at most", 1),
    "state of a photo, median": ("project", "at most", 16_384),
    "burst of 1,000": ("to_original", "at least", 1),
    "a million photos, at 1,000 a month": ("to_original", "at most", 0.333),
    "a million photos, at 100,000 a month": ("to_original", "at most", 0.333),
    "a million photos, at 10,000,000 a month": ("to_original", "at most", 0.333),
    "an idle month": ("to_original", "at most", 0.333),
}
"""The figure that counts in each row, and its bound."""
FIGURES = {
    "project": "project",
    "floor": "floor",
    "original": "baseline design",
    "to_floor": "ratio to floor",
    "to_original": "ratio to baseline design",
}
"""The page's heading for each figure."""
DEADLINE = 60
"""Seconds to wait for the result of one photo."""


@dataclass(frozen=True)
class Row:
    """Measured figures, each the median of `runs` runs; ``None`` if there is no such figure."""

    name: str
    unit: str
    project: float | None
    floor: float | None = None
    original: float | None = None
    runs: int = 1

    def with_ratios(self) -> dict[str, Any]:
        """Return the row as targets.json has it."""
        return asdict(self) | {
            "to_floor": ratio(self.project, self.floor),
            "to_original": ratio(self.project, self.original),
        }


def ratio(figure: float | None, reference: float | None) -> float | None:
    """Divide two figures if both exist."""
    return round(figure / reference, 3) if figure is not None and reference else None


@click.command()
@click.option("--rounds", default=30, show_default=True, help="Runs of which the median counts.")
@click.option("--burst", default=1000, show_default=True, help="Photos in the burst.")
@click.option(
    "--cifar",
    type=click.Path(exists=True, path_type=Path),
    envvar="CIFAR",
    help="CIFAR-100's archive, to measure the duration of training.",
)
def bench(rounds: int, burst: int, cifar: Path | None) -> None:
    """Measure the project, the baseline design and the floor in turn; write targets.json and the page."""
    rows: list[Row] = []

    def record(measured: Iterator[Row]) -> None:
        for row in measured:
            click.echo(json.dumps(row.with_ratios()), err=True)
            rows.append(row)

    record(of_serialize(rounds))
    record(of_cold_starts(rounds))
    record(of_zips())
    record(of_architecture())
    record(of_endpoint(rounds * 10))
    record(of_training(cifar))
    record(of_stack(rounds, burst))
    measurements.write(RESULTS, [row.with_ratios() for row in rows], "targets")
    show()


def show() -> None:
    """Update the page from targets.json, and from the results of other benchmarks."""
    found, computed = measurements.read(RESULTS), computed_rows()
    update_section(PAGE, BEGIN, table(found))
    update_section(PAGE, BEGIN_COMPUTED, table(computed))
    PLOT.write_bytes(draw([*found, *computed]))


def computed_rows() -> list[dict[str, Any]]:
    """Return the rows that are computed from what other benchmarks measured, on the days that they state."""
    return [row.with_ratios() for row in (*of_input_sizes(), *of_bills())]


def in_turn(rounds: int, *calls: Callable[[], Any]) -> list[list[float]]:
    """Time calls in seconds, in turn, so that other load on the machine affects all of them."""
    took: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 2):
        for times, call in zip(took, calls, strict=True):
            began = time.perf_counter()
            call()
            if number >= 2:  # the first two warm caches
                times.append(time.perf_counter() - began)
    return took


def ms(seconds: Sequence[float]) -> float:
    return round(1000 * statistics.median(seconds), 2)


def run_python(code: str, *arguments: str) -> str:
    """Run code in a new Python process; return the last line that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | {"AWS_DEFAULT_REGION": "us-east-1", "POWERTOOLS_SERVICE_NAME": "bench"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


SERIALIZE = """
import io, json, sys, time
from pathlib import Path
from PIL import Image
which, rounds, content = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).read_bytes()
def floor():
    photo = Image.open(io.BytesIO(content))
    photo.draft("RGB", (448, 448))
    photo.load()
    photo.thumbnail((224, 224), Image.Resampling.LANCZOS)
    photo.save(io.BytesIO(), "JPEG", quality=90)
if which != "floor":
    from functions.serialize.photo import serialize
    from functions.serialize.sandbox import serialize_in_subprocess
calls = {"floor": floor, "serialize": lambda: serialize(io.BytesIO(content), 224),
         "subprocess": lambda: serialize_in_subprocess(io.BytesIO(content), 224, {})}
took = {name: [] for name in which.split("+")}
for number in range(rounds + 2):
    for name in took:
        began = time.perf_counter()
        calls[name]()
        took[name].append(time.perf_counter() - began)
print(json.dumps({name: times[2:] for name, times in took.items()}))
"""
"""Serialize a photo repeatedly; print the seconds of each call."""


def of_serialize(rounds: int) -> Iterator[Row]:
    """Measure the time at 12 megapixels, with and without the subprocess, and the peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        phone = Path(folder) / "12.jpg"
        phone.write_bytes(photo("phone"))
        took = json.loads(run_python(SERIALIZE, "floor+serialize+subprocess", str(rounds), str(phone)))
        yield Row("serialize, 12 megapixels", "ms", ms(took["serialize"]), ms(took["floor"]), None, rounds)
        yield Row(
            "serialize, 12 megapixels, decoded in a subprocess",
            "ms",
            ms(took["subprocess"]),
            ms(took["floor"]),
            None,
            rounds,
        )
    peaks = {name: peak_memory(make()) for name, make in track(photos.LARGE.items(), "Memory")}
    click.echo(json.dumps(peaks), err=True)
    yield Row("serialize, peak memory for a phone's 50 megapixels", "MB", peaks["JPEG of 50 megapixels"])
    yield Row("serialize, peak memory for the worst file accepted", "MB", max(peaks.values()))


def peak_memory(content: bytes) -> int:
    """Return the megabytes that serialize and its decoding process take together at their peak.

    Pages that both use are divided between them (the proportional set size, proc(5)). The memory is sampled
    every few milliseconds, so that a shorter peak may be missed.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "16777216"}  # as in template.yaml
        command = [sys.executable, "-c", SERIALIZE, "subprocess", "1", file.name]
        serialize = psutil.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        peak = 0
        while serialize.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended since it was listed
                both = [serialize, *serialize.children()]
                peak = max(peak, sum(one.memory_full_info().pss for one in both))
        if serialize.returncode:
            raise click.ClickException(f"serialize failed with exit code {serialize.returncode}.")
    return round(peak / 1e6)


def of_cold_starts(rounds: int) -> Iterator[Row]:
    """Measure until a function is ready, in Lambda's image and with the CPU share of its memory."""
    if reason := containers.missing():
        click.echo(f"cold starts: not measured, {reason}", err=True)
        yield from (Row(f"cold start of {name}", "ms", None) for name in STARTS)
        return
    build("x86_64")
    for name in STARTS:
        found = of_start(name, usage.memory(name), max(5, rounds // 3))
        yield Row(f"cold start of {name}", "ms", found["project_ms"], found["floor_ms"], None, found["runs"])


def of_zips() -> Iterator[Row]:
    """Measure the deployment package of each function, for arm64."""
    build("arm64")
    for name in STARTS:
        packed = io.BytesIO()
        source = BUILT / f"{name.capitalize()}Function"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(source.rglob("*")):
                archive.write(file, file.relative_to(source))
        yield Row(f"zip of {name}", "MB", round(packed.tell() / 1e6, 2))


def of_architecture() -> Iterator[Row]:
    """Check that `make` builds for arm64, and that the template states x86-64: 1 if so."""
    subprocess.run(["make", "build"], cwd=ROOT, capture_output=True, check=True)
    made_for = yaml_parse((BUILT / "template.yaml").read_text())["Globals"]["Function"]["Architectures"]
    stated = usage.template()["Globals"]["Function"]["Architectures"]
    right = (made_for, stated) == (["arm64"], ["x86_64"])
    yield Row("arm64 in the cloud, x86-64 on the emulator", "1 is yes", float(right))


def of_input_sizes() -> Iterator[Row]:
    """Compare the chosen input size with the most accurate one, from the benchmark input_sizes."""
    found = measurements.read(INPUT_SIZES)
    (chosen,) = (one for one in found if (one["size"], one["precision"]) == (embedding.SIZE, "fp32"))
    best = max(one["accuracy"] for one in found)
    name = "accuracy at the input size chosen, and at the best"
    yield Row(name, "share", chosen["accuracy"], best, None, chosen["photos"])


def of_endpoint(requests: int) -> Iterator[Row]:
    """Compare a request with the same call in process: alone, from several clients, and at full load."""
    content = serialized()
    with tempfile.TemporaryDirectory() as folder, serving(trained(Path(folder))) as (ask, process):
        classifier = Classifier.load(Path(folder) / "model")
        requested, called = in_turn(requests, lambda: ask(content), lambda: classifier.classify(content))
        yield Row("endpoint, one request, median", "ms", ms(requested), ms(called), None, requests)
        runtime = runtime_of(process, CLIENTS)

        def request(_: int) -> float:
            began = time.perf_counter()
            runtime.invoke_endpoint(EndpointName="bench", ContentType="image/jpeg", Body=content)[
                "Body"
            ].read()
            return time.perf_counter() - began

        def call(_: int) -> float:
            began = time.perf_counter()
            classifier.classify(content)
            return time.perf_counter() - began

        served: list[list[float]] = []
        bare: list[list[float]] = []
        rates: list[tuple[float, float]] = []
        with ThreadPoolExecutor(CLIENTS) as clients:
            for _ in range(5):
                began = time.perf_counter()
                served.append(list(clients.map(request, range(requests))))
                between = time.perf_counter()
                bare.append(list(clients.map(call, range(requests))))
                ended = time.perf_counter()
                rates.append((requests / (between - began), requests / (ended - between)))
        p99 = [statistics.median(np.percentile(one, 99) for one in times) for times in (served, bare)]
        yield Row("endpoint, 8 clients, 99th percentile", "ms", ms([p99[0]]), ms([p99[1]]), None, 5)
        by_served, by_bare = (round(statistics.median(one), 1) for one in zip(*rates, strict=True))
        yield Row("endpoint, photos a second", "1/s", by_served, by_bare, None, 5)


def of_training(archive: Path | None) -> Iterator[Row]:
    """Measure the duration of training when the embeddings of the photos are cached."""
    name = "training on CIFAR's 1,000 photos"
    if archive is None:
        click.echo(f"{name}: not measured without --cifar", err=True)
        yield Row(name, "s", None)
        return
    with tempfile.TemporaryDirectory() as folder:
        data, out = f"{folder}/data", f"{folder}/model"
        run = [sys.executable, "-m", "model"]
        classes = "--classes=bicycle,motorcycle"
        subprocess.run([*run, "data", f"--source={archive}", classes, f"--out={data}"], cwd=ROOT, check=True)
        took = []
        for _ in range(4):
            began = time.perf_counter()
            subprocess.run([*run, "train", f"--data={data}", f"--out={out}"], cwd=ROOT, check=True)
            took.append(time.perf_counter() - began)
    yield Row(name, "s", round(statistics.median(took[1:]), 1), None, None, 3)


def of_stack(rounds: int, burst: int) -> Iterator[Row]:
    """Compare both designs on the same local stack, with one photo at a time and in a burst."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(home=Path(folder), ports=Ports(free_port(), free_port()))
        with stack.running(progress=lambda step: click.echo(f"{step} …", err=True)):
            ours, theirs = Project(stack), BaselineDesign(stack)
            content = {"190 KB": photo("small"), "12 megapixels": photo("phone")}
            for name, one in content.items():
                took = in_turn(rounds, lambda one=one: ours.one(one), lambda one=one: theirs.one(one))
                yield Row(f"upload to result, {name}", "ms", ms(took[0]), None, ms(took[1]), rounds)
            yield Row(
                "state of a photo, median",
                "bytes",
                statistics.median(map(state_bytes, histories_of(stack))),
                None,
                theirs.state_bytes(content["190 KB"]),
                rounds,
            )
            small = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=2))
            quarter = ours.burst(small, burst // 4)
            whole = ours.burst(small, burst)
            yield Row(f"burst of {burst:,}", "1/s", whole, quarter, theirs.burst(small, burst))


class Design:
    """A pipeline from an upload to a result."""

    def __init__(self, stack: Stack) -> None:
        self.s3, self.bucket = stack.client("s3"), stack.outputs["UploadBucketName"]
        self.numbers = itertools.count()

    def send(self, content: bytes) -> str:
        """Upload a photo; return the id of its result."""
        raise NotImplementedError

    def ended(self, sent: str) -> bool:
        """Return whether the result is there."""
        raise NotImplementedError

    def one(self, content: bytes) -> str:
        sent = self.send(content)
        wait(lambda: self.ended(sent))
        return sent

    def burst(self, content: bytes, count: int) -> float:
        """Return photos per second, from the first upload to the last result."""
        began = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            uploaded = list(clients.map(self.send, [content] * count))
        for sent in uploaded:
            wait(lambda sent=sent: self.ended(sent), DEADLINE + count)
        return round(count / (time.perf_counter() - began), 2)


class Project(Design):
    """The project's pipeline; the result is the item in the results table."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.table, self.results = stack.client("dynamodb"), stack.outputs["ResultsTableName"]

    def send(self, content: bytes) -> str:
        key = f"uploads/bench/{next(self.numbers)}.jpg"
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=content)
        return f"s3://{self.bucket}/{key}"

    def ended(self, sent: str) -> bool:
        return "Item" in self.table.get_item(TableName=self.results, Key={"photo": {"S": sent}})


class BaselineDesign(Design):
    """The student project's design; the result is the end of its execution."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        cloudformation = stack.client("cloudformation")
        parameters = {"UploadBucketName": self.bucket, "EndpointName": ENDPOINT_NAME}
        cloudformation.create_stack(
            StackName="baseline-design",
            TemplateBody=BASELINE_DESIGN.read_text(),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[
                {"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()
            ],
        )
        created = cloudformation.get_waiter("stack_create_complete")
        created.wait(StackName="baseline-design", WaiterConfig={"Delay": 1})
        (described,) = cloudformation.describe_stacks(StackName="baseline-design")["Stacks"]
        (output,) = described["Outputs"]
        self.workflow, self.machine = output["OutputValue"], stack.client("stepfunctions")

    def send(self, content: bytes) -> str:
        key = f"baseline/{next(self.numbers)}.jpg"
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=content)
        state = json.dumps({"s3_bucket": self.bucket, "s3_key": key})
        return self.machine.start_execution(stateMachineArn=self.workflow, input=state)["executionArn"]

    def ended(self, sent: str) -> bool:
        status = self.machine.describe_execution(executionArn=sent)["status"]
        assert status in {"RUNNING", "SUCCEEDED"}, status
        return status == "SUCCEEDED"

    def state_bytes(self, content: bytes) -> int:
        history = self.machine.get_execution_history(executionArn=self.one(content))
        return state_bytes(history["events"])


def wait(done: Callable[[], bool], seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise click.ClickException(f"No result in {seconds:.0f} s.")
        time.sleep(0.01)


def state_bytes(history: Sequence[dict[str, Any]]) -> int:
    """Return the largest input or output of a state in an execution's history."""
    details = [one for event in history for one in event.values() if isinstance(one, dict)]
    return max(len(one.get(name) or "") for one in details for name in ("input", "output", "parameters"))


def of_bills() -> Iterator[Row]:
    """Compute the dollars for a million photos at each scale, and for an idle month."""
    for scale in SCALES:
        ours, theirs = bill.recommended(scale, "small"), bill.baseline_design(scale, "small")
        yield Row(
            f"a million photos, at {scale:,} a month",
            "USD",
            round(ours.per_million, 2),
            None,
            round(theirs.per_million, 2),
        )
    yield Row("an idle month", "USD", round(ours.idle_month, 2), None, round(theirs.idle_month, 2))


def is_met(row: dict[str, Any]) -> bool:
    """Return whether a row meets its target."""
    figure, bound, limit = TARGETS[row["name"]]
    value = row[figure]
    return value is not None and (value <= limit if bound == "at most" else value >= limit)


def table(found: Sequence[dict[str, Any]]) -> str:
    """Format the rows as a Markdown table."""
    lines = [
        "| measurement | unit | " + " | ".join(FIGURES.values()) + " | target | |",
        f"|---|---|{'--:|' * 5}---|---|",
    ]
    for row in found:
        figures = ("" if row[name] is None else f"{row[name]:,}" for name in FIGURES)
        figure, bound, limit = TARGETS[row["name"]]
        target = f"{FIGURES[figure]} {bound} {limit:,}"
        met = "met" if is_met(row) else "**missed**"
        lines.append(f"| {row['name']} | {row['unit']} | {' | '.join(figures)} | {target} | {met} |")
    return "\n".join(lines)


def draw(found: Sequence[dict[str, Any]]) -> bytes:
    """Draw each figure relative to its target as SVG; less than 1 is better."""
    rows = [row for row in reversed(found) if row[TARGETS[row["name"]][0]] is not None]
    shares = []
    for row in rows:
        figure, bound, limit = TARGETS[row["name"]]
        shares.append(row[figure] / limit if bound == "at most" else limit / row[figure])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.3 * len(rows) + 0.9))
        axes = figure.add_subplot()
        colours = [MET if is_met(row) else MISSED for row in rows]
        axes.barh([row["name"] for row in rows], shares, color=colours, height=0.6)
        axes.axvline(1, color=SOFT, ls="--")
        axes.set_xlabel("relative to the target; less is better")
        axes.grid(visible=False, axis="y")
    return svg_file(figure)
