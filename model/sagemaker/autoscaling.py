"""Scale the number of an endpoint's instances with its traffic (Application Auto Scaling)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from functions.classify.capture import VARIANT
from model.sagemaker.account import Account, ignore_missing, tag_values, tags

UTILIZATION = 0.7
"""Share of an instance's throughput to aim at; the rest absorbs bursts while new instances start."""
WORKERS = 2
"""Photos that an instance with two cores works on at a time."""


def photos_at_once(utilization: float = UTILIZATION) -> float:
    """Return the mean number of photos that an instance holds, queue included.

    Photos arrive independently of each other and take the same time each (M/D/2). The queue is about half as
    long as with random times (M/M/2), which for a utilization r of the workers is 2r^3 / (1 - r^2).
    """
    queue = 2 * utilization**3 / (1 - utilization**2) / 2
    return round(WORKERS * utilization + queue, 1)


PHOTOS_AT_ONCE = photos_at_once()
"""Default target for each instance. An overloaded one holds dozens (model/serving/admission.py)."""

DIMENSION: Literal["sagemaker:variant:DesiredInstanceCount"] = "sagemaker:variant:DesiredInstanceCount"
POLICY = "concurrent-requests-per-model"


@dataclass(frozen=True)
class Scaling:
    """Bounds on the number of instances, and the photos that each should hold on average, queue included."""

    min_instances: int
    max_instances: int
    photos_at_once: float = PHOTOS_AT_ONCE


def resource_id(endpoint: str) -> str:
    """Return the name by which autoscaling knows an endpoint."""
    return f"endpoint/{endpoint}/variant/{VARIANT}"


def find_scaling(account: Account, endpoint: str) -> Scaling | None:
    """Return an endpoint's bounds and target from the service, or ``None`` if it does not scale."""
    targets = account.autoscaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[resource_id(endpoint)]
    )["ScalableTargets"]
    if not targets:
        return None
    policies = account.autoscaling.describe_scaling_policies(
        ServiceNamespace="sagemaker", ResourceId=resource_id(endpoint), PolicyNames=[POLICY]
    )["ScalingPolicies"]
    configs = [policy.get("TargetTrackingScalingPolicyConfiguration", {}) for policy in policies]
    target = next((config["TargetValue"] for config in configs if "TargetValue" in config), PHOTOS_AT_ONCE)
    return Scaling(targets[0]["MinCapacity"], targets[0]["MaxCapacity"], target)


def start_scaling(account: Account, endpoint: str, scaling: Scaling, stage: str) -> None:
    """Let the number of an endpoint's instances follow its traffic."""
    account.autoscaling.register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId=resource_id(endpoint),
        ScalableDimension=DIMENSION,
        MinCapacity=scaling.min_instances,
        MaxCapacity=max(scaling.min_instances, scaling.max_instances),
        Tags=tag_values(tags(stage)),
    )
    account.autoscaling.put_scaling_policy(
        PolicyName=POLICY,
        ServiceNamespace="sagemaker",
        ResourceId=resource_id(endpoint),
        ScalableDimension=DIMENSION,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": scaling.photos_at_once,
            "PredefinedMetricSpecification": {
                # Published every 10 s instead of every minute (Developer Guide, "Define a scaling policy").
                "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
            },
            # Scale out quickly, because photos are waiting, and scale in slowly.
            "ScaleOutCooldown": 30,
            "ScaleInCooldown": 600,
        },
    )


def stop_scaling(account: Account, endpoint: str) -> None:
    """Keep the number of instances; deregistering the target also deletes its policy."""
    ignore_missing(
        lambda: account.autoscaling.deregister_scalable_target(
            ServiceNamespace="sagemaker", ResourceId=resource_id(endpoint), ScalableDimension=DIMENSION
        )
    )


@contextmanager
def paused(account: Account, endpoint: str, scaling: Scaling | None, stage: str) -> Iterator[None]:
    """Stop scaling during an update, when the instances may be of two types, and start it again after."""
    if scaling is None:
        yield
        return
    stop_scaling(account, endpoint)
    try:
        yield
    finally:
        start_scaling(account, endpoint, scaling, stage)
