"""Roll an endpoint back to the model that it served before."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.sagemaker import alarms as alarms_module
from model.sagemaker import autoscaling, endpoint
from model.sagemaker.account import Account
from model.sagemaker.endpoint import Endpoint, EndpointError, Served
from model.sagemaker.rollout import is_serverless

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import DescribeEndpointConfigOutputTypeDef


@dataclass(frozen=True)
class RollbackTarget:
    """An endpoint, and the configuration to which it can return.

    Attributes
    ----------
    there
        The endpoint as it is.
    config
        The configuration before.
    served
        The model that this one serves.
    """

    there: Endpoint
    config: "DescribeEndpointConfigOutputTypeDef"
    served: Served


def find_rollback_target(account: Account, stage: str) -> RollbackTarget:
    """Find what a stage's endpoint served before.

    Raises
    ------
    EndpointError
        There is no endpoint in service, or nothing before.
    """
    there = endpoint.find(account, stage)
    if there is None:
        raise EndpointError(f"stage {stage} has no endpoint in {account.region}: nothing to roll back")
    if there.status != "InService":
        raise EndpointError(f"{there.name} is {there.status}: wait until it is in service")
    serving = account.sagemaker.describe_endpoint_config(EndpointConfigName=there.config)
    previous = endpoint.tags_of(account, serving["EndpointConfigArn"]).get("previous")
    if not previous:
        raise EndpointError(f"{there.name} has served no model before this one: nothing to roll back to")
    before = account.sagemaker.describe_endpoint_config(EndpointConfigName=previous)
    served = endpoint.served_by(account, before["ProductionVariants"][0]["ModelName"])
    return RollbackTarget(there, before, served)


def rollback(account: Account, stage: str, back: RollbackTarget, bake_seconds: int) -> None:
    """Bring a stage's endpoint back to the configuration before.

    Raises
    ------
    EndpointError
        SageMaker could not do it.
    """
    there, variant = back.there, back.config["ProductionVariants"][0]
    alarms = alarms_module.put_alarms(account, there.name, stage)
    # the instances have to be of one type while they scale, and scaling waits during an update anyway
    scaling = scaling_of(account, there.name)
    if scaling:
        autoscaling.stop_scaling(account, there.name)
    try:
        how = endpoint.blue_green(variant.get("InitialInstanceCount", 1), alarms, bake_seconds, canary=False)
        previous = back.config["EndpointConfigName"]
        endpoint.update(account, there.name, previous, None if is_serverless(back.config) else how)
    finally:
        if scaling:
            autoscaling.scale_automatically(account, there.name, scaling, stage)


def scaling_of(account: Account, name: str) -> endpoint.Hosting | None:
    """Return the bounds between which an endpoint scales, if it does."""
    targets = account.autoscaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[autoscaling.resource_id(name)]
    )["ScalableTargets"]
    if not targets:
        return None
    return endpoint.Hosting(instances=targets[0]["MinCapacity"], most_instances=targets[0]["MaxCapacity"])
