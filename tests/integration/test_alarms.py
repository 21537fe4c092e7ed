"""Each alarm's condition is made true, and the metric that it watches crosses its threshold.

Executions fail, functions fail and are throttled, the endpoint is down, and photos drift. Only metrics whose
conditions would take minutes are published by the test.
"""

import contextlib
import itertools
import json
import operator
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from functions.monitor.capture_analysis.window import Window
from local import processes
from local.stack import CAPTURE_BUCKET, ENDPOINT_NAME, Stack, parameters
from model import storage
from model.network.classifier import Classifier
from model.training import baseline
from pipeline import sample_images
from pipeline.monitoring import analysis
from tests import captures
from tests.conftest import ROOT
from tests.waiting import PATIENCE, eventually

FUNCTIONS = ("Serialize", "Classify", "Filter", "Monitor")
OPERATORS = {"GreaterThanThreshold": operator.gt, "LessThanThreshold": operator.lt}
LIKE_TODAY = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)

type Alarm = dict[str, Any]


@pytest.fixture(scope="module")
def alarms(stack) -> dict[str, Alarm]:
    """The deployed alarms by their names in the template."""
    pages = stack.client("cloudwatch").get_paginator("describe_alarms").paginate()
    found = [alarm for page in pages for alarm in page["MetricAlarms"]]
    return {re.search(r"-(\w+Alarm)-", alarm["AlarmName"])[1]: alarm for alarm in found}


def beyond(stack: Stack, alarm: Alarm) -> bool:
    """Whether the alarm's metric in CloudWatch has crossed its threshold."""
    statistic = (
        {"ExtendedStatistics": [alarm["ExtendedStatistic"]]}
        if "ExtendedStatistic" in alarm
        else {"Statistics": [alarm["Statistic"]]}
    )
    now = datetime.now(UTC)
    points = stack.client("cloudwatch").get_metric_statistics(
        Namespace=alarm["Namespace"],
        MetricName=alarm["MetricName"],
        Dimensions=alarm["Dimensions"],
        Period=alarm["Period"],
        StartTime=now - timedelta(hours=6),
        EndTime=now + timedelta(minutes=5),
        **statistic,
    )["Datapoints"]
    (name,) = next(iter(statistic.values()))
    values = [
        point["ExtendedStatistics"][name] if "ExtendedStatistic" in alarm else point[name] for point in points
    ]
    return any(OPERATORS[alarm["ComparisonOperator"]](value, alarm["Threshold"]) for value in values)


def fail_an_execution(stack: Stack, alarm: Alarm) -> None:
    step_functions = stack.client("stepfunctions")
    event = {
        "id": "1",
        "detail": {
            "bucket": {"name": "nobodys"},
            "object": {"key": "uploads/x", "size": 1, "etag": "e", "sequencer": "1"},
        },
    }
    arn = step_functions.start_execution(
        stateMachineArn=stack.outputs["StateMachineArn"], input=json.dumps(event)
    )["executionArn"]
    eventually(lambda: step_functions.describe_execution(executionArn=arn)["status"] != "RUNNING")


def fill_the_review_queue(stack: Stack, alarm: Alarm) -> None:
    sqs, url = stack.client("sqs"), stack.outputs["ReviewQueueUrl"]
    for batch in itertools.batched(range(int(alarm["Threshold"]) + 1), 10, strict=False):
        sqs.send_message_batch(QueueUrl=url, Entries=[{"Id": str(n), "MessageBody": "{}"} for n in batch])


def fail_the_function(name: str) -> Callable[[Stack, Alarm], None]:
    def make_it_fail(stack: Stack, alarm: Alarm) -> None:
        answer = stack.client("lambda").invoke(
            FunctionName=stack.outputs[f"{name}FunctionName"],
            Payload=json.dumps({"from": "never", "image_data": ""}),
        )
        assert "FunctionError" in answer

    return make_it_fail


def throttle_the_function(name: str) -> Callable[[Stack, Alarm], None]:
    def throttle(stack: Stack, alarm: Alarm) -> None:
        function = stack.outputs[f"{name}FunctionName"]
        impatient = boto3.client(
            "lambda", endpoint_url=stack.endpoint_url, config=Config(retries={"total_max_attempts": 1})
        )
        impatient.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
        try:
            with pytest.raises(ClientError, match="TooManyRequests"):
                impatient.invoke(FunctionName=function, Payload="{}")
        finally:
            impatient.delete_function_concurrency(FunctionName=function)

    return throttle


def stop_the_endpoint(stack: Stack, alarm: Alarm) -> None:
    (entry,) = [one for one in processes.registered(stack._registry) if one["name"] == "the endpoint"]
    psutil.Process(entry["pid"]).terminate()
    psutil.Process(entry["pid"]).wait(PATIENCE)
    runtime = boto3.client(
        "sagemaker-runtime", endpoint_url=stack.endpoint_url, config=Config(retries={"total_max_attempts": 1})
    )
    try:
        for _ in range(int(alarm["Threshold"]) + 1):
            with pytest.raises(ClientError):
                runtime.invoke_endpoint(EndpointName=ENDPOINT_NAME, ContentType="image/jpeg", Body=b"photo")
    finally:
        processes.start([stack._endpoint()], stack._registry)


