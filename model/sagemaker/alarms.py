"""The CloudWatch alarms of an endpoint: for people, and for SageMaker, to roll back an update.

An endpoint's metrics have the dimensions EndpointName and VariantName; with EndpointConfigName as well, they
are those of one fleet. SageMaker aborts an update if the old fleet sets off one of its alarms, so an update
watches the new configuration only (Developer Guide, "Auto-Rollback Configuration and Monitoring").
"""

from typing import Any

from functions.classify.capture import VARIANT
from model.sagemaker.account import Account, ignore_missing, tags

MAX_ERROR_PERCENT = 5
"""Share of the requests in a minute that may fail."""
MAX_LATENCY_US = 2_000_000
"""Bound on the 99th percentile of ModelLatency, in microseconds; a photo takes 0.13 s on two cores."""


def alarm_names(name: str) -> list[str]:
    """Name the alarms on errors and on latency of an endpoint, or of an endpoint configuration."""
    return [f"{name}-errors", f"{name}-latency"]


def dimensions(endpoint: str, config: str | None = None) -> Any:  # noqa: ANN401  each service has its own type
    """Return the dimensions of an endpoint's metrics, or those of the fleet with a configuration."""
    values = {"EndpointName": endpoint, "VariantName": VARIANT}
    if config:
        values["EndpointConfigName"] = config
    return [{"Name": name, "Value": value} for name, value in values.items()]


def put_alarms(account: Account, endpoint: str, stage: str, config: str | None = None) -> list[str]:
    """Create or update the alarms of an endpoint, or of its fleet with `config`; return their names."""
    errors, latency = alarm_names(config or endpoint)
    fleet: Any = {"Namespace": "AWS/SageMaker", "Dimensions": dimensions(endpoint, config)}
    common: Any = {
        "EvaluationPeriods": 2,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        "Tags": tags(stage),
    }

    def metric(name: str, label: str) -> Any:  # noqa: ANN401  one of CloudWatch's nested structures
        counted = {"Metric": fleet | {"MetricName": name}, "Period": 60, "Stat": "Sum"}
        return {"Id": label, "MetricStat": counted, "ReturnData": False}

    share: Any = {
        "Id": "share",
        "Expression": "100 * (failed - refused) / requests",
        "Label": "percent",
        "ReturnData": True,
    }
    account.cloudwatch.put_metric_alarm(
        AlarmName=errors,
        AlarmDescription="The model fails to answer. Runbook: docs/operations.md#endpoint-alarms",
        Metrics=[
            metric("InvocationModelErrors", "failed"),
            # A busy instance refuses with 429, an unreadable photo gets 400: neither is the model's fault.
            metric("Invocation4XXErrors", "refused"),
            metric("Invocations", "requests"),
            share,
        ],
        Threshold=MAX_ERROR_PERCENT,
        **common,
    )
    account.cloudwatch.put_metric_alarm(
        AlarmName=latency,
        AlarmDescription="The model answers slowly. Runbook: docs/operations.md#endpoint-alarms",
        MetricName="ModelLatency",
        ExtendedStatistic="p99",
        Period=60,
        Threshold=MAX_LATENCY_US,
        **fleet,
        **common,
    )
    return [errors, latency]


def delete_alarms(account: Account, name: str) -> None:
    """Delete the alarms of an endpoint or of an endpoint configuration, if it has any."""
    ignore_missing(lambda: account.cloudwatch.delete_alarms(AlarmNames=alarm_names(name)))
