"""A month's bill by AWS's list prices: of a design, at a number of photos a month."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from model.sagemaker.autoscaling import UTILIZATION
from pipeline.costs import usage

if TYPE_CHECKING:
    from collections.abc import Mapping

PRICES = Path(__file__).with_name("prices.json")

HOURS = 730
"""In a month, as AWS's price pages count."""
SECONDS = 3600 * HOURS
GB = 2**30
FULL_CORE = 1769
"""MB at which a function has one processor; with less it has its share (Lambda Developer Guide, "Configure
Lambda function memory"). Serverless Inference runs on Lambda and is taken to give as much."""
KEPT_WARM = 300
"""Seconds after which an idle function is taken to be gone; AWS promises none."""

FIRST_BYTE_MS = 100
"""To S3's first byte (S3 User Guide, "Best practices design patterns": roughly 100 to 200 ms)."""
OVERHEAD_MS = 10
"""Of a call to the endpoint beside the model: a few milliseconds within a region."""
STEP_MS = 20
"""Between two states of an Express workflow, taken so."""
EXPRESS_MB = 64
"""An Express workflow's memory is billed in steps of this; ours holds a definition of 15 KB and a state of
under 64 KB."""

OUTCOMES = {"Accepted": 0.85, "Needs review": 0.1, "Rejected": 0.05}
"""The state that a photo comes through, and what share of photos is taken to."""
PEAK = 3
"""How many times as many photos as on average come in the busiest hour, taken so."""
MONITORED_A_DAY = 5000
"""Photos that are enough to know a day by; more are not captured."""
RECORDS_A_FILE = 2.8
"""Of SageMaker's data capture (in 132 real records, 64% were not the first of their file)."""
DRIFT_METRICS = 10
"""That the monitor function publishes where there is a baseline: one a feature, and how many drifted."""
MONITOR_BASE_MS, MONITOR_RECORD_MS = 1500, 0.6
"""Of the monitor function: to start, and for each record (tests/bench/monitor_volume.json)."""
STANDARD_IS_WORTH = 50
"""Dollars a month: its executions can be looked at for 90 days, run once, and keep their input whatever
happens, while an Express one that takes five minutes is gone (docs/costs.md)."""

type Workflow = Literal["STANDARD", "EXPRESS"]
type Hosting = Literal["real-time", "serverless"]


@dataclass(frozen=True)
class Setting:
    """How the pipeline is deployed.

    Attributes
    ----------
    workflow
        The state machine's type.
    endpoint
        Instances that are always there, or Serverless Inference.
    instance_type
        Of a real-time endpoint; prices.json has its price.
    serverless_memory
        MB of a serverless endpoint.
    architecture
        The functions' processor.
    """

    workflow: Workflow = "STANDARD"
    endpoint: Hosting = "real-time"
    instance_type: str = "ml.m5.large"
    serverless_memory: int = 2048
    architecture: Literal["x86_64", "arm64"] = "arm64"

    def __str__(self) -> str:
        return f"{self.workflow.capitalize()}, {self.endpoint}"


ORIGINAL = Setting("STANDARD", "real-time", "ml.m5.xlarge", architecture="x86_64")
"""What the original runs on; `Bill.original` knows the rest of its design."""
SETTINGS = tuple(
    Setting(workflow, endpoint)
    for workflow in ("STANDARD", "EXPRESS")
    for endpoint in ("real-time", "serverless")
)


@dataclass(frozen=True)
class Bill:
    """A month of a design.

    Attributes
    ----------
    design
        What it is of.
    photos
        How many there were.
    idle, lines
        Dollars by service: of a month without a photo, and of this one.
    """

    design: str
    photos: float
    idle: Mapping[str, float]
    lines: Mapping[str, float]

    @property
    def idle_month(self) -> float:
        """Dollars of a month without a photo."""
        return math.fsum(self.idle.values())

    @property
    def month(self) -> float:
        """Dollars of this month."""
        return math.fsum(self.lines.values())

    @property
    def photo(self) -> float:
        """Dollars of this month for each of its photos."""
        return self.month / self.photos

    @property
    def per_million(self) -> float:
        """Dollars of this month for each million of its photos."""
        return 1e6 * self.photo


@cache
def prices() -> Mapping[str, float]:
    """Return the price of one of each unit in dollars."""
    listed: Mapping[str, Mapping[str, Any]] = json.loads(PRICES.read_bytes())["prices"]
    return {name: float(one["dollars"]) / float(one["per"]) for name, one in listed.items()}


