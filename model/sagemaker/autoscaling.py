"""Scale the number of an endpoint's instances with its traffic."""

from typing import Literal

from functions.classify.capture import VARIANT
from model.sagemaker.account import Account, ignore_missing, tag_values, tags
from model.sagemaker.endpoint import Hosting

DIMENSION: Literal["sagemaker:variant:DesiredInstanceCount"] = "sagemaker:variant:DesiredInstanceCount"

POLICY = "invocations-per-instance"


def resource_id(endpoint: str) -> str:
    """Name an endpoint as autoscaling does."""
    return f"endpoint/{endpoint}/variant/{VARIANT}"


def scale_automatically(account: Account, endpoint: str, hosting: Hosting, stage: str) -> None:
    """Let the number of instances follow the number of photos; of no use to a serverless endpoint."""
    if hosting.serverless:
        return
    account.autoscaling.register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId=resource_id(endpoint),
        ScalableDimension=DIMENSION,
        MinCapacity=hosting.instances,
        MaxCapacity=max(hosting.instances, hosting.most_instances),
        Tags=tag_values(tags(stage)),
    )
    account.autoscaling.put_scaling_policy(
        PolicyName=POLICY,
        ServiceNamespace="sagemaker",
        ResourceId=resource_id(endpoint),
        ScalableDimension=DIMENSION,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": hosting.invocations_per_instance,
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
            },
            # quickly up, since photos wait meanwhile, and slowly down
            "ScaleOutCooldown": 60,
            "ScaleInCooldown": 300,
        },
    )


def stop_scaling(account: Account, endpoint: str) -> None:
    """Leave the number of instances as it is; the policy goes with the target. None is fine."""
    ignore_missing(
        lambda: account.autoscaling.deregister_scalable_target(
            ServiceNamespace="sagemaker", ResourceId=resource_id(endpoint), ScalableDimension=DIMENSION
        )
    )
