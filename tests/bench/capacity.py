"""Simulate the whole chain under load, and generate docs/scale.md: ``python -m tests.bench capacity``.

The simulation runs in virtual time, with the server's own code for admission and the state machine's own
numbers: what waits for an event (`asyncio`) waits for the simulated clock.
"""

import asyncio
import json
import math
import random
import selectors
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from model.sagemaker.autoscaling import PHOTOS_AT_ONCE, UTILIZATION, WORKERS
from model.serving.admission import Admission, BusyError, Caller
from pipeline.costs import bill, usage
from pipeline.markdown import table, update_section
from tests.closed_loop import quantile
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "scale.md"
STEP = 0.02
"""Assumed seconds between two states."""
STARTING = 300.0
"""Assumed seconds until a new instance answers; AWS documents no time."""
DEFINITION = json.loads((ROOT / "statemachine" / "classify.asl.json").read_text())
THROTTLED = next(
    retrier
    for retrier in DEFINITION["States"]["Classify"]["Retry"]
    if "Lambda.TooManyRequestsException" in retrier["ErrorEquals"]
)
PATIENCE_SECONDS = 21_600  # template.yaml, for Standard workflows
DURATIONS = {name: ms / 1000 for name, ms in bill._durations(bill.Setting(), "small").items()}