def project(setting: Setting, photos: float, photo: str = "small") -> Bill:
    """Bill the project.

    Parameters
    ----------
    setting
        How it is deployed.
    photos
        A month.
    photo
        Which of the measured photos they are like: ``small`` or ``phone``.

    Raises
    ------
    KeyError
        There is no price of that instance type, or no such photo.
    """
    return Bill(str(setting), photos, _project(setting, 0, photo), _project(setting, photos, photo))


def original(photos: float, photo: str = "small") -> Bill:
    """Bill the original's design: three functions of 128 MB, the raw photo in the state, one instance.

    In its favour, one instance is enough however many photos there are, and answers as fast as the project's
    model; photos are stored as long as here. It has no events, results, alarms or traces to pay for.
    """
    return Bill("the original", photos, _original(0, photo), _original(photos, photo))


def capture_share(photos: float) -> float:
    """Return what share of so many photos a month need be captured, in whole percent."""
    return min(1.0, max(0.01, math.floor(100 * MONITORED_A_DAY * 30 / photos) / 100)) if photos else 1.0


def instances(setting: Setting, photos: float) -> int:
    """Return how many instances the busiest hour takes, by what one was measured to answer a second."""
    if setting.endpoint == "serverless":
        return 0
    return max(1, math.ceil(PEAK * photos / SECONDS / (UTILIZATION * usage.photos_per_second())))


def recommended(photos: float, photo: str = "small") -> Bill:
    """Return the bill of the setting to use: the cheapest, but Standard for `STANDARD_IS_WORTH` more."""
    bills = {setting: project(setting, photos, photo) for setting in SETTINGS}
    worth = {
        setting: bill.month - (STANDARD_IS_WORTH if setting.workflow == "STANDARD" else 0)
        for setting, bill in bills.items()
    }
    return bills[min(worth, key=worth.__getitem__)]


def _project(setting: Setting, photos: float, photo: str) -> dict[str, float]:
    price, found = prices(), usage.measured()
    of_photo, durations = found["photos"][photo], _durations(setting, photo)
    captured = photos * capture_share(photos) * (1 - OUTCOMES["Rejected"])
    asked = photos * (1 - OUTCOMES["Rejected"])
    line: defaultdict[str, float] = defaultdict(float)

    line["Step Functions"] = photos * _workflow(setting, sum(durations.values()))
    cold = _cold(photos)
    for function, milliseconds in durations.items():
        calls = photos if function == "serialize" else asked
        init = cold * found["init_cpu_ms"][function] * _slowness(function)
        line["Lambda"] += _calls(setting, calls, usage.memory(function), milliseconds + init)
    records_read = captured / 30  # a day's, every hour
    monitor = MONITOR_BASE_MS + MONITOR_RECORD_MS * records_read
    line["Lambda"] += _calls(setting, HOURS, usage.memory("monitor"), monitor)

    line["SageMaker"] = _endpoint(setting, photos, asked, cold)
    files = captured / RECORDS_A_FILE if setting.endpoint == "real-time" else captured
    stored = photos * of_photo["bytes"] + captured * 2 * of_photo["serialized_bytes"]
    line["S3"] = (
        (photos + files) * price["s3_put"]
        + (photos + HOURS * files / 30) * price["s3_get"]
        + stored / GB * usage.retention_days() / 30 * price["s3_gb_month"]
    )
    item = found["item_bytes"]
    line["DynamoDB"] = photos * math.ceil(item / 1024) * price["dynamodb_write"]
    kept_a_year = 12 * photos * item / GB
    line["DynamoDB"] += kept_a_year * (price["dynamodb_gb_month"] + price["dynamodb_pitr_gb_month"])
    line["EventBridge"] = photos * (price["events_opt_in"] + price["events_custom"])
    line["SQS"] = 3 * photos * OUTCOMES["Needs review"] * price["sqs_request"]
    logged = photos * (found["function_log_bytes"] + found["workflow_log_bytes"]) / GB
    line["CloudWatch"] = logged * (price["logs_gb"] + price["logs_gb_month"])
    metrics = found["monitor_metrics"] + DRIFT_METRICS + (found["custom_metrics"] if photos else 0)
    watch = usage.watch()
    # deploy's own: errors (two metrics) and latency; autoscaling's: one to add instances, one to take away
    of_endpoint = 3 + (2 if setting.endpoint == "real-time" else 0)
    line["CloudWatch"] += (
        metrics * price["metric_month"]
        + (watch.alarms + of_endpoint) * price["alarm_month"]
        + watch.dashboards * price["dashboard_month"]
    )
    line["KMS"] = watch.keys * price["kms_key_month"]
    line["X-Ray"] = _traces(photos) * price["xray_trace"]
    return dict(line)


