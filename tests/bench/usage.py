"""Measure a photo's usage of every service, for `scones cost`: ``python -m tests.bench usage``."""

import base64
import importlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import click
import numpy as np
from botocore.config import Config
from PIL import Image

from local import Ports, demo
from local.stack import ENDPOINT_NAME, Stack
from pipeline import sample_images
from pipeline.costs import usage
from pipeline.stack import CREDENTIALS
from tests import measurements
from tests.bench.serve_overhead import runtime_of, serving, trained
from tests.conftest import ROOT, free_port

PHOTOS = {"small": (960, 720, 8), "phone": (4032, 3024, 8)}
"""Width, height and grain: a photo that the baseline design can process, and a phone's (12 megapixels)."""
INITS = {
    **{f"{name}": f"import functions.{name}.app" for name in ("serialize", "classify", "filter")},
    "baseline_design": "import base64, json, boto3; boto3.client('s3')",
}
"""The code that a cold start runs before the first call; for the baseline design, an average function's."""
HEADERS = 26
"""Bytes that CloudWatch Logs adds to every event (API Reference, PutLogEvents)."""
CLIENTS = 8


@click.command()
@click.option("--rounds", default=30, show_default=True, help="Calls of each function.")
@click.option("--requests", default=200, show_default=True, help="Requests to the endpoint.")
@click.option("--out", type=click.Path(path_type=Path), default=usage.MEASURED, show_default=True)
def bench(rounds: int, requests: int, out: Path) -> None:
    """Classify photos on the local stack, and write the time, bytes, log and requests of each.

    Times of functions are CPU seconds, which other load on the machine does not affect.
    """
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(home=Path(folder), ports=Ports(free_port(), free_port()))
        with stack.running(progress=lambda step: click.echo(f"{step} …", err=True)):
            found = {
                "photos": {name: of_photo(stack, name, rounds) for name in PHOTOS},
                "endpoint": of_endpoint(trained(Path(folder)), requests),
                "init_cpu_ms": {name: init_cpu_ms(code) for name, code in INITS.items()},
                **of_stack(stack),
            }
    click.echo(json.dumps(found, indent=2))
    measurements.write(out, found, "usage")


def photo(name: str) -> bytes:
    """Return a drawing at a camera's size, with the grain that makes up most of a photo's bytes."""
    width, height, grain = PHOTOS[name]
    picture = sample_images.picture(sample_images.bicycle, seed=1).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = np.random.default_rng(7).normal(0, grain, (height, width, 3))
    return sample_images.encoded(
        Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    )


def of_photo(stack: Stack, name: str, rounds: int) -> dict[str, Any]:
    """Measure the CPU milliseconds of each function for one photo, in both designs."""
    content, key = photo(name), f"measured/{name}.jpg"
    bucket = stack.outputs["UploadBucketName"]
    stack.client("s3").put_object(Bucket=bucket, Key=f"uploads/{key}", Body=content)
    with environment(stack):
        project, state = functions_of_project(bucket, f"uploads/{key}")
        baseline = functions_of_baseline_design(stack, bucket, f"uploads/{key}")
        return {
            "bytes": len(content),
            "serialized_bytes": len(base64.b64decode(state["image_data"])),
            "cpu_ms": {step: cpu_ms(call, rounds) for step, call in project.items()},
            "baseline_design_cpu_ms": {step: cpu_ms(call, rounds) for step, call in baseline.items()},
        }


@contextmanager
def environment(stack: Stack) -> Iterator[None]:
    """Set the functions' environment variables for a ``with`` block."""
    before = dict(os.environ)
    os.environ |= {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": stack.endpoint_url,
        "AWS_DEFAULT_REGION": stack.region,
        "ENDPOINT_NAME": ENDPOINT_NAME,
        "IMAGE_SIZE": "224",
        "CLASS_LABELS": "bicycle,motorcycle,other",
        "CONFIDENCE_THRESHOLD": "0.8",
    }
    try:
        with redirect_stdout(io.StringIO()):  # where functions write logs and metrics
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def functions_of_project(bucket: str, key: str) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    serialize, classify, filter_ = (
        importlib.reload(importlib.import_module(f"functions.{name}.app")).lambda_handler
        for name in ("serialize", "classify", "filter")
    )
    context = SimpleNamespace(
        function_name="f", memory_limit_in_mb=512, invoked_function_arn="arn:aws:lambda:x", aws_request_id="1"
    )
    photo = serialize({"bucket": bucket, "key": key}, context)
    request = photo | {"inference_id": "measured"}
    answer = classify(request, context)
    return {
        "serialize": lambda: serialize({"bucket": bucket, "key": key}, context),
        "classify": lambda: classify(request, context),
        "filter": lambda: filter_(answer, context),
    }, photo


def functions_of_baseline_design(stack: Stack, bucket: str, key: str) -> dict[str, Callable[[], Any]]:
    """Return the student project's functions; the raw file goes through /tmp and, in base64, the state."""
    s3 = boto3.client("s3")
    runtime = boto3.client("sagemaker-runtime", config=Config(read_timeout=60))

    def serialize() -> dict[str, Any]:
        with tempfile.NamedTemporaryFile() as file:
            s3.download_file(bucket, key, file.name)
            data = base64.b64encode(Path(file.name).read_bytes()).decode()
        return {"statusCode": 200, "body": {"image_data": data, "s3_bucket": bucket, "s3_key": key}}

    def classify() -> dict[str, Any]:
        image = base64.b64decode(event["body"]["image_data"])
        answer = runtime.invoke_endpoint(EndpointName=ENDPOINT_NAME, ContentType="image/png", Body=image)
        return {"statusCode": 200, "body": {**event["body"], "inferences": answer["Body"].read().decode()}}

    def filter_() -> dict[str, Any]:
        return {"statusCode": 200, "body": json.dumps({**event["body"], "sure": max([0.9]) > 0.93})}

    event = serialize()
    return {"serialize": serialize, "classify": classify, "filter": filter_}