class VirtualClock(selectors.SelectSelector):
    """Lets time pass only while there is nothing to do, and then at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += timeout or 0
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


@dataclass
class Chain:
    """The system: `rate` is of one instance, in photos per second; `lambdas` the account's concurrency."""

    instances: int
    rate: float
    max_instances: int = 0  # autoscaling is off if it is not larger
    lambdas: int = 1000
    serialize: float = DURATIONS["serialize"]
    overhead: float = bill.OVERHEAD_MS / 1000
    seed: int = 1

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.chance = random.Random(self.seed)
        self.servers = [self._server() for _ in range(self.instances)]
        self.held = [0] * self.instances
        self.running = self.peak = self.transitions = self.busy = self.failed = 0
        self.lambda_seconds = 0.0
        self.latencies: list[float] = []

    def _server(self) -> Admission:
        return Admission(WORKERS, self.loop.time)

    async def photo(self, *, low: bool = False) -> None:
        """Follow one photo from its upload to its outcome."""
        started_at = self.loop.time()
        self.transitions += usage.photo_transitions("Accepted")
        await asyncio.sleep(4 * STEP)
        await self._function(lambda: asyncio.sleep(self.serialize))
        while True:
            waited = self.loop.time() - started_at
            hint = await self._function(lambda waited=waited: self._classify(waited, low=low))
            if hint is None:
                break
            self.busy += 1
            if waited >= PATIENCE_SECONDS:
                self.failed += 1
                return
            self.transitions += 3  # Time left?, Wait for capacity and Classify again
            await asyncio.sleep(
                min(max(math.ceil(hint), waited // 100), PATIENCE_SECONDS - waited) + 2 * STEP
            )
        await asyncio.sleep(DURATIONS["filter"] + 5 * STEP)
        self.latencies.append(self.loop.time() - started_at)

    async def _function(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Invoke a function; if the account's concurrency is used up, retry as the state machine does."""
        pause = THROTTLED["IntervalSeconds"]
        while self.running >= self.lambdas:
            self.transitions += 1
            await asyncio.sleep(self.chance.uniform(0, pause))
            pause = min(pause * THROTTLED["BackoffRate"], THROTTLED["MaxDelaySeconds"])
        self.running += 1
        self.peak = max(self.peak, self.running)
        began = self.loop.time()
        try:
            return await work()
        finally:
            self.running -= 1
            self.lambda_seconds += self.loop.time() - began

    async def _classify(self, waited: float, *, low: bool) -> float | None:
        """Return ``None`` for an answer, or the seconds after which to come back."""
        from functions.classify.app import PATIENCE  # noqa: PLC0415  needs the region that conftest sets

        number = self.chance.randrange(len(self.servers))
        server, seconds = self.servers[number], WORKERS / self.rate
        self.held[number] += 1
        try:
            await asyncio.sleep(self.overhead)
            try:
                await server.enter(Caller(PATIENCE, round(waited), low=low))
            except BusyError as error:
                return error.retry_after
            await asyncio.sleep(seconds)
            server.leave(seconds)
        finally:
            self.held[number] -= 1
        return None

    async def scale(self) -> None:
        """Follow the target as autoscaling does, from the mean of three metrics 10 s apart."""
        wanted, recent = len(self.servers), []
        while True:
            await asyncio.sleep(10)
            recent = [*recent[-2:], sum(self.held) / len(self.servers)]
            mean = sum(recent) / len(recent)
            if len(recent) == 3 and mean > PHOTOS_AT_ONCE and wanted < self.max_instances:
                before, wanted = wanted, min(self.max_instances, math.ceil(wanted * mean / PHOTOS_AT_ONCE))
                self.loop.call_later(STARTING, self._add, wanted - before)
                recent = []

    def _add(self, count: int) -> None:
        self.servers += [self._server() for _ in range(count)]
        self.held += [0] * count


@dataclass
class Result:
    """What happened to a load; times in seconds."""

    photos: int
    failed: int
    seconds: float  # until the last outcome
    p50: float
    p99: float
    transitions: float  # billed, per photo
    busy: int
    peak: int  # functions at a time
    instances: int  # at the end
    cost: float  # dollars of the waiting: transitions and functions beyond those of an idle system
    extra: dict[str, Any] = field(default_factory=dict)


def simulate(photos: int, spread: float, **settings: Any) -> Result:
    """Send `photos` at random times within `spread` seconds through a `Chain` with these settings."""

    async def run() -> Result:
        chain = Chain(**settings)
        times = [chain.chance.uniform(0, spread) for _ in range(photos)]

        async def upload(at: float) -> None:
            await asyncio.sleep(at)
            await chain.photo()

        scaling = asyncio.create_task(chain.scale())
        await asyncio.gather(*map(upload, times))
        scaling.cancel()
        return result(chain, photos)

    random.seed(settings.get("seed", 1))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


def result(chain: Chain, photos: int) -> Result:
    prices = bill.prices()
    gb = usage.memory("classify") / 1024 * prices["lambda_gb_second_arm64"]
    normal = photos * usage.photo_transitions("Accepted")
    idle_seconds = photos * (chain.serialize + WORKERS / chain.rate + chain.overhead)
    waiting = (chain.transitions - normal) * prices["states_transition"]
    waiting += chain.busy * prices["lambda_request"] + max(0, chain.lambda_seconds - idle_seconds) * gb
    return Result(
        photos,
        chain.failed,
        chain.loop.time(),
        quantile(chain.latencies, 0.5),
        quantile(chain.latencies, 0.99),
        chain.transitions / photos,
        chain.busy,
        chain.peak,
        len(chain.servers),
        waiting,
    )


def measure(photos: int, rate: float) -> dict[str, float]:
    """Measure the same with the real function and the real server (tests/executions.py)."""
    from tests.executions import Pipeline, calls_to, slow_endpoint  # noqa: PLC0415  imports the emulator's engine

    with slow_endpoint(rate) as url, calls_to(url) as metrics:
        pipeline, began = Pipeline(), time.time()
        pipeline.start(photos)
        pipeline.join()
        assert pipeline.outcomes() == {"classified": photos}
        return {"seconds": time.time() - began, "busy": metrics["EndpointBusy"]}


LAMBDA = "[Lambda concurrency](https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)"
STATES = "[state transitions](https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html)"
STARTS = "[StartExecution](https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html)"
EVENTS = "[PutEvents](https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html)"
STANDARD_LIMITS = {LAMBDA: 1000, STATES: 1500, STARTS: 300, EVENTS: 10_000}
"""Default quotas per second (Lambda: at a time) in us-east-1."""
EXPRESS_LIMITS = {LAMBDA: 1000, STARTS: 6000, EVENTS: 10_000}


def sustained(rate: int) -> list[str]:
    """Describe what a steady stream of this many photos per second needs."""
    of_instance = usage.photos_per_second()
    instances = math.ceil(rate / (UTILIZATION * of_instance))
    found = simulate(rate * 60, 60, instances=instances, rate=of_instance, lambdas=100_000)
    seconds = sum(DURATIONS.values()) + WORKERS / of_instance
    needs = {LAMBDA: rate * seconds, STATES: rate * found.transitions, STARTS: rate, EVENTS: rate}
    bills = [bill.project(bill.Setting(kind), rate * bill.SECONDS).month for kind in ("STANDARD", "EXPRESS")]

    def first(limits: dict[str, int]) -> str:
        name = max(limits, key=lambda one: needs[one] / limits[one])
        return f"{name}, at {rate * limits[name] / needs[name]:,.0f} photos a second"

    return [
        f"{rate:,}",
        str(instances),
        f"{needs[LAMBDA]:,.1f}",
        f"{found.p50:.1f} s, {found.p99:.1f} s",
        *(f"{dollars:,.0f}" for dollars in bills),
        first(STANDARD_LIMITS),
        first(EXPRESS_LIMITS),
    ]


def burst(photos: int, instances: int) -> list[str]:
    """Describe what a burst within a minute does."""
    rate = usage.photos_per_second()
    found = simulate(photos, 60, instances=instances, rate=rate)
    ideal = max(60, photos / rate / instances)
    return [
        f"{photos:,}",
        str(instances),
        f"{1 - found.failed / photos:.0%}",
        f"{found.seconds:,.0f} s",
        f"{ideal / found.seconds:.0%}",
        f"{found.p50:,.0f} s, {found.p99:,.0f} s",
        f"{found.transitions:.1f}",
        str(found.peak),
        f"{found.cost:.2f}",
    ]


@click.command()
@click.option("--page", type=click.Path(path_type=Path), default=PAGE)
def bench(page: Path) -> None:
    """Validate the simulation against measured runs, and write its results into docs/scale.md."""
    rows = [("photos at once", "photos a second", "", "measured", "simulated", "error")]
    rows.append(("--:", "--:", "---", "--:", "--:", "--:"))
    for photos, rate in ((100, 10), (300, 10), (200, 20)):
        real = measure(photos, rate)
        simulated = simulate(photos, 0, instances=1, rate=rate, serialize=0, overhead=0, lambdas=10_000)
        for name in ("seconds", "busy"):
            ours = getattr(simulated, name)
            rows.append(
                (
                    str(photos),
                    str(rate),
                    {"seconds": "seconds until all are classified", "busy": "refusals"}[name],
                    f"{real[name]:.1f}",
                    f"{ours:.1f}",
                    f"{ours / real[name] - 1:+.0%}",
                )
            )
    update_section(page, "<!-- validation -->", table(rows))
    header = (
        "photos a second", "instances", "functions at a time", "upload to outcome, p50 and p99",
        "dollars a month, Standard", "Express", "first limit, Standard", "Express",
    )  # fmt: skip
    rows = [header, ("--:",) * 6 + ("---",) * 2]
    update_section(page, "<!-- sustained -->", table([*rows, *map(sustained, (1, 10, 100, 1000))]))
    header = (
        "photos in a minute", "instances", "classified", "until the last", "of capacity",
        "upload to outcome, p50 and p99", "transitions a photo", "functions at a time", "dollars for waiting",
    )  # fmt: skip
    rows = [header, ("--:",) * 9]
    bursts = [burst(photos, n) for photos in (1_000, 10_000, 100_000) for n in (1, 4, 16)]
    update_section(page, "<!-- bursts -->", table([*rows, *bursts]))
