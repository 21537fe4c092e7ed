"""CloudWatch metrics that the emulator lacks, for the stack's alarms and dashboard.

The emulator publishes Lambda's metrics. This module adds metrics in the embedded metric format, and those of
Step Functions, SQS and SageMaker.
"""

# ruff: noqa: ANN401, SLF001  ministack has no types, and no hooks but its private functions

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ministack.services import cloudwatch, cloudwatch_logs, sqs, stepfunctions

from local.patches import patch

MILLISECOND = timedelta(milliseconds=1)
EXECUTION_METRICS = {
    "SUCCEEDED": "ExecutionsSucceeded",
    "FAILED": "ExecutionsFailed",
    "TIMED_OUT": "ExecutionsTimedOut",
    "ABORTED": "ExecutionsAborted",
}


@patch(cloudwatch_logs, "_append_log_events")
def publish_embedded_metrics(
    append: Callable[..., None], stream: Any, events: Sequence[Mapping[str, Any]]
) -> None:
    """Publish the metrics in log events, as CloudWatch Logs does.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    append(stream, events)
    for event in events:
        with contextlib.suppress(ValueError):
            if "_aws" in event["message"]:
                _publish_log_line(json.loads(event["message"]))


def _publish_log_line(line: Mapping[str, Any]) -> None:
    at = line["_aws"]["Timestamp"] / 1000
    for directive in line["_aws"]["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            dimensions = {name: str(line[name]) for name in names}
            for metric in directive["Metrics"]:
                name, unit = metric["Name"], metric.get("Unit", "None")
                values = line[name] if isinstance(line[name], list) else [line[name]]
                for value in values:
                    publish(directive["Namespace"], name, value, unit, dimensions, at)


def publish(  # noqa: PLR0917  in the order of CloudWatch's own fields
    namespace: str, name: str, value: float, unit: str, dimensions: dict[str, str], at: float | None = None
) -> None:
    """Publish a metric's value at a time in seconds since 1970, by default now."""
    cloudwatch._store_datum(namespace, name, dimensions, at or time.time(), unit, value, None, None, None)


@patch(stepfunctions, "_run_execution")
def publish_executions(run: Callable[[str], None], arn: str) -> None:
    """Publish each execution's status and duration in milliseconds, as Step Functions does."""
    run(arn)
    execution = stepfunctions._executions.get(arn)
    if execution and (name := EXECUTION_METRICS.get(execution["status"])):
        machine = {"StateMachineArn": execution["stateMachineArn"]}
        start, stop = (datetime.fromisoformat(execution[date]) for date in ("startDate", "stopDate"))
        publish("AWS/States", name, 1, "Count", machine)
        publish("AWS/States", "ExecutionTime", (stop - start) / MILLISECOND, "Milliseconds", machine)


def publish_invocation(endpoint: str, status: int, seconds: float) -> None:
    """Publish SageMaker's metrics for one invocation of an endpoint; its latency is in microseconds."""
    variant = {"EndpointName": endpoint, "VariantName": "AllTraffic"}
    publish("AWS/SageMaker", "Invocations", 1, "None", variant)
    for family in (4, 5):
        publish(
            "AWS/SageMaker", f"Invocation{family}XXErrors", float(status // 100 == family), "None", variant
        )
    publish("AWS/SageMaker", "ModelLatency", 1e6 * seconds, "Microseconds", variant)


def publish_queue_depths() -> None:
    """Publish the number of visible messages of each queue, which SQS does every minute."""
    for url, queue in sqs._queues.items():
        sqs._refresh_counts(queue)
        visible = float(queue["attributes"]["ApproximateNumberOfMessages"])
        name = {"QueueName": url.rpartition("/")[2]}
        publish("AWS/SQS", "ApproximateNumberOfMessagesVisible", visible, "Count", name)
