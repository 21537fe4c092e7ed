"""Monthly AWS bills by list price: of this project and of the baseline design, for any number of photos."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from model.sagemaker.autoscaling import UTILIZATION
from model.serving.admission import HORIZON, OVERBOOKING
from pipeline.costs import usage

PRICES = Path(__file__).with_name("prices.json")

HOURS = 730
"""Hours in a month, as on AWS's price pages."""
SECONDS = 3600 * HOURS
GB = 2**30
FULL_CORE = 1769
"""MB of memory at which a function has one full processor; with less it has a proportional share (Lambda
Developer Guide, "Configure Lambda function memory"). Serverless Inference, which runs on Lambda, is assumed
to be the same."""
IDLE_TIMEOUT = 300
"""Seconds after which an idle function is assumed to be gone; AWS documents no time."""

FIRST_BYTE_MS = 100
"""Time to S3's first byte (S3 User Guide, "Best practices design patterns": roughly 100 to 200 ms)."""
OVERHEAD_MS = 10
"""Assumed time of a request to the endpoint besides the model; a few milliseconds within a region."""
STEP_MS = 20
"""Assumed time between two states of an Express workflow."""
EXPRESS_MB = 64
"""Billed memory of an Express workflow, in steps of 64 MB; definition and state are below 80 KB."""

OUTCOMES = {"Accepted": 0.85, "Needs review": 0.1, "Rejected": 0.05}
"""Assumed share of the photos by outcome, each named after the state that it passes through."""
PEAK = 3
"""Assumed ratio of the busiest hour to the average hour."""
TRANSITIONS_TO_WAIT = 3
"""States of a photo that waits for the endpoint: Time left?, Wait for capacity, and Classify again."""
MONITORED_A_DAY = 5000
"""Photos a day that are enough for monitoring; beyond that, only a share is captured."""
RECORDS_A_FILE = 2.8
"""Records per file of SageMaker data capture (in 132 real records, 64% were not the first of their file)."""
DRIFT_METRICS = 10
"""Metrics that the monitor function publishes if it has a baseline: one per feature, and their number."""
MONITOR_BASE_MS, MONITOR_RECORD_MS = 1500, 0.6
"""Time that the monitor function needs to start, and per record (tests/bench/monitor_volume.json)."""
STANDARD_IS_WORTH = 50
"""Dollars a month that a Standard workflow may cost more than an Express one. Its executions can be inspected
for 90 days, run exactly once and never lose their input; an Express execution that exceeds five minutes is
lost (docs/costs.md)."""


@dataclass(frozen=True)
class Setting:
    """How the pipeline is deployed; `serverless_memory` is in MB, `architecture` is that of the functions.

    `instances` is the number that a real-time endpoint has; without it, as many as the busiest hour needs.
    """

    workflow: Literal["STANDARD", "EXPRESS"] = "STANDARD"
    endpoint: Literal["real-time", "serverless"] = "real-time"
    instance_type: str = "ml.m5.large"
    serverless_memory: int = 2048
    architecture: Literal["x86_64", "arm64"] = "arm64"
    instances: int | None = None

    def __str__(self) -> str:
        return f"{self.workflow.capitalize()}, {self.endpoint}"


BASELINE_DESIGN = "baseline design"
BASELINE_SETTING = Setting("STANDARD", "real-time", "ml.m5.xlarge", architecture="x86_64", instances=1)
SETTINGS = tuple(
    Setting(workflow, endpoint)
    for workflow in ("STANDARD", "EXPRESS")
    for endpoint in ("real-time", "serverless")
)


@dataclass(frozen=True)
class Bill:
    """A design's bill: dollars by service for a month without photos, and for one with this many photos."""

    design: str
    photos: float
    idle: Mapping[str, float]
    lines: Mapping[str, float]

    @property
    def idle_month(self) -> float:
        """Dollars for a month without photos."""
        return math.fsum(self.idle.values())

    @property
    def month(self) -> float:
        """Dollars for this month."""
        return math.fsum(self.lines.values())

    @property
    def per_million(self) -> float:
        """Dollars per million photos."""
        return 1e6 * self.month / self.photos