def _original(photos: float, photo: str) -> dict[str, float]:
    price, found = prices(), usage.measured()
    of_photo = found["photos"][photo]
    waits = {"serialize": FIRST_BYTE_MS, "classify": _answer_ms(ORIGINAL), "filter": 0.0}
    init = _cold(photos) * found["init_cpu_ms"]["original"]
    line: defaultdict[str, float] = defaultdict(float)
    line["Step Functions"] = 3 * photos * price["states_transition"]
    for function, wait in waits.items():
        milliseconds = wait + (of_photo["original_cpu_ms"][function] + init) * FULL_CORE / 128
        line["Lambda"] += _calls(ORIGINAL, photos, 128, milliseconds)
    line["SageMaker"] = HOURS * price[ORIGINAL.instance_type]
    line["SageMaker"] += photos * (of_photo["bytes"] + 64) / GB * price["sagemaker_gb"]
    # it captures everything, in base64
    stored = photos * of_photo["bytes"] * (1 + 4 / 3)
    line["S3"] = (
        photos * (1 + 1 / RECORDS_A_FILE) * price["s3_put"]
        + photos * price["s3_get"]
        + stored / GB * usage.retention_days() / 30 * price["s3_gb_month"]
    )
    # of each call only Lambda's own three lines
    line["CloudWatch"] = photos * 3 * 350 / GB * (price["logs_gb"] + price["logs_gb_month"])
    return dict(line)


def _durations(setting: Setting, photo: str) -> dict[str, float]:
    """Return milliseconds of each function, warm: what it waits for, and what it computes."""
    waits = {"serialize": float(FIRST_BYTE_MS), "classify": _answer_ms(setting), "filter": 0.0}
    computed = usage.measured()["photos"][photo]["cpu_ms"]
    return {name: wait + computed[name] * _slowness(name) for name, wait in waits.items()}


def _slowness(function: str) -> float:
    return max(1.0, FULL_CORE / usage.memory(function))


def _answer_ms(setting: Setting) -> float:
    """Return milliseconds from question to answer: a lone photo has all of an instance's cores."""
    endpoint = usage.measured()["endpoint"]
    if setting.endpoint == "serverless":
        return OVERHEAD_MS + float(endpoint["cpu_ms"]) * FULL_CORE / setting.serverless_memory
    return OVERHEAD_MS + float(endpoint["cpu_ms"]) / float(endpoint["cores"])


def _workflow(setting: Setting, milliseconds: float) -> float:
    """Return dollars of the workflow for a photo."""
    price = prices()
    steps = sum(share * usage.photo_transitions(outcome) for outcome, share in OUTCOMES.items())
    if setting.workflow == "STANDARD":
        return steps * price["states_transition"]
    billed = math.ceil((milliseconds + steps * STEP_MS) / 100) / 10
    return price["states_request"] + billed * EXPRESS_MB / 1024 * price["states_gb_second"]


def _calls(setting: Setting, calls: float, memory: int, milliseconds: float) -> float:
    price = prices()
    seconds = math.ceil(milliseconds) / 1000
    each = memory / 1024 * seconds * price[f"lambda_gb_second_{setting.architecture}"]
    return calls * (price["lambda_request"] + each)


def _cold(photos: float) -> float:
    """Return the share of photos that find nothing running, if they come independently of one another."""
    return math.exp(-photos / SECONDS * KEPT_WARM)


def _endpoint(setting: Setting, photos: float, asked: float, cold: float) -> float:
    price, endpoint = prices(), usage.measured()["endpoint"]
    moved: float = asked * (endpoint["request_bytes"] + endpoint["answer_bytes"]) / GB * price["sagemaker_gb"]
    if setting.endpoint == "real-time":
        return moved + instances(setting, photos) * HOURS * price[setting.instance_type]
    seconds: float = (_answer_ms(setting) + cold * endpoint["start_cpu_ms"]) / 1000
    return moved + asked * seconds * setting.serverless_memory / 1024 * price["serverless_gb_second"]


def _traces(photos: float) -> float:
    """Return how many traces X-Ray samples: the first in each second, and 5% of the others."""
    rate = photos / SECONDS
    first = 1 - math.exp(-rate)
    return SECONDS * (first + 0.05 * (rate - first))
