"""The state of a stage's endpoint: its model, its load, its alarms and its cost."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from functions.classify.capture import VARIANT
from model.sagemaker import endpoint
from model.sagemaker.account import Account
from model.sagemaker.alarms import alarm_names
from model.sagemaker.endpoint import EndpointError

PRICE_LIST_REGION = "us-east-1"
"""A region that has the Price List API, which lists the prices of all regions."""


@dataclass(frozen=True)
class Status:
    """The state of an endpoint, its load (p99 latency) in the last hour, and the price of its instances.

    `since` and `deployed_at` are the times of its creation and its last update, in ISO 8601, UTC; `on` is
    its hardware, and `previous` the endpoint configuration to which ``scones rollback`` returns.
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
    """Look up the state of a stage's endpoint; an `EndpointError` if the stage has none."""
    current = endpoint.find(account, stage)
    if current is None:
        raise EndpointError(
            f"stage {stage} has no endpoint in {account.region}. Create one with: scones deploy."
        )
    config = account.sagemaker.describe_endpoint_config(EndpointConfigName=current.config)
    variant = config["ProductionVariants"][0]
    model = endpoint.describe_model(account, variant["ModelName"])
    alarms = account.cloudwatch.describe_alarms(AlarmNames=alarm_names(current.name))["MetricAlarms"]
    capture = config.get("DataCaptureConfig", {})
    latency = _last_hour(account, current.name, "ModelLatency", "p99")
    return Status(
        endpoint=current.name,
        state=f"{current.status}: {current.failure}" if current.failure else current.status,
        model=model.name,
        model_package=model.package,
        since=_iso(current.created_at),
        deployed_at=_iso(current.modified_at),
        on=_hardware(variant, current.instances),
        previous=endpoint.tags_of(account, config["EndpointConfigArn"]).get("previous"),
        captures=capture.get("DestinationS3Uri") if capture.get("EnableCapture") else None,
        photos=int(_last_hour(account, current.name, "Invocations", "Sum") or 0),
        failed=int(_last_hour(account, current.name, "InvocationModelErrors", "Sum") or 0),
        latency_ms=None if latency is None else latency / 1000,
        alarms={alarm["AlarmName"]: alarm["StateValue"] for alarm in alarms},
        dollars_an_hour=_price(account, variant, current.instances),
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


def _price(account: Account, variant: Any, instances: int) -> float | None:  # noqa: ANN401  SageMaker's
    """Return the list price of the instances in dollars an hour, ``None`` if it is not known."""
    if "ServerlessConfig" in variant:
        return 0.0
    wanted = {"instanceName": variant["InstanceType"], "regionCode": account.region, "component": "Hosting"}
    filters: Any = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
    pricing = account.session.client("pricing", region_name=PRICE_LIST_REGION)
    try:
        products = pricing.get_products(ServiceCode="AmazonSageMaker", Filters=filters)["PriceList"]
        (price,) = {
            float(dimension["pricePerUnit"]["USD"])
            for product in map(json.loads, products)
            for term in product["terms"]["OnDemand"].values()
            for dimension in term["priceDimensions"].values()
        }
    except (BotoCoreError, ClientError, ValueError, KeyError):
        return None
    return instances * price