@cache
def prices() -> Mapping[str, float]:
    """Return the price in dollars of one unit of each item."""
    listed: Mapping[str, Mapping[str, Any]] = json.loads(PRICES.read_bytes())["prices"]
    return {name: float(one["dollars"]) / float(one["per"]) for name, one in listed.items()}


def project(setting: Setting, photos: float, photo: str = "small") -> Bill:
    """Return this project's bill; `photo` is a kind of photo in measured.json, ``small`` or ``phone``."""
    return Bill(str(setting), photos, _project(setting, 0, photo), _project(setting, photos, photo))


def baseline_design(photos: float, photo: str = "small") -> Bill:
    """Return the bill of the student project's design.

    It has three functions of 128 MB, keeps the raw photo in the state, and runs one instance. It is assumed
    that the instance is enough for any number of photos and as fast as this project's model, and that photos
    are stored as long and captured as rarely as here. There are no events, results, alarms or traces to pay
    for.
    """

    def lines(photos: float) -> dict[str, float]:
        return _baseline_design(BASELINE_SETTING, photos, photo, capture_share(photos))

    return Bill(BASELINE_DESIGN, photos, lines(0), lines(photos))


def decisions(photos: float, photo: str = "small") -> dict[str, float]:
    """Return the monthly dollars after each decision on the way from the student project.

    The last design is the recommended one. Each differs from the one before it only in the decision that it
    is named after. What a decision is worth depends on those before it: this is one order of several.
    """
    chosen = _recommended_setting(photos, photo)
    share = capture_share(photos)
    endpoint = replace(BASELINE_SETTING, endpoint=chosen.endpoint, instance_type=chosen.instance_type)
    pipeline = replace(endpoint, serverless_memory=chosen.serverless_memory)
    lines = {
        "the student project, which captures every photo": _baseline_design(
            BASELINE_SETTING, photos, photo, 1.0
        ),
        "captures only what monitoring needs: the baseline design": _baseline_design(
            BASELINE_SETTING, photos, photo, share
        ),
        "the recommended endpoint": _baseline_design(endpoint, photos, photo, share),
        "reduced photos; events, results, review and alarms": _project(pipeline, photos, photo),
        "functions on arm64": _project(replace(pipeline, architecture=chosen.architecture), photos, photo),
        "the recommended workflow: the whole recommendation": _project(chosen, photos, photo),
    }
    return {decision: math.fsum(one.values()) for decision, one in lines.items()}


def capture_share(photos: float) -> float:
    """Return the share of a month's photos to capture, rounded down to a percent."""
    return min(1.0, max(0.01, math.floor(100 * MONITORED_A_DAY * 30 / photos) / 100)) if photos else 1.0


def instances(setting: Setting, photos: float) -> int:
    """Return the endpoint's number of instances: by default, what the busiest hour needs; 0 if serverless."""
    if setting.endpoint == "serverless":
        return 0
    return setting.instances or max(
        1, math.ceil(PEAK * photos / SECONDS / (UTILIZATION * usage.photos_per_second()))
    )


def recommended(photos: float, photo: str = "small") -> Bill:
    """Return the cheapest bill, where Standard may cost `STANDARD_IS_WORTH` more than Express."""
    return project(_recommended_setting(photos, photo), photos, photo)


def _recommended_setting(photos: float, photo: str) -> Setting:
    discounts = {"STANDARD": STANDARD_IS_WORTH, "EXPRESS": 0}
    months = {one: project(one, photos, photo).month - discounts[one.workflow] for one in SETTINGS}
    return min(months, key=months.__getitem__)


