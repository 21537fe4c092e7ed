"""The CloudWatch alarms that roll back an endpoint update."""

from typing import Any

from functions.classify.capture import VARIANT
from model.sagemaker.account import Account, tags

MAX_ERROR_PERCENT = 5
"""Share of the requests in a minute that may fail."""
MAX_LATENCY_US = 2_000_000
"""Bound on the 99th percentile of ModelLatency, in microseconds; a photo takes 0.13 s on two cores."""


def alarm_names(endpoint: str) -> list[str]:
    """Name the alarms that roll back an update of an endpoint: on errors, and on latency."""
    return [f"{endpoint}-errors", f"{endpoint}-latency"]


def put_alarms(account: Account, endpoint: str, stage: str) -> list[str]:
    """Create or update the alarms that roll back an update of an endpoint; return their names."""
    errors, latency = alarm_names(endpoint)
    dimensions = [
        {"Name": "EndpointName", "Value": endpoint},
        {"Name": "VariantName", "Value": VARIANT},
    ]
    common: Any = {
        "EvaluationPeriods": 2,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        "Tags": tags(stage),
    }

    def metric(name: str, label: str) -> Any:  # noqa: ANN401  one of CloudWatch's nested structures
        counted = {"Namespace": "AWS/SageMaker", "MetricName": name, "Dimensions": dimensions}
        return {
            "Id": label,
            "MetricStat": {"Metric": counted, "Period": 60, "Stat": "Sum"},
            "ReturnData": False,
        }

    account.cloudwatch.put_metric_alarm(
        AlarmName=errors,
        AlarmDescription="The model fails to answer. Runbook: docs/operations.md#endpoint-alarms",
        Metrics=[
            metric("InvocationModelErrors", "failed"),
            metric("Invocations", "requests"),
            {
                "Id": "share",
                "Expression": "100 * failed / requests",
                "Label": "percent",
                "ReturnData": True,
            },
        ],
        Threshold=MAX_ERROR_PERCENT,
        **common,
    )
    account.cloudwatch.put_metric_alarm(
        AlarmName=latency,
        AlarmDescription="The model answers slowly. Runbook: docs/operations.md#endpoint-alarms",
        Namespace="AWS/SageMaker",
        MetricName="ModelLatency",
        Dimensions=dimensions,  # type: ignore[arg-type]
        ExtendedStatistic="p99",
        Period=60,
        Threshold=MAX_LATENCY_US,
        **common,
    )
    return [errors, latency]


def delete_alarms(account: Account, endpoint: str) -> None:
    """Delete an endpoint's alarms, if it has any."""
    account.cloudwatch.delete_alarms(AlarmNames=alarm_names(endpoint))
