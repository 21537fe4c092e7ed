"""Roll an endpoint back to the model that it served before the last update."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from model.sagemaker import alarms, autoscaling, endpoint
from model.sagemaker.account import Account
from model.sagemaker.deployment_file import Deployment, DeploymentError
from model.sagemaker.endpoint import Endpoint, EndpointError, ServedModel
from model.sagemaker.rollout import blue_green, is_serverless

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import DescribeEndpointConfigOutputTypeDef


@dataclass(frozen=True)
class RollbackTarget:
    """An endpoint, its previous configuration, and the model that the previous configuration serves."""

    endpoint: Endpoint
    config: "DescribeEndpointConfigOutputTypeDef"
    model: ServedModel


def find_rollback_target(account: Account, stage: str) -> RollbackTarget:
    """Find what a stage's endpoint served before the last update; an `EndpointError` if there was none."""
    current = endpoint.find(account, stage)
    if current is None:
        raise EndpointError(f"stage {stage} has no endpoint in {account.region}: nothing to roll back")
    if current.status != "InService":
        raise EndpointError(f"{current.name} is {current.status}: wait until it is in service")
    config = account.sagemaker.describe_endpoint_config(EndpointConfigName=current.config)
    previous = endpoint.tags_of(account, config["EndpointConfigArn"]).get("previous")
    if not previous:
        raise EndpointError(f"{current.name} has no previous model: nothing to roll back to")
    previous_config = account.sagemaker.describe_endpoint_config(EndpointConfigName=previous)
    model = endpoint.describe_model(account, previous_config["ProductionVariants"][0]["ModelName"])
    return RollbackTarget(current, previous_config, model)


def roll_back(account: Account, stage: str, target: RollbackTarget, bake_seconds: int) -> None:
    """Return a stage's endpoint to its previous configuration, all at once.

    Raises `EndpointError` if SageMaker rejected the update, or rolled it back.
    """
    name, config = target.endpoint.name, target.config
    alarm_names = alarms.put_alarms(account, name, stage)
    instances = config["ProductionVariants"][0].get("InitialInstanceCount", 1)
    policy = blue_green(instances, alarm_names, bake_seconds, canary=False)
    with autoscaling.paused(account, name, autoscaling.find_scaling(account, name), stage):
        endpoint.update(
            account, name, config["EndpointConfigName"], None if is_serverless(config) else policy
        )


def update_deployment_file(stage: str, target: RollbackTarget) -> None:
    """Write the model that an endpoint was rolled back to into ``deployment.json``, if it is about it."""
    try:
        deployment = Deployment.read()
    except DeploymentError:
        return
    if (deployment.stage, deployment.endpoint_name) != (stage, target.endpoint.name):
        return
    replace(
        deployment,
        model=target.model.name,
        model_package=target.model.package,
        class_labels=target.model.labels,
        confidence_threshold=target.model.threshold,
        image_size=target.model.input_size,
    ).write()