def wait_for_the_endpoint(stack: Stack, alarm: Alarm) -> None:
    """A photo comes back after a long time, and the endpoint is down."""
    (entry,) = [one for one in processes.registered(stack._registry) if one["name"] == "the endpoint"]
    psutil.Process(entry["pid"]).terminate()
    psutil.Process(entry["pid"]).wait(10)
    event = {"image_data": "", "content_type": "image/jpeg", "inference_id": "1"}
    try:
        answer = stack.client("lambda").invoke(
            FunctionName=stack.outputs["ClassifyFunctionName"],
            Payload=json.dumps(event | {"waited": alarm["Threshold"] + 1}),
        )
    finally:
        processes.start([stack._endpoint()], stack._registry)
    assert json.load(answer["Payload"])["errorType"] == "EndpointUnavailableError"


def publish(stack: Stack, alarm: Alarm) -> None:
    """Publish a value beyond the threshold, under AWS's name, in place of a condition that takes minutes."""
    stack.client("cloudwatch").put_metric_data(
        Namespace=alarm["Namespace"],
        MetricData=[
            {
                "MetricName": alarm["MetricName"],
                "Dimensions": alarm["Dimensions"],
                "Value": alarm["Threshold"] + 1,
            }
        ]
        * 20,
    )


def go_wrong(stack: Stack, alarm: Alarm) -> None:
    """Capture dark photos with low confidences three hours ago, and compare them with a baseline."""
    if beyond(stack, alarm):
        return
    day, chance = captures.photos(30), random.Random(1)
    known = stack.home / baseline.FILE
    captures.write(stack.home / "good", captures.records(300, day, chance), chance)
    window = Window(0.8, captures.LABELS, sample_size=300)
    report = analysis.analyse(str(stack.home / "good"), analysis.TimeWindow(), window)
    storage.write_file(known, analysis.make_baseline(report).text().encode())
    stack.deploy(parameters(Classifier.load().description) | stack.place_baseline(known))

    capture_unsure_answers(stack)
    summary = watch(stack)

    assert "brightness" in summary["drifted"]
    assert summary["estimated_accuracy"] is None


def become_unsure(stack: Stack, alarm: Alarm) -> None:
    """Capture the same without a baseline, where nothing tells that the confidence is not to be relied on."""
    stack.deploy(parameters(Classifier.load().description) | {"BaselineUri": '""'})

    capture_unsure_answers(stack)

    assert watch(stack)["estimated_accuracy"] < 0.6


def capture_unsure_answers(stack: Stack) -> None:
    """Capture a hundred answers to dark photos, with low confidences."""
    chance = random.Random(1)
    dark = [
        sample_images.encoded(
            sample_images.picture(sample_images.bicycle, seed).point(lambda gray: gray * 0.3)
        )
        for seed in range(9)
    ]
    unsure = captures.records(100, dark, chance, LIKE_TODAY, hours=1, answers=lambda _: [0.55, 0.4, 0.05])
    captures.write(stack.home / "bad", unsure, chance, endpoint=ENDPOINT_NAME)
    for file in (stack.home / "bad").rglob("*.jsonl"):
        key = f"captures/{file.relative_to(stack.home / 'bad').as_posix()}"
        stack.client("s3").upload_file(str(file), CAPTURE_BUCKET, key)


def watch(stack: Stack) -> dict[str, Any]:
    """Run the monitor function on the hour with drift."""
    hour = {"from": LIKE_TODAY.isoformat(), "to": (LIKE_TODAY + timedelta(hours=1)).isoformat()}
    answer = stack.client("lambda").invoke(
        FunctionName=stack.outputs["MonitorFunctionName"], Payload=json.dumps(hour)
    )
    summary: dict[str, Any] = json.loads(answer["Payload"].read())
    return summary


CONDITIONS: dict[str, Callable[[Stack, Alarm], None]] = {
    "ExecutionsFailedAlarm": fail_an_execution,
    "ExecutionsTimedOutAlarm": publish,  # an hour
    "FailedQueueAlarm": fail_an_execution,
    "ReviewQueueAlarm": fill_the_review_queue,
    **{f"{name}ErrorsAlarm": fail_the_function(name) for name in FUNCTIONS},
    **{f"{name}ThrottlesAlarm": throttle_the_function(name) for name in FUNCTIONS},
    **{f"{name}DurationAlarm": publish for name in FUNCTIONS},  # up to four minutes
    "EndpointErrorsAlarm": stop_the_endpoint,
    "EndpointLatencyAlarm": publish,
    "PhotosWaitingAlarm": wait_for_the_endpoint,
    "DriftAlarm": go_wrong,
    "AccuracyAlarm": become_unsure,
    "UnderThresholdAlarm": go_wrong,
}


