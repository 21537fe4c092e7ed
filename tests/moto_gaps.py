"""What SageMaker does and moto 5.2.5 does not, for tests that need it, on moto's own data where it has any.

moto lacks UpdateEndpoint, DeleteModelPackage, DeleteModelPackageGroup, DeleteTrainingJob, InvokeEndpoint with
a photo, prices, and what is in a Studio domain; its UpdateModelPackage forgets the package's metadata; it
knows no newer instance types; it leaves no model.tar.gz after a training job; and nothing in it ever fails. A
request gets here after botocore, and `tests.aws_shapes`, have looked at it.
"""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import botocore.handlers
from botocore.awsrequest import AWSResponse
from botocore.response import StreamingBody
from moto.core import DEFAULT_ACCOUNT_ID
from moto.sagemaker.models import FakeEndpointConfig, SageMakerModelBackend, sagemaker_backends


@dataclass
class Wishes:
    """What is to happen, as tests wish.

    Attributes
    ----------
    refused
        By operation: the code and the message of the error.
    endpoint_failures
        The reasons for which the next endpoints to be created fail.
    training_failure
        The reason for which training jobs fail.
    taken_back
        Whether updates are rolled back.
    leave_model
        Is given the address of what a training job leaves.
    answer
        Answers a photo at an endpoint; ``None`` leaves that to whoever listens.
    in_studio
        What there is in the Studio domain.
    quotas
        SageMaker's quotas by name, as Service Quotas lists them.
    lambda_concurrency
        The account's unreserved concurrent executions.
    denied_actions
        Actions that IAM's policy simulator finds denied.
    """

    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    endpoint_failures: list[str] = field(default_factory=list)
    training_failure: str = ""
    taken_back: bool = False
    leave_model: Callable[[str], None] = lambda _: None
    answer: Callable[[bytes], list[float]] | None = None
    in_studio: dict[str, list[dict[str, str]]] = field(
        default_factory=lambda: {"App": [], "Space": [], "UserProfile": []}
    )

    quotas: dict[str, float] = field(
        default_factory=lambda: (
            {f"{kind} for endpoint usage": 20.0 for kind in ("ml.m5.large", "ml.m5.xlarge", "ml.c7g.large")}
            | {"Maximum total concurrency that can be allocated across all serverless endpoints": 200.0}
        )
    )
    lambda_concurrency: int = 1000
    denied_actions: set[str] = field(default_factory=set)

    def list_service_quotas(self, **_: object) -> object:
        return answered(
            {"Quotas": [{"QuotaName": name, "Value": value} for name, value in self.quotas.items()]}
        )

    def get_account_settings(self, **_: object) -> object:
        return answered({"AccountLimit": {"UnreservedConcurrentExecutions": self.lambda_concurrency}})

    def simulate_principal_policy(self, params: dict[str, Any], **_: object) -> object:
        actions = [value for name, value in params["body"].items() if name.startswith("ActionNames.")]
        return answered(
            {
                "IsTruncated": False,
                "EvaluationResults": [
                    {
                        "EvalActionName": action,
                        "EvalDecision": "implicitDeny" if action in self.denied_actions else "allowed",
                    }
                    for action in actions
                ],
            }
        )

    def refuse(self, model: Any, **_: object) -> object:
        if model.name not in self.refused:
            return None
        code, message = self.refused[model.name]
        return answered({"Error": {"Code": code, "Message": message}}, 400)

    def update_endpoint(self, params: dict[str, Any], **_: object) -> object:
        asked = json.loads(params["body"])
        endpoint = backend().endpoints[asked["EndpointName"]]
        if self.taken_back:
            endpoint.failure_reason = "Alarm(s) breached; traffic returned to the old fleet"
            return answered({"EndpointArn": endpoint.arn})
        config = backend().describe_endpoint_config(asked["EndpointConfigName"])
        endpoint.endpoint_config_name = asked["EndpointConfigName"]
        endpoint.production_variants = endpoint._process_production_variants(config["ProductionVariants"])
        return answered({"EndpointArn": endpoint.arn})

    def update_model_package(self, params: dict[str, Any], **_: object) -> object:
        asked = json.loads(params["body"])
        for package in backend().model_packages.values():
            if package.arn == asked["ModelPackageArn"]:
                package.set_model_approval_status(asked["ModelApprovalStatus"])
        return answered({"ModelPackageArn": asked["ModelPackageArn"]})

    def delete_model_package(self, params: dict[str, Any], **_: object) -> object:
        arn = json.loads(params["body"])["ModelPackageName"]
        packages = backend().model_packages
        for key in [key for key, package in packages.items() if package.arn == arn]:
            del packages[key]
        return answered({})

    def delete_model_package_group(self, params: dict[str, Any], **_: object) -> object:
        backend().model_package_groups.pop(json.loads(params["body"])["ModelPackageGroupName"], None)
        return answered({})

    def delete_training_job(self, params: dict[str, Any], **_: object) -> object:
        backend().training_jobs.pop(json.loads(params["body"])["TrainingJobName"], None)
        return answered({})

    def invoke_endpoint(self, params: dict[str, Any], **_: object) -> object:
        if self.answer is None:
            return None
        body = json.dumps(self.answer(params["body"])).encode()
        return answered({"ContentType": "application/json", "Body": StreamingBody(io.BytesIO(body), None)})

    def get_products(self, **_: object) -> object:
        terms = {
            "OnDemand": {"term": {"priceDimensions": {"rate": {"pricePerUnit": {"USD": "0.1150000000"}}}}}
        }
        return answered({"PriceList": [json.dumps({"terms": terms})]})

    def studio(self, model: Any, params: dict[str, Any], **_: object) -> object:
        """Studio, of which moto has the domain alone: what is in it, as long as it is there."""
        asked = json.loads(params["body"])
        kind = next(
            kind for kind in ("App", "Space", "UserProfile") if model.name.endswith((kind, f"{kind}s"))
        )
        if model.name.startswith("List"):
            return answered({f"{kind}s": self.in_studio[kind]})
        named = [one for one in self.in_studio[kind] if one[f"{kind}Name"] == asked[f"{kind}Name"]]
        for one in named:
            self.in_studio[kind].remove(one)
        return answered({})

    def create_endpoint(self, parsed: dict[str, Any], **_: object) -> None:
        if self.endpoint_failures and "EndpointArn" in parsed:
            endpoint = backend().endpoints[parsed["EndpointArn"].rpartition("/")[2]]
            endpoint.endpoint_status = "Failed"
            endpoint.failure_reason = self.endpoint_failures.pop(0)

    def create_training_job(self, parsed: dict[str, Any], **_: object) -> None:
        if "TrainingJobArn" not in parsed:
            return
        job = backend().training_jobs[parsed["TrainingJobArn"].rpartition("/")[2]]
        if self.training_failure:
            job.training_job_status = job.secondary_status = "Failed"
            job.failure_reason = self.training_failure
        else:
            self.leave_model(job.model_artifacts["S3ModelArtifacts"])


