"""Extend moto 5.2.5 with the operations that it lacks, and with failures on demand.

moto lacks UpdateEndpoint, DeleteModelPackage, DeleteModelPackageGroup, DeleteTrainingJob, InvokeEndpoint
with a photo, prices, quotas, the policy simulator, and the content of a Studio domain. Its UpdateModelPackage
loses the package's metadata; it does not know newer instance types; its training jobs write no model.tar.gz;
and nothing in it ever fails. The extension handles requests after botocore and `tests.aws_shapes` have
validated them, and uses moto's own data where possible.
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
class MotoExtension:
    """The operations that moto lacks; its attributes say how they behave.

    Attributes
    ----------
    errors
        The code and the message of the error that an operation returns, by operation.
    endpoint_failures
        The reasons for which the next new endpoints fail.
    training_failure
        The reason for which training jobs fail.
    update_rolled_back
        Whether updates are rolled back.
    leave_model
        Called with the address at which a training job writes its model.
    classify
        Classifies the photos sent to an endpoint; ``None`` passes the requests on to the network.
    studio
        The content of the Studio domain.
    quotas
        SageMaker's quotas by name, as Service Quotas lists them.
    lambda_concurrency
        The account's unreserved concurrent executions.
    denied_actions
        Actions that IAM's policy simulator denies.
    """

    errors: dict[str, tuple[str, str]] = field(default_factory=dict)
    endpoint_failures: list[str] = field(default_factory=list)
    training_failure: str = ""
    update_rolled_back: bool = False
    leave_model: Callable[[str], None] = lambda _: None
    classify: Callable[[bytes], list[float]] | None = None
    studio: dict[str, list[dict[str, str]]] = field(
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
        return response(
            {"Quotas": [{"QuotaName": name, "Value": value} for name, value in self.quotas.items()]}
        )

    def get_account_settings(self, **_: object) -> object:
        return response({"AccountLimit": {"UnreservedConcurrentExecutions": self.lambda_concurrency}})

    def simulate_principal_policy(self, params: dict[str, Any], **_: object) -> object:
        actions = [value for name, value in params["body"].items() if name.startswith("ActionNames.")]
        return response(
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

    def fail(self, model: Any, **_: object) -> object:
        if model.name not in self.errors:
            return None
        code, message = self.errors[model.name]
        return response({"Error": {"Code": code, "Message": message}}, 400)

    def update_endpoint(self, params: dict[str, Any], **_: object) -> object:
        request = json.loads(params["body"])
        endpoint = backend().endpoints[request["EndpointName"]]
        if self.update_rolled_back:
            endpoint.failure_reason = "Alarm(s) breached; traffic returned to the old fleet"
            return response({"EndpointArn": endpoint.arn})
        config = backend().describe_endpoint_config(request["EndpointConfigName"])
        endpoint.endpoint_config_name = request["EndpointConfigName"]
        endpoint.production_variants = endpoint._process_production_variants(config["ProductionVariants"])
        return response({"EndpointArn": endpoint.arn})

    def update_model_package(self, params: dict[str, Any], **_: object) -> object:
        request = json.loads(params["body"])
        for package in backend().model_packages.values():
            if package.arn == request["ModelPackageArn"]:
                package.set_model_approval_status(request["ModelApprovalStatus"])
        return response({"ModelPackageArn": request["ModelPackageArn"]})

    def delete_model_package(self, params: dict[str, Any], **_: object) -> object:
        arn = json.loads(params["body"])["ModelPackageName"]
        packages = backend().model_packages
        for key in [key for key, package in packages.items() if package.arn == arn]:
            del packages[key]
        return response({})

    def delete_model_package_group(self, params: dict[str, Any], **_: object) -> object:
        backend().model_package_groups.pop(json.loads(params["body"])["ModelPackageGroupName"], None)
        return response({})

    def delete_training_job(self, params: dict[str, Any], **_: object) -> object:
        backend().training_jobs.pop(json.loads(params["body"])["TrainingJobName"], None)
        return response({})

    def invoke_endpoint(self, params: dict[str, Any], **_: object) -> object:
        if self.classify is None:
            return None
        body = json.dumps(self.classify(params["body"])).encode()
        return response({"ContentType": "application/json", "Body": StreamingBody(io.BytesIO(body), None)})

    def get_products(self, **_: object) -> object:
        terms = {
            "OnDemand": {"term": {"priceDimensions": {"rate": {"pricePerUnit": {"USD": "0.1150000000"}}}}}
        }
        return response({"PriceList": [json.dumps({"terms": terms})]})

    def studio_content(self, model: Any, params: dict[str, Any], **_: object) -> object:
        """List or delete the content of a Studio domain; moto knows only the domain itself."""
        request = json.loads(params["body"])
        kind = next(
            kind for kind in ("App", "Space", "UserProfile") if model.name.endswith((kind, f"{kind}s"))
        )
        if model.name.startswith("List"):
            return response({f"{kind}s": self.studio[kind]})
        named = [one for one in self.studio[kind] if one[f"{kind}Name"] == request[f"{kind}Name"]]
        for one in named:
            self.studio[kind].remove(one)
        return response({})

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


def response(parsed: dict[str, Any], status: int = 200) -> tuple[AWSResponse, dict[str, Any]]:
    return AWSResponse("", status, {}, None), {**parsed, "ResponseMetadata": {"HTTPStatusCode": status}}


@contextmanager
def filled() -> Iterator[MotoExtension]:
    """Extend moto for every client created in a ``with`` block."""
    extension = MotoExtension()
    handlers = [
        ("before-call.*.*", extension.fail),
        ("before-call.sagemaker.UpdateEndpoint", extension.update_endpoint),
        ("before-call.sagemaker.UpdateModelPackage", extension.update_model_package),
        ("before-call.sagemaker.DeleteModelPackage", extension.delete_model_package),
        ("before-call.sagemaker.DeleteModelPackageGroup", extension.delete_model_package_group),
        ("before-call.sagemaker.DeleteTrainingJob", extension.delete_training_job),
        ("before-call.sagemaker-runtime.InvokeEndpoint", extension.invoke_endpoint),
        *(
            (f"before-call.sagemaker.{verb}", extension.studio_content)
            for kind in extension.studio
            for verb in (f"List{kind}s", f"Delete{kind}")
        ),
        ("before-call.pricing.GetProducts", extension.get_products),
        ("before-call.service-quotas.ListServiceQuotas", extension.list_service_quotas),
        ("before-call.lambda.GetAccountSettings", extension.get_account_settings),
        ("before-call.iam.SimulatePrincipalPolicy", extension.simulate_principal_policy),
        ("after-call.sagemaker.CreateEndpoint", extension.create_endpoint),
        ("after-call.sagemaker.CreateTrainingJob", extension.create_training_job),
    ]
    botocore.handlers.BUILTIN_HANDLERS.extend(handlers)
    try:
        with patch.object(FakeEndpointConfig, "validate_instance_type"):
            yield extension
    finally:
        for handler in handlers:
            botocore.handlers.BUILTIN_HANDLERS.remove(handler)