@pytest.fixture(scope="module", autouse=True)
def queues_as_they_were(stack):
    """Remove this test's messages from the queues."""
    yield
    for name in ("ReviewQueueUrl", "FailedQueueUrl"):
        with contextlib.suppress(ClientError):
            stack.client("sqs").purge_queue(QueueUrl=stack.outputs[name])


def test_every_alarm_is_tested_here(alarms):
    assert alarms.keys() == CONDITIONS.keys()


@pytest.mark.parametrize("name", CONDITIONS)
def test_an_alarms_condition_moves_its_metric_beyond_the_threshold(stack, alarms, name):
    CONDITIONS[name](stack, alarms[name])

    assert beyond(stack, alarms[name])


@pytest.mark.parametrize(
    "name", [name for name, make in CONDITIONS.items() if make is publish and "TimedOut" not in name]
)
def test_metrics_that_tests_publish_exist_under_the_same_name_in_the_emulator(stack, alarms, name):
    """This shows that the alarm's dimensions are those of a real metric."""
    if "Duration" in name:
        fail_the_function(name.removesuffix("DurationAlarm"))(stack, {})
    else:
        photo = sample_images.encoded(sample_images.picture(sample_images.bicycle, 1))
        stack.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=ENDPOINT_NAME, ContentType="image/jpeg", Body=photo
        )

    now = datetime.now(UTC)
    points = stack.client("cloudwatch").get_metric_statistics(
        Namespace=alarms[name]["Namespace"],
        MetricName=alarms[name]["MetricName"],
        Dimensions=alarms[name]["Dimensions"],
        Period=60,
        StartTime=now - timedelta(minutes=10),
        EndTime=now + timedelta(minutes=1),
        Statistics=["Minimum"],
    )["Datapoints"]
    assert 0 < min(point["Minimum"] for point in points) < alarms[name]["Threshold"]


def test_every_alarm_notifies_the_topic_and_has_a_runbook_that_starts_with_what_to_do(stack, alarms):
    runbook = (ROOT / "docs" / "operations.md").read_text()
    entries = dict(entry.split("\n", 1) for entry in runbook.split("\n## ")[1:])

    for name, alarm in alarms.items():
        assert len(alarm["AlarmActions"]) == 1, name
        assert alarm["AlarmDescription"].endswith(f"Runbook: docs/operations.md#{name.lower()}")
        (heading,) = [heading for heading in entries if name in heading.split(", ")]
        anchor = f'<a id="{name.lower()}"></a>'
        assert heading == name or anchor in entries[heading], name
        first = next(line for line in entries[heading].splitlines() if line and not line.startswith("<a"))
        assert first.startswith("1. "), name


def test_the_dashboard_shows_every_alarm(stack, alarms):
    body = stack.client("cloudwatch").get_dashboard(DashboardName=stack.outputs["DashboardName"])[
        "DashboardBody"
    ]

    (widget,) = [one for one in json.loads(body)["widgets"] if one["type"] == "alarm"]
    assert sorted(widget["properties"]["alarms"]) == sorted(alarm["AlarmArn"] for alarm in alarms.values())


def test_the_schedule_invokes_the_monitor_function_every_hour(stack):
    events, function = stack.client("events"), stack.outputs["MonitorFunctionName"]
    (rule,) = [rule for rule in events.list_rules()["Rules"] if rule.get("ScheduleExpression")]

    assert rule["ScheduleExpression"] == "cron(15 * * * ? *)"
    (target,) = events.list_targets_by_rule(Rule=rule["Name"])["Targets"]
    assert target["Arn"].endswith(f":{function}")


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:ListBucket"])
def test_without_one_of_its_permissions_the_monitor_function_fails(stack, alarms, action):
    go_wrong(stack, alarms["DriftAlarm"])
    iam, function = stack.client("iam"), stack.outputs["MonitorFunctionName"]
    role = (
        stack.client("lambda").get_function(FunctionName=function)["Configuration"]["Role"].rpartition("/")[2]
    )
    document = iam.get_role_policy(RoleName=role, PolicyName="monitor")["PolicyDocument"]
    poorer = json.loads(json.dumps(document).replace(f'"{action}"', '"sts:GetCallerIdentity"'))
    assert poorer != document

    iam.put_role_policy(RoleName=role, PolicyName="monitor", PolicyDocument=json.dumps(poorer))
    try:
        summary = watch(stack)
    finally:
        iam.put_role_policy(RoleName=role, PolicyName="monitor", PolicyDocument=json.dumps(document))

    assert "AccessDenied" in summary["errorMessage"] or "Forbidden" in summary["errorMessage"]