def backend() -> SageMakerModelBackend:
    return sagemaker_backends[DEFAULT_ACCOUNT_ID]["us-east-1"]


def answered(parsed: dict[str, Any], status: int = 200) -> tuple[AWSResponse, dict[str, Any]]:
    return AWSResponse("", status, {}, None), {**parsed, "ResponseMetadata": {"HTTPStatusCode": status}}


@contextmanager
def filled() -> Iterator[Wishes]:
    """Fill the gaps for every client made in a ``with`` block."""
    wishes = Wishes()
    handlers = [
        ("before-call.*.*", wishes.refuse),
        ("before-call.sagemaker.UpdateEndpoint", wishes.update_endpoint),
        ("before-call.sagemaker.UpdateModelPackage", wishes.update_model_package),
        ("before-call.sagemaker.DeleteModelPackage", wishes.delete_model_package),
        ("before-call.sagemaker.DeleteModelPackageGroup", wishes.delete_model_package_group),
        ("before-call.sagemaker.DeleteTrainingJob", wishes.delete_training_job),
        ("before-call.sagemaker-runtime.InvokeEndpoint", wishes.invoke_endpoint),
        *(
            (f"before-call.sagemaker.{verb}", wishes.studio)
            for kind in wishes.in_studio
            for verb in (f"List{kind}s", f"Delete{kind}")
        ),
        ("before-call.pricing.GetProducts", wishes.get_products),
        ("before-call.service-quotas.ListServiceQuotas", wishes.list_service_quotas),
        ("before-call.lambda.GetAccountSettings", wishes.get_account_settings),
        ("before-call.iam.SimulatePrincipalPolicy", wishes.simulate_principal_policy),
        ("after-call.sagemaker.CreateEndpoint", wishes.create_endpoint),
        ("after-call.sagemaker.CreateTrainingJob", wishes.create_training_job),
    ]
    botocore.handlers.BUILTIN_HANDLERS.extend(handlers)
    try:
        with patch.object(FakeEndpointConfig, "validate_instance_type"):
            yield wishes
    finally:
        for handler in handlers:
            botocore.handlers.BUILTIN_HANDLERS.remove(handler)
