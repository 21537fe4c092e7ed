"""The CloudWatch alarms that roll back an endpoint update."""

from typing import Any

from functions.classify.capture import VARIANT
from model.sagemaker.account import Account, tags

MOST_ERRORS_PERCENT = 5
"""Of the model's answers in a minute: beyond it an update is taken back."""

MOST_LATENCY = 2_000_000
"""Microseconds, in which SageMaker gives ModelLatency: a photo takes 0.13 s on two cores."""


def alarm_names(endpoint: str) -> list[str]:
    """Name the alarms by which an update is taken back."""
    return [f"{endpoint}-errors", f"{endpoint}-latency"]


def put_alarms(account: Account, endpoint: str, stage: str) -> list[str]:
    """Make the alarms by which an update is taken back; return their names."""
    errors, latency = alarm_names(endpoint)
    dimensions = [
        {"Name": "EndpointName", "Value": endpoint},
        {"Name": "VariantName", "Value": VARIANT},
    ]

    def metric(name: str, label: str) -> Any:  # noqa: ANN401  one of CloudWatch's nested structures
        counted = {"Namespace": "AWS/SageMaker", "MetricName": name, "Dimensions": dimensions}
        return {
            "Id": label,
            "MetricStat": {"Metric": counted, "Period": 60, "Stat": "Sum"},
            "ReturnData": False,
        }

    account.cloudwatch.put_metric_alarm(
        AlarmName=errors,
        AlarmDescription="The model does not answer. Runbook: docs/operations.md#endpoint-alarms",
        Metrics=[
            metric("InvocationModelErrors", "failed"),
            metric("Invocations", "asked"),
            {"Id": "share", "Expression": "100 * failed / asked", "Label": "percent", "ReturnData": True},
        ],
        EvaluationPeriods=2,
        Threshold=MOST_ERRORS_PERCENT,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
        Tags=tags(stage),
    )
    account.cloudwatch.put_metric_alarm(
        AlarmName=latency,
        AlarmDescription="The model answers slowly. Runbook: docs/operations.md#endpoint-alarms",
        Namespace="AWS/SageMaker",
        MetricName="ModelLatency",
        Dimensions=dimensions,  # type: ignore[arg-type]
        ExtendedStatistic="p99",
        Period=60,
        EvaluationPeriods=2,
        Threshold=MOST_LATENCY,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
        Tags=tags(stage),
    )
    return [errors, latency]


def delete_alarms(account: Account, endpoint: str) -> None:
    """Delete the alarms of an endpoint; none is fine."""
    account.cloudwatch.delete_alarms(AlarmNames=alarm_names(endpoint))