@dataclass(frozen=True)
class Burst:
    """A burst of photos at once: the seconds until the last is answered, and the dollars of the waiting."""

    photos: int
    instances: int
    seconds: float
    dollars: float

    def __str__(self) -> str:
        return (
            f"{self.photos:,} photos at once on {self.instances} x ml.m5.large: the last is answered after "
            f"{self.seconds:,.0f} s; the waiting costs {self.dollars:.2f} dollars."
        )


def burst(photos: int, instances: int) -> Burst:
    """Price what a burst costs beyond the photos themselves, with a Standard workflow.

    A photo that has to wait is sent away with an appointment, and once more for about every `HORIZON`; a few
    (`OVERBOOKING`) come too early. Each time, it enters `TRANSITIONS_TO_WAIT` more states and calls the
    function again.
    """
    price, rate = prices(), instances * usage.photos_per_second()
    seconds = photos / rate
    beyond_horizon = max(0.0, seconds - HORIZON) ** 2 / (2 * seconds)  # mean over all photos
    refusals = photos * (OVERBOOKING + beyond_horizon / (0.75 * HORIZON))
    waiting = refusals * (TRANSITIONS_TO_WAIT * price["states_transition"] + price["lambda_request"])
    return Burst(photos, instances, seconds, waiting)


def _project(setting: Setting, photos: float, photo: str) -> dict[str, float]:
    price, measured = prices(), usage.measured()
    of_photo, durations = measured["photos"][photo], _durations(setting, photo)
    classified = photos * (1 - OUTCOMES["Rejected"])
    captured = classified * capture_share(photos)
    lines: defaultdict[str, float] = defaultdict(float)

    lines["Step Functions"] = photos * _workflow(setting, sum(durations.values()))
    cold = _cold_share(photos)
    for function, milliseconds in durations.items():
        calls = photos if function == "serialize" else classified
        init = cold * measured["init_cpu_ms"][function] * _slowdown(function)
        lines["Lambda"] += _calls(setting, calls, usage.memory(function), milliseconds + init)
    records_read = captured / 30  # every hour, the records of a day
    monitor = MONITOR_BASE_MS + MONITOR_RECORD_MS * records_read
    lines["Lambda"] += _calls(setting, HOURS, usage.memory("monitor"), monitor)

    lines["SageMaker"] = _endpoint(setting, photos, classified, measured["endpoint"]["request_bytes"])
    files = captured / RECORDS_A_FILE if setting.endpoint == "real-time" else captured
    stored = photos * of_photo["bytes"] + captured * 2 * of_photo["serialized_bytes"]
    lines["S3"] = _s3(puts=photos + files, gets=photos + HOURS * files / 30, stored=stored)
    item = measured["item_bytes"]
    lines["DynamoDB"] = photos * math.ceil(item / 1024) * price["dynamodb_write"]
    stored_for_a_year = 12 * photos * item / GB
    lines["DynamoDB"] += stored_for_a_year * (price["dynamodb_gb_month"] + price["dynamodb_pitr_gb_month"])
    lines["EventBridge"] = photos * (price["events_opt_in"] + price["events_custom"])
    lines["SQS"] = 3 * photos * OUTCOMES["Needs review"] * price["sqs_request"]
    lines["CloudWatch"] = _logs(photos * (measured["function_log_bytes"] + measured["workflow_log_bytes"]))
    metrics = measured["monitor_metrics"] + DRIFT_METRICS + (measured["custom_metrics"] if photos else 0)
    # `scones deploy` adds errors (three metrics) and latency; autoscaling adds one to scale out and one in
    endpoint_alarms = 4 + (2 if setting.endpoint == "real-time" else 0)
    lines["CloudWatch"] += (
        metrics * price["metric_month"]
        + (usage.alarm_metrics() + endpoint_alarms) * price["alarm_month"]
        + len(usage.resources("AWS::CloudWatch::Dashboard")) * price["dashboard_month"]
    )
    lines["KMS"] = len(usage.resources("AWS::KMS::Key")) * price["kms_key_month"]
    lines["X-Ray"] = _traces(photos) * price["xray_trace"]
    return dict(lines)


