"""What the emulator lacks of CloudWatch: metrics in a function's log, and those that AWS's services publish.

It publishes Lambda's own. Here are the embedded metric format, and the metrics of Step Functions, SQS and
SageMaker that the stack's alarms and dashboard read.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ministack.services import cloudwatch, cloudwatch_logs, sqs, stepfunctions

STATES = {
    "SUCCEEDED": "ExecutionsSucceeded",
    "FAILED": "ExecutionsFailed",
    "TIMED_OUT": "ExecutionsTimedOut",
    "ABORTED": "ExecutionsAborted",
}


def extracting(append: Callable[..., None]) -> Callable[..., None]:
    """Make log events that hold metrics publish them, as CloudWatch Logs does.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """

    def append_and_extract(stream: Any, events: Sequence[Mapping[str, Any]]) -> None:  # noqa: ANN401  ministack's
        append(stream, events)
        for event in events:
            with contextlib.suppress(ValueError):
                if "_aws" in event["message"]:
                    extract(json.loads(event["message"]))

    return append_and_extract


def extract(log: Mapping[str, Any]) -> None:
    """Publish the metrics that a line of a log holds."""
    at = log["_aws"]["Timestamp"] / 1000
    for directive in log["_aws"]["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            dimensions = {name: str(log[name]) for name in names}
            for metric in directive["Metrics"]:
                value = log[metric["Name"]]
                for one in value if isinstance(value, list) else [value]:
                    publish(
                        directive["Namespace"],
                        metric["Name"],
                        one,
                        metric.get("Unit", "None"),
                        of=dimensions,
                        at=at,
                    )


def publish(
    namespace: str, name: str, value: float, unit: str, *, of: dict[str, str], at: float | None = None
) -> None:
    """Publish a value of a metric, at a time in seconds since 1970 or now."""
    cloudwatch._store_datum(  # noqa: SLF001  record_metric, which is public, takes no time
        namespace, name, of, at or time.time(), unit, value, None, None, None
    )


def telling(run: Callable[[str], None]) -> Callable[[str], None]:
    """Make executions tell how they ended and how long they took, in milliseconds, as Step Functions does."""

    def run_and_tell(arn: str) -> None:
        run(arn)
        execution = stepfunctions._executions.get(arn)  # noqa: SLF001  there is no other way to see one
        if execution and (name := STATES.get(execution["status"])):
            machine = {"StateMachineArn": execution["stateMachineArn"]}
            publish("AWS/States", name, 1, "Count", of=machine)
            publish("AWS/States", "ExecutionTime", milliseconds(execution), "Milliseconds", of=machine)

    return run_and_tell


def milliseconds(execution: Mapping[str, Any]) -> float:
    """Return how long an execution took."""
    start, stop = (datetime.fromisoformat(execution[name]) for name in ("startDate", "stopDate"))
    return 1000 * (stop - start).total_seconds()


def of_invocation(endpoint: str, status: int, seconds: float) -> None:
    """Publish what SageMaker does about one invocation of an endpoint; its latency is in microseconds."""
    variant = {"EndpointName": endpoint, "VariantName": "AllTraffic"}
    publish("AWS/SageMaker", "Invocations", 1, "None", of=variant)
    publish("AWS/SageMaker", "Invocation4XXErrors", float(400 <= status < 500), "None", of=variant)  # noqa: PLR2004
    publish("AWS/SageMaker", "Invocation5XXErrors", float(status >= 500), "None", of=variant)  # noqa: PLR2004
    publish("AWS/SageMaker", "ModelLatency", 1e6 * seconds, "Microseconds", of=variant)


def of_queues() -> None:
    """Publish how many messages wait in each queue, which SQS does every minute."""
    for url, queue in sqs._queues.items():  # noqa: SLF001  as above
        sqs._refresh_counts(queue)  # noqa: SLF001
        waiting = float(queue["attributes"]["ApproximateNumberOfMessages"])
        name = {"QueueName": url.rpartition("/")[2]}
        publish("AWS/SQS", "ApproximateNumberOfMessagesVisible", waiting, "Count", of=name)


def install() -> None:
    """Put all of it in the emulator's place; there are no hooks for it."""
    cloudwatch_logs._append_log_events = extracting(cloudwatch_logs._append_log_events)  # noqa: SLF001
    stepfunctions._run_execution = telling(stepfunctions._run_execution)  # noqa: SLF001
