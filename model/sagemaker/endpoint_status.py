"""What a stage's endpoint serves, how it performs, and what it costs."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from functions.classify.capture import VARIANT
from model.sagemaker import alarms as alarms_module
from model.sagemaker import endpoint
from model.sagemaker.account import Account
from model.sagemaker.endpoint import EndpointError

PRICES = "us-east-1"
"""The region whose Price List API knows the prices of all regions of its partition."""


@dataclass(frozen=True)
class Status:
    """How an endpoint does.

    Attributes
    ----------
    endpoint, state
        Its name, and what SageMaker says of it.
    model, model_package
        What it serves.
    since, deployed_at
        When the endpoint was made, and when it was changed last; ISO 8601, UTC.
    on
        The instances, or what a serverless endpoint has.
    previous
        The configuration to which `rollback` returns.
    captures
        Where data is captured.
    photos
        Asked in the last hour.
    failed
        Of those, unanswered.
    latency_ms
        The 99th percentile of how long the model took, in the last hour.
    alarms
        The state of each.
    dollars_an_hour
        By the list; of instances alone, without captures, logs and traffic.
    """

    endpoint: str
    state: str
    model: str
    model_package: str
    since: str
    deployed_at: str
    on: str
    previous: str | None
    captures: str | None
    photos: int
    failed: int
    latency_ms: float | None
    alarms: dict[str, str]
    dollars_an_hour: float | None


def status(account: Account, stage: str) -> Status:
    """Find out how a stage's endpoint does.

    Raises
    ------
    EndpointError
        It has none.
    """
    there = endpoint.find(account, stage)
    if there is None:
        raise EndpointError(f"stage {stage} has no endpoint in {account.region}: scones deploy")
    config = account.sagemaker.describe_endpoint_config(EndpointConfigName=there.config)
    variant = config["ProductionVariants"][0]
    serves = endpoint.served_by(account, variant["ModelName"])
    alarms = account.cloudwatch.describe_alarms(AlarmNames=alarms_module.alarm_names(there.name))
    captured = config.get("DataCaptureConfig", {})
    latency = _last_hour(account, there.name, "ModelLatency", "p99")
    return Status(
        endpoint=there.name,
        state=there.status if not there.failure else f"{there.status}: {there.failure}",
        model=serves.name,
        model_package=serves.package,
        since=_iso(there.created_at),
        deployed_at=_iso(there.modified_at),
        on=_hardware(variant, there.instances),
        previous=endpoint.tags_of(account, config["EndpointConfigArn"]).get("previous"),
        captures=captured.get("DestinationS3Uri") if captured.get("EnableCapture") else None,
        photos=int(_last_hour(account, there.name, "Invocations", "Sum") or 0),
        failed=int(_last_hour(account, there.name, "InvocationModelErrors", "Sum") or 0),
        latency_ms=None if latency is None else latency / 1000,
        alarms={alarm["AlarmName"]: alarm["StateValue"] for alarm in alarms["MetricAlarms"]},
        dollars_an_hour=_price(account, variant, there.instances),
    )


def _iso(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _hardware(variant: Any, instances: int) -> str:  # noqa: ANN401  one of SageMaker's nested structures
    if "ServerlessConfig" in variant:
        serverless = variant["ServerlessConfig"]
        return f"serverless, {serverless['MemorySizeInMB']} MB, {serverless['MaxConcurrency']} at once"
    return f"{instances} x {variant['InstanceType']}"


def _last_hour(account: Account, name: str, metric: str, statistic: str) -> float | None:
    now = datetime.now(UTC)
    stat = {"Statistics": [statistic]} if statistic == "Sum" else {"ExtendedStatistics": [statistic]}
    points = account.cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[{"Name": "EndpointName", "Value": name}, {"Name": "VariantName", "Value": VARIANT}],
        StartTime=now - timedelta(hours=1),
        EndTime=now,
        Period=3600,
        **stat,  # type: ignore[arg-type]
    )["Datapoints"]
    if statistic == "Sum":
        return sum(point["Sum"] for point in points)
    return max((point["ExtendedStatistics"][statistic] for point in points), default=None)


def _price(account: Account, variant: Any, instances: int) -> float | None:  # noqa: ANN401  as above
    """Return what the instances cost an hour by AWS's price list, ``None`` if that cannot be found out."""
    if "ServerlessConfig" in variant:
        return 0.0
    wanted = {"instanceName": variant["InstanceType"], "regionCode": account.region, "component": "Hosting"}
    try:
        listed = account.session.client("pricing", region_name=PRICES).get_products(
            ServiceCode="AmazonSageMaker",
            Filters=[{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in wanted.items()],
        )["PriceList"]
        (each,) = {
            float(dimension["pricePerUnit"]["USD"])
            for product in map(json.loads, listed)
            for term in product["terms"]["OnDemand"].values()
            for dimension in term["priceDimensions"].values()
        }
    except (BotoCoreError, ClientError, ValueError, KeyError):
        return None
    return instances * each