def _baseline_design(setting: Setting, photos: float, photo: str, share: float) -> dict[str, float]:
    """Return the baseline design's lines with a setting's endpoint, which captures a share of the photos."""
    price, measured = prices(), usage.measured()
    of_photo = measured["photos"][photo]
    init = _cold_share(photos) * measured["init_cpu_ms"]["baseline_design"]
    lines: defaultdict[str, float] = defaultdict(float)
    lines["Step Functions"] = 3 * photos * price["states_transition"]
    for function, wait in _waits(setting).items():
        milliseconds = wait + (of_photo["baseline_design_cpu_ms"][function] + init) * FULL_CORE / 128
        lines["Lambda"] += _calls(setting, photos, 128, milliseconds)
    lines["SageMaker"] = _endpoint(setting, photos, photos, of_photo["bytes"])
    files = share * photos / (RECORDS_A_FILE if setting.endpoint == "real-time" else 1)
    stored = photos * of_photo["bytes"] * (1 + share * 4 / 3)  # a capture is in base64
    lines["S3"] = _s3(puts=photos + files, gets=photos, stored=stored)
    # only the three lines that Lambda itself logs for each call
    lines["CloudWatch"] = _logs(photos * 3 * 350)
    return dict(lines)


def _s3(puts: float, gets: float, stored: float) -> float:
    price, months = prices(), int(usage.template()["Parameters"]["PhotoRetentionDays"]["Default"]) / 30
    return puts * price["s3_put"] + gets * price["s3_get"] + stored / GB * months * price["s3_gb_month"]


def _logs(size: float) -> float:
    return size / GB * (prices()["logs_gb"] + prices()["logs_gb_month"])


def _durations(setting: Setting, photo: str) -> dict[str, float]:
    """Return the milliseconds of each function when it is warm: waiting plus computing."""
    computed = usage.measured()["photos"][photo]["cpu_ms"]
    return {name: wait + computed[name] * _slowdown(name) for name, wait in _waits(setting).items()}


def _waits(setting: Setting) -> dict[str, float]:
    return {"serialize": FIRST_BYTE_MS, "classify": _answer_ms(setting), "filter": 0}


def _slowdown(function: str) -> float:
    return max(1.0, FULL_CORE / usage.memory(function))


def _answer_ms(setting: Setting) -> float:
    """Return the milliseconds of a request to the endpoint; on an instance it can use all cores."""
    endpoint = usage.measured()["endpoint"]
    serverless = setting.endpoint == "serverless"
    cores: float = setting.serverless_memory / FULL_CORE if serverless else endpoint["cores"]
    return OVERHEAD_MS + float(endpoint["cpu_ms"]) / cores


def _workflow(setting: Setting, milliseconds: float) -> float:
    """Return the dollars per photo for Step Functions."""
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


def _cold_share(photos: float) -> float:
    """Return the share of photos that cause a cold start if they arrive independently of each other."""
    return math.exp(-photos / SECONDS * IDLE_TIMEOUT)


def _endpoint(setting: Setting, photos: float, requests: float, request_bytes: int) -> float:
    price, endpoint = prices(), usage.measured()["endpoint"]
    transfer: float = requests * (request_bytes + endpoint["answer_bytes"]) / GB * price["sagemaker_gb"]
    if setting.endpoint == "real-time":
        return transfer + instances(setting, photos) * HOURS * price[setting.instance_type]
    seconds: float = (_answer_ms(setting) + _cold_share(photos) * endpoint["start_cpu_ms"]) / 1000
    return transfer + requests * seconds * setting.serverless_memory / 1024 * price["serverless_gb_second"]


def _traces(photos: float) -> float:
    """Return the number of traces that X-Ray samples: the first in each second, and 5% of the others."""
    rate = photos / SECONDS
    first = 1 - math.exp(-rate)
    return SECONDS * (first + 0.05 * (rate - first))