def cpu_ms(call: Callable[[], Any], rounds: int) -> float:
    """Return the median CPU milliseconds of a call."""
    took = []
    for _ in range(rounds + 2):
        began = time.process_time()
        call()
        took.append(1000 * (time.process_time() - began))
    return round(statistics.median(took[2:]), 1)


def init_cpu_ms(code: str) -> float:
    """Return the median CPU milliseconds from the start of Python until the function is ready."""
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return round(statistics.median(took), 1)


def of_endpoint(model: Path, requests: int) -> dict[str, Any]:
    """Measure the CPU time of a start and of a request, and the throughput with several clients.

    For a trained model, which needs more time than the ready-made one of the stack.
    """
    content = serialized()
    with serving(model) as (_, server):
        start = sum(server.cpu_times()[:2])
        runtime = runtime_of(server, CLIENTS)

        def ask(_: int) -> None:
            runtime.invoke_endpoint(EndpointName="measured", ContentType="image/jpeg", Body=content)[
                "Body"
            ].read()

        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(ask, range(20)))
            before, took = sum(server.cpu_times()[:2]), []
            for _ in range(3):
                began = time.monotonic()
                list(clients.map(ask, range(requests)))
                took.append(time.monotonic() - began)
            used = sum(server.cpu_times()[:2]) - before
    return {
        "start_cpu_ms": round(1000 * start),
        "cpu_ms": round(1000 * used / (3 * requests), 1),
        "cores": os.process_cpu_count(),
        "requests_per_second": round(requests / min(took), 1),
        "request_bytes": len(content),
        "answer_bytes": 64,
    }


def serialized() -> bytes:
    """Return the image that the pipeline sends to the endpoint."""
    serialize = importlib.import_module("functions.serialize.photo").serialize
    return base64.b64decode(serialize(io.BytesIO(photo("small")), 224)["image_data"])


def of_stack(stack: Stack) -> dict[str, Any]:
    """Measure the average log, metrics, state and table item of a photo, with the demo's pictures."""
    pictures_sent = {
        f"measured-{n}/{name}": one for n in range(3) for name, one in sample_images.demo_pictures()
    }
    before = logged(stack)
    outcomes = list(demo.classify(stack, pictures_sent))
    assert {outcome.outcome for outcome in outcomes} == {"accepted", "needs_review", "rejected"}
    time.sleep(6)  # until the last logs and captures are written
    lines = {group: size - before.get(group, 0) for group, size in logged(stack).items()}
    namespace = f"SconesUnlimited/{stack.name}"
    now = datetime.now(UTC)
    window = {"from": f"{now - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}", "to": f"{now:%Y-%m-%dT%H:%M:%SZ}"}
    monitored = stack.client("lambda").invoke(
        FunctionName=stack.outputs["MonitorFunctionName"], Payload=json.dumps(window)
    )
    assert "FunctionError" not in monitored, monitored["Payload"].read()
    pages = stack.client("cloudwatch").get_paginator("list_metrics").paginate(Namespace=namespace)
    metrics = [of_monitor(stack, metric) for page in pages for metric in page["Metrics"]]
    histories = list(histories_of(stack))
    items = stack.client("dynamodb").scan(TableName=stack.outputs["ResultsTableName"])["Items"]
    return {
        "function_log_bytes": round(sum(lines.values()) / len(outcomes)),
        "workflow_log_bytes": round(statistics.mean(map(log_bytes, histories))),
        "custom_metrics": metrics.count(False),
        "monitor_metrics": metrics.count(True),
        "item_bytes": round(statistics.mean(len(json.dumps(item)) for item in items)),
    }


def of_monitor(stack: Stack, metric: dict[str, Any]) -> bool:
    """Return whether a metric is published by the monitor function, not by one that processes photos."""
    logs = stack.client("logs").get_paginator("filter_log_events")
    pages = logs.paginate(logGroupName=f"/aws/lambda/{stack.name}-monitor", filterPattern='"_aws"')
    lines = [event["message"] for page in pages for event in page["events"]]
    name, values = metric["MetricName"], [one["Value"] for one in metric["Dimensions"]]
    function = stack.outputs["MonitorFunctionName"]
    return function in values or (name != "ColdStart" and any(f'"Name":"{name}"' in line for line in lines))


def logged(stack: Stack) -> dict[str, int]:
    logs = stack.client("logs")
    groups = [group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]]
    return {
        group: sum(
            len(event["message"].encode()) + HEADERS
            for page in logs.get_paginator("filter_log_events").paginate(logGroupName=group)
            for event in page["events"]
        )
        for group in groups
    }


def histories_of(stack: Stack) -> Iterator[list[dict[str, Any]]]:
    client, arn = stack.client("stepfunctions"), stack.outputs["StateMachineArn"]
    for page in client.get_paginator("list_executions").paginate(stateMachineArn=arn):
        for execution in page["executions"]:
            pages = client.get_paginator("get_execution_history").paginate(
                executionArn=execution["executionArn"]
            )
            yield [event | {"arn": execution["executionArn"]} for page in pages for event in page["events"]]


def log_bytes(history: list[dict[str, Any]]) -> int:
    """Return the bytes of a history as Step Functions logs it: one event per line, without execution data."""
    return sum(len(json.dumps(without_data(event), default=str)) + HEADERS for event in history)


def without_data(value: Any) -> Any:
    if isinstance(value, dict):
        excluded = ("input", "output", "parameters", "assignedVariables")
        return {name: without_data(one) for name, one in value.items() if name not in excluded}
    return value
