"""`scones deploy`, `rollback`, `status`, `parameters`, `predict --endpoint` and `destroy`, with moto."""

import fnmatch
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from moto import mock_aws
from onnx import TensorProto, helper, numpy_helper
from samcli.cli.types import CfnParameterOverridesType

from model import storage
from model.network import artifact
from model.network.artifact import Description
from model.network.classifier import Classifier
from model.sagemaker import endpoint, image
from model.sagemaker.account import connect
from model.sagemaker.autoscaling import PHOTOS_AT_ONCE
from model.sagemaker.deployment_file import FILE, Deployment
from model.sagemaker.registry import pack_folder
from model.sagemaker.rollout import blue_green
from pipeline import teardown
from scones import cli
from tests import moto_gaps
from tests.aws_shapes import AwsCalls, violations
from tests.conftest import ROOT

SIDE = 32
LOADER = botocore.loaders.create_loader()

# moto ignores the bucket's policy.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse AWS..S3..BucketPolicy")


def write_model(folder: Path, version: str, *, threshold: float = 0.9) -> Path:
    """Write a model that classifies a picture by its colour, small enough to create in a test."""
    weights = np.random.default_rng(int(version)).normal(size=(3, 3)).astype(np.float32) / 50
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "height_and_width"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "by_colour",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(np.array([1, 2]), "height_and_width"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    description = Description(
        name="by-colour",
        version=version,
        labels=("bicycle", "motorcycle", "other"),
        threshold=threshold,
        threshold_reason="a test's",
        input_size=SIDE,
        graph_sha256=hashlib.sha256(content).hexdigest(),
        made={},
    )
    storage.write_files(folder, artifact.contents(content, description))
    (folder / "metrics.json").write_text('{"accuracy": 0.97}')
    return folder


@pytest.fixture
def aws(monkeypatch, tmp_path) -> Iterator[moto_gaps.MotoExtension]:
    """An account with the roles stack and the images, and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoint, "POLL_SECONDS", 0)
    monkeypatch.setattr(teardown, "STACK_POLL", 0)
    monkeypatch.setattr(image, "local_images", list)
    with moto_gaps.filled() as extension, mock_aws():
        account = connect()
        account.cloudformation.create_stack(
            StackName="scones-unlimited-roles",
            TemplateBody=(ROOT / "model" / "roles.yaml").read_text(),
            Capabilities=["CAPABILITY_IAM"],
            Tags=[{"Key": "project", "Value": "scones-unlimited"}],
        )
        image.create_repository(account)
        for platform in image.PLATFORMS:
            push(account, platform)
        yield extension


def push(account, platform: str) -> None:
    media_type = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": media_type, "config": {"digest": platform}})
    account.ecr.put_image(
        repositoryName="scones-unlimited", imageManifest=manifest, imageTag=image.tag(platform)
    )


@pytest.fixture
def model(aws, tmp_path) -> Path:
    """A model, with which the endpoints of the test answer."""
    folder = write_model(tmp_path / "model", "1")
    aws.classify = Classifier(folder).classify
    return folder


@pytest.fixture
def newer(aws, tmp_path) -> Path:
    return write_model(tmp_path / "newer", "2", threshold=0.7)


def run(*arguments: object) -> Result:
    return CliRunner(mix_stderr=False).invoke(cli, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def serve(aws, folder: Path) -> None:
    aws.classify = Classifier(folder).classify


def fail(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_first_deployment_creates_an_endpoint_with_scaling_alarms_and_data_capture(aws_calls, model):
    shown = succeed("deploy", "--model", model)

    deployed = Deployment.read()
    (config,) = aws_calls.of("CreateEndpointConfig")
    (created,) = aws_calls.of("CreateEndpoint")
    assert deployed.endpoint_name in shown
    assert created["EndpointName"] == deployed.endpoint_name
    assert {"Key": "stage", "Value": "dev"} in created["Tags"]
    assert config["DataCaptureConfig"] == {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": deployed.capture_uri,
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }
    (variant,) = config["ProductionVariants"]
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.m5.large", 1)
    assert len(aws_calls.of("PutMetricAlarm")) == 2
    (policy,) = aws_calls.of("PutScalingPolicy")
    assert policy["ResourceId"] == f"endpoint/{deployed.endpoint_name}/variant/AllTraffic"
    tracking = policy["TargetTrackingScalingPolicyConfiguration"]
    metric = tracking["PredefinedMetricSpecification"]["PredefinedMetricType"]
    assert metric == "SageMakerVariantConcurrentRequestsPerModelHighResolution"
    assert tracking["TargetValue"] == PHOTOS_AT_ONCE
    assert tracking["ScaleOutCooldown"] < tracking["ScaleInCooldown"]
    assert deployed.parameters() == {
        "EndpointName": deployed.endpoint_name,
        "ClassLabels": "bicycle,motorcycle,other",
        "ConfidenceThreshold": "0.9",
        "ImageSize": "32",
        "CaptureUri": deployed.capture_uri,
        "CapturePercent": "0",
    }


def test_a_model_is_registered_with_its_metrics_and_served_from_the_registry(aws_calls, model):
    succeed("deploy", "--model", model)

    (package,) = aws_calls.of("CreateModelPackage")
    (served,) = aws_calls.of("CreateModel")
    metrics = package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    bucket, _, key = metrics.removeprefix("s3://").partition("/")
    content = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    assert json.loads(content) == {"accuracy": 0.97}
    assert package["ModelApprovalStatus"] == "Approved"
    assert package["InferenceSpecification"]["Containers"][0]["Image"].endswith(image.tag("linux/amd64"))
    assert served["PrimaryContainer"] == {"ModelPackageName": Deployment.read().model_package}


def test_a_model_in_s3_is_deployed_from_its_address(aws_calls, model, tmp_path):
    url = "s3://elsewhere/job/output/model.tar.gz"
    boto3.client("s3").create_bucket(Bucket="elsewhere")
    boto3.client("s3").put_object(Bucket="elsewhere", Key="job/output/model.tar.gz", Body=pack_folder(model))

    succeed("deploy", "--model", url)

    (package,) = aws_calls.of("CreateModelPackage")
    assert package["InferenceSpecification"]["Containers"][0]["ModelDataUrl"] == url


def test_an_update_runs_a_smoke_test_and_then_shifts_traffic_by_a_canary(aws_calls, aws, model, newer):
    succeed("deploy", "--model", model)
    first = Deployment.read()
    aws_calls.requests.clear()
    serve(aws, newer)

    succeed("deploy", "--model", newer)

    second = Deployment.read()
    operations = aws_calls.operations()
    (temporary,) = aws_calls.of("CreateEndpoint")
    (update,) = aws_calls.of("UpdateEndpoint")
    assert second.endpoint_name == first.endpoint_name
    assert (second.confidence_threshold, second.model) == (0.7, "by-colour 2")
    assert "-smoke-" in temporary["EndpointName"]
    assert operations.index("InvokeEndpoint") < operations.index("DeleteEndpoint")
    assert operations.index("DeleteEndpoint") < operations.index("UpdateEndpoint")
    routing = update["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert routing == {
        "Type": "CANARY",
        "WaitIntervalInSeconds": 300,
        "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1},
    }
    assert [
        alarm["AlarmName"] for alarm in update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    ] == [
        f"{update['EndpointConfigName']}-errors",
        f"{update['EndpointConfigName']}-latency",
    ]
    live, smoke = aws_calls.of("CreateEndpointConfig")
    assert live["ProductionVariants"][0]["InitialInstanceCount"] == 2
    assert smoke["ProductionVariants"][0]["InitialInstanceCount"] == 1
    assert "DataCaptureConfig" not in smoke
    assert operations.index("DeregisterScalableTarget") < operations.index("UpdateEndpoint")
    assert operations.index("UpdateEndpoint") < operations.index("RegisterScalableTarget")


def test_a_model_that_answers_differently_than_on_this_machine_gets_no_traffic(aws_calls, aws, model, newer):
    succeed("deploy", "--model", model)
    before = everything()

    message = fail("deploy", "--model", newer)  # the endpoint still serves the first

    assert "but the model on this machine answers" in message
    assert "nothing is left behind" in message
    assert aws_calls.of("UpdateEndpoint") == []
    assert everything() == before
    assert Deployment.read().model == "by-colour 1"


def test_an_update_that_is_rolled_back_changes_nothing(aws_calls, aws, model, newer):
    succeed("deploy", "--model", model)
    before = everything()
    serve(aws, newer)
    aws.update_rolled_back = True

    message = fail("deploy", "--model", newer)

    assert "update rolled back; " in message
    assert " still serves the previous model" in message
    assert "Alarm(s) breached" in message
    assert everything() == before


def everything() -> set[str]:
    """All resources except registered versions, which are kept when a deployment fails."""
    return {str(found) for found in teardown.list_resources(connect()) if found.kind != "model package"}


def test_rollback_returns_to_the_previous_model_and_only_that_one_is_kept(
    aws_calls, aws, model, newer, tmp_path
):
    for folder in (model, newer, write_model(tmp_path / "newest", "3")):
        serve(aws, folder)
        succeed("deploy", "--model", folder)
    assert len([found for found in teardown.list_resources(connect()) if found.kind == "model"]) == 2

    shown = succeed("rollback")

    deployed = Deployment.read()
    assert "serves by-colour 2 (2) again" in shown
    assert (deployed.model, deployed.confidence_threshold) == ("by-colour 2", 0.7)
    update = aws_calls.of("UpdateEndpoint")[-1]
    routing = update["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert routing["Type"] == "ALL_AT_ONCE"
    assert "AutoRollbackConfiguration" not in update["DeploymentConfig"]


def test_an_update_watches_the_new_fleet_and_only_until_it_is_done(aws_calls, aws, model, newer):
    succeed("deploy", "--model", model)
    serve(aws, newer)
    succeed("deploy", "--model", newer)

    endpoint_name = Deployment.read().endpoint_name
    config = aws_calls.of("UpdateEndpoint")[0]["EndpointConfigName"]
    errors, latency = [alarm for alarm in aws_calls.of("PutMetricAlarm") if config in alarm["AlarmName"]]
    new_fleet = [
        {"Name": "EndpointName", "Value": endpoint_name},
        {"Name": "VariantName", "Value": "AllTraffic"},
        {"Name": "EndpointConfigName", "Value": config},
    ]
    metrics = [metric["MetricStat"]["Metric"] for metric in errors["Metrics"] if "MetricStat" in metric]
    assert [metric["Dimensions"] for metric in metrics] == [new_fleet] * 3
    assert latency["Dimensions"] == new_fleet
    assert set(alarm_states()) == {f"{endpoint_name}-errors", f"{endpoint_name}-latency"}


def alarm_states() -> dict[str, str]:
    alarms = boto3.client("cloudwatch").describe_alarms()["MetricAlarms"]
    return {alarm["AlarmName"]: alarm["StateValue"] for alarm in alarms}


def start_emergency(endpoint_name: str, instances: int) -> None:
    """Let the alarms go off, as those of a fleet that fails under load, to which autoscaling has added."""
    for name in alarm_states():
        boto3.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="failing")
    boto3.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=endpoint_name,
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": instances}],
    )


def scaling_of(endpoint_name: str) -> tuple[int, int, float]:
    """The bounds and the target that autoscaling has for an endpoint."""
    client, name = boto3.client("application-autoscaling"), f"endpoint/{endpoint_name}/variant/AllTraffic"
    (bounds,) = client.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=[name])[
        "ScalableTargets"
    ]
    (policy,) = client.describe_scaling_policies(ServiceNamespace="sagemaker", ResourceId=name)[
        "ScalingPolicies"
    ]
    target = policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"]
    return bounds["MinCapacity"], bounds["MaxCapacity"], target


def test_a_failing_fleet_is_rolled_back_to_a_fleet_of_the_same_size_and_scaling(aws_calls, aws, model, newer):
    succeed("deploy", "--model", model)
    serve(aws, newer)
    succeed("deploy", "--model", newer, "--most-instances", "7", "--photos-at-once", "3.5")
    name = Deployment.read().endpoint_name
    start_emergency(name, instances=5)

    assert "serves by-colour 1 (1) again" in succeed("rollback")

    assert endpoint.describe(connect(), name).instances == 5
    assert scaling_of(name) == (1, 7, 3.5)
    serve(aws, model)
    assert json.loads(succeed("status", "--json"))["model"] == "by-colour 1"


def test_a_failing_fleet_can_be_updated_to_a_better_model(aws_calls, aws, model, newer):
    succeed("deploy", "--model", model)
    name = Deployment.read().endpoint_name
    start_emergency(name, instances=3)
    serve(aws, newer)

    succeed("deploy", "--model", newer)

    assert Deployment.read().model == "by-colour 2"
    assert endpoint.describe(connect(), name).instances == 3


def test_an_update_whose_own_alarm_goes_off_is_rolled_back(aws_calls, aws, model, newer, monkeypatch):
    succeed("deploy", "--model", model)
    before = everything()
    serve(aws, newer)
    update = endpoint.update

    def fail_under_traffic(*arguments: Any, **options: Any) -> None:
        start_emergency(Deployment.read().endpoint_name, instances=1)
        update(*arguments, **options)

    monkeypatch.setattr(endpoint, "update", fail_under_traffic)

    assert "update rolled back; " in fail("deploy", "--model", newer)
    assert everything() == before


def test_creating_an_endpoint_is_retried_until_sagemaker_finds_its_configuration(aws_calls, aws, model):
    aws.missing_configs = 3

    succeed("deploy", "--model", model)

    assert len(aws_calls.of("CreateEndpoint")) == 4


def test_a_configuration_that_does_not_appear_is_an_error(aws_calls, aws, model, monkeypatch):
    monkeypatch.setattr(endpoint, "CONSISTENCY_SECONDS", 0.0)
    aws.missing_configs = 3

    assert "Could not find endpoint configuration" in fail("deploy", "--model", model)


def changes(aws_calls: AwsCalls) -> set[str]:
    """The operations called that can change something."""
    return {name for name in aws_calls.operations() if not name.startswith(("Describe", "Get", "List"))}


def test_a_dry_run_prints_the_plan_and_changes_nothing(aws_calls, aws, model, newer):
    plan = succeed("deploy", "--model", model, "--dry-run")

    assert plan.startswith(
        "Would create an endpoint (account 123456789012, us-east-1, stage dev): by-colour 1"
    )
    assert changes(aws_calls) == set()
    assert not FILE.exists()
    succeed("deploy", "--model", model)
    before = list(aws_calls.requests)
    plan = json.loads(succeed("deploy", "--model", newer, "--dry-run", "--json"))
    assert (plan["action"], plan["endpoint_name"]) == ("update", Deployment.read().endpoint_name)
    assert (plan["model"], plan["on"]) == ("by-colour 2", "ml.m5.large")
    aws_calls.requests = aws_calls.requests[len(before) :]
    assert changes(aws_calls) == set()
    assert Deployment.read().model == "by-colour 1"


def test_a_dry_run_fails_where_the_deployment_would_fail(aws_calls, model, monkeypatch):
    succeed("deploy", "--model", model)
    assert "an update cannot change that" in fail("deploy", "--model", model, "--serverless", "--dry-run")
    monkeypatch.setattr(image, "tag", lambda platform: "of-changed-code-amd64")
    assert "scones image" in fail("deploy", "--model", model, "--dry-run")


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_quota_that_is_too_low_is_reported_before_anything_is_created(aws_calls, aws, model, dry_run):
    aws.quotas["ml.m5.large for endpoint usage"] = 0

    message = fail("deploy", "--model", model, *(["--dry-run"] if dry_run else []))

    assert "ml.m5.large for endpoint usage is 0; a deployment and its updates need up to 4" in message
    assert "Request an increase to 4 (Service Quotas" in message
    assert changes(aws_calls) == set()


def test_a_quota_that_only_an_update_exceeds_is_reported_before_it_begins(aws_calls, aws, model, newer):
    succeed("deploy", "--model", model, "--most-instances", "2")
    aws.quotas["ml.m5.large for endpoint usage"] = 2
    aws_calls.requests = []

    assert "need up to 3 instances" in fail("deploy", "--model", newer, "--most-instances", "2")
    assert changes(aws_calls) == set()


def test_quotas_that_may_not_be_read_do_not_stop_a_deployment(aws_calls, aws, model):
    aws.errors["ListServiceQuotas"] = ("AccessDeniedException", "not authorized")

    succeed("deploy", "--model", model)


def test_deploy_prints_the_deployment_as_json(aws_calls, model):
    printed = json.loads(succeed("deploy", "--model", model, "--json"))

    assert printed == json.loads(FILE.read_text())
    assert json.loads(succeed("parameters", "--json"))["EndpointName"] == printed["endpoint_name"]


def test_a_dry_run_of_rollback_names_the_model_and_changes_nothing(aws_calls, aws, model, newer):
    for folder in (model, newer):
        serve(aws, folder)
        succeed("deploy", "--model", folder)
    aws_calls.requests = []

    plan = json.loads(succeed("rollback", "--dry-run", "--json"))

    assert (plan["model"], plan["dry_run"]) == ("by-colour 1", True)
    assert "would serve by-colour 1 (1) again" in succeed("rollback", "--dry-run")
    assert changes(aws_calls) == set()
    assert Deployment.read().model == "by-colour 2"


def test_destroy_prints_its_results_as_json(aws_calls, model):
    succeed("deploy", "--model", model)

    assert run("destroy", "--json").exit_code == 2
    planned = json.loads(succeed("destroy", "--dry-run", "--json"))
    gone = json.loads(succeed("destroy", "--yes", "--json"))

    assert planned["found"] == gone["found"] != []
    assert (gone["left"], gone["dry_run"], planned["dry_run"]) == ([], False, True)
    assert json.loads(succeed("destroy", "--yes", "--json"))["found"] == []


def test_rollback_fails_after_a_first_deployment(aws_calls, model):
    assert "nothing to roll back" in fail("rollback")
    succeed("deploy", "--model", model)
    assert "nothing to roll back to" in fail("rollback")


def test_a_model_that_needs_approval_is_deployed_once_it_is_approved(aws_calls, model):
    message = fail("deploy", "--model", model, "--require-approval")
    package = message.split()[1]
    assert "update-model-package" in message
    assert aws_calls.of("CreateModel") == []

    assert package in fail("deploy", "--model", model, "--require-approval")
    boto3.client("sagemaker").update_model_package(ModelPackageArn=package, ModelApprovalStatus="Approved")
    succeed("deploy", "--model", model, "--require-approval")

    assert len(aws_calls.of("CreateModelPackage")) == 1
    assert Deployment.read().model_package == package


def test_a_rejected_model_is_not_deployed(aws_calls, model):
    package = fail("deploy", "--model", model, "--require-approval").split()[1]
    boto3.client("sagemaker").update_model_package(ModelPackageArn=package, ModelApprovalStatus="Rejected")

    assert "was rejected" in fail("deploy", "--model", model)


def test_a_serverless_endpoint_has_no_scaling_and_the_pipeline_captures_data(aws_calls, model):
    succeed("deploy", "--model", model, "--serverless", "--memory", "3072", "--capture-percent", "25")

    (config,) = aws_calls.of("CreateEndpointConfig")
    assert config["ProductionVariants"][0]["ServerlessConfig"] == {
        "MemorySizeInMB": 3072,
        "MaxConcurrency": 20,
    }
    assert "DataCaptureConfig" not in config
    assert aws_calls.of("RegisterScalableTarget") == []
    parameters = Deployment.read().parameters()
    assert parameters["CapturePercent"] == "25"
    assert parameters["CaptureUri"].endswith("/captures")
    assert "is serverless" in fail("deploy", "--model", model)


def test_an_update_of_a_serverless_endpoint_has_no_canary(aws_calls, aws, model, newer):
    succeed("deploy", "--model", model, "--serverless")
    serve(aws, newer)

    succeed("deploy", "--model", newer, "--serverless")
    succeed("rollback")

    assert all("DeploymentConfig" not in update for update in aws_calls.of("UpdateEndpoint"))


@pytest.mark.parametrize(
    ("instance_type", "platform"),
    [
        ("ml.m5.large", "linux/amd64"),
        ("ml.c7g.large", "linux/arm64"),
        ("ml.m6gd.xlarge", "linux/arm64"),
        ("ml.c6gn.large", "linux/arm64"),
        ("ml.g5.xlarge", "linux/amd64"),
        ("ml.g4dn.xlarge", "linux/amd64"),
        (None, "linux/amd64"),
    ],
)
def test_the_image_is_for_the_processor_of_the_instance_type(instance_type, platform):
    assert endpoint.Hosting(instance_type=instance_type).platform == platform


def test_a_graviton_endpoint_serves_the_arm_image(aws_calls, model):
    succeed("deploy", "--model", model, "--instance-type", "ml.c6g.large")

    (package,) = aws_calls.of("CreateModelPackage")
    assert package["InferenceSpecification"]["Containers"][0]["Image"].endswith("-arm64")


def test_a_kms_key_encrypts_volumes_and_captures(aws_calls, model):
    key = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"

    succeed("deploy", "--model", model, "--kms-key", key, "--capture-percent", "50")

    (config,) = aws_calls.of("CreateEndpointConfig")
    assert config["KmsKeyId"] == key
    assert config["DataCaptureConfig"]["KmsKeyId"] == key
    assert config["DataCaptureConfig"]["InitialSamplingPercentage"] == 50


def test_stages_are_independent(aws_calls, aws, model, newer):
    succeed("deploy", "--model", model)
    dev = Deployment.read()
    serve(aws, newer)
    succeed("deploy", "--model", newer, "--stage", "prod")

    assert aws_calls.of("UpdateEndpoint") == []
    assert Deployment.read().endpoint_name != dev.endpoint_name
    assert "belongs to stage prod" in fail("parameters", "--stage", "dev")
    assert f"EndpointName={Deployment.read().endpoint_name}\n" in succeed("parameters", "--stage", "prod")

    succeed("destroy", "--stage", "dev", "--yes")

    remaining = everything()
    assert "stack scones-unlimited-roles" in " ".join(remaining)
    assert not [one for one in remaining if "-dev-" in one]
    assert any("endpoint scones-unlimited-prod-" in one for one in remaining)


def test_status_describes_the_deployment(aws_calls, aws, model, newer):
    assert "has no endpoint" in fail("status")
    succeed("deploy", "--model", model)
    serve(aws, newer)
    succeed("deploy", "--model", newer)

    status = json.loads(succeed("status", "--json"))

    assert status["model"] == "by-colour 2"
    assert (status["state"], status["on"]) == ("InService", "2 x ml.m5.large")
    assert status["previous"]
    assert set(status["alarms"]) == {f"{status['endpoint']}-errors", f"{status['endpoint']}-latency"}
    assert status["captures"] == Deployment.read().capture_uri
    assert status["dollars_an_hour"] == pytest.approx(0.23)
    assert "by-colour 2 (2)" in succeed("status")


def test_predict_uses_the_labels_of_the_endpoints_model(aws_calls, aws, model, tmp_path):
    succeed("deploy", "--model", model)
    photo = tmp_path / "photo.png"
    photo.write_bytes(picture())

    (line,) = succeed("predict", "--endpoint", Deployment.read().endpoint_name, photo).splitlines()

    here = json.loads(succeed("predict", "--model", model, photo))
    there = json.loads(line)
    assert there["probabilities"] == pytest.approx(here["probabilities"], abs=1e-5)
    assert there["decision"] == here["decision"]


def picture() -> bytes:
    from pipeline.sample_images import bicycle, encoded, picture  # noqa: PLC0415

    return encoded(picture(bicycle, seed=1), "PNG")


def test_predict_fails_without_such_an_endpoint(aws_calls, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(picture())

    assert "No such endpoint in us-east-1: nowhere" in fail("predict", "--endpoint", "nowhere", photo)


def test_destroy_deletes_everything_and_can_be_repeated(aws_calls, aws, model, newer):
    theirs = boto3.client("sagemaker")
    theirs.create_model(
        ModelName="scones-unlimited-not-ours", ExecutionRoleArn=role(), PrimaryContainer={"Image": "x"}
    )
    theirs.create_model_package_group(ModelPackageGroupName="theirs")
    succeed("deploy", "--model", model)
    serve(aws, newer)
    succeed("deploy", "--model", newer)
    boto3.client("logs").create_log_group(
        logGroupName=f"/aws/sagemaker/Endpoints/{Deployment.read().endpoint_name}"
    )
    listed = succeed("destroy", "--dry-run").splitlines()
    assert len(teardown.list_resources(connect())) == len(listed)

    shown = succeed("destroy", "--yes").splitlines()

    assert shown == listed + [f"Deleted {one}." for one in listed]
    assert teardown.list_resources(connect()) == []
    assert succeed("destroy", "--yes") == "Nothing to delete.\n"
    assert [one["ModelName"] for one in theirs.list_models()["Models"]] == ["scones-unlimited-not-ours"]
    groups = theirs.list_model_package_groups()["ModelPackageGroupSummaryList"]
    assert [one["ModelPackageGroupName"] for one in groups] == ["theirs"]
    assert not Path("deployment.json").exists()


def role() -> str:
    return "arn:aws:iam::123456789012:role/theirs"


def test_destroy_continues_after_a_failure_and_reports_it(aws_calls, aws, model):
    succeed("deploy", "--model", model)
    aws.errors["DeleteModel"] = ("AccessDeniedException", "not you")

    result = run("destroy", "--yes")

    assert result.exit_code == 1
    assert "Not deleted: model scones-unlimited-dev-" in result.stderr
    assert "1 of " in result.stderr
    aws.errors.clear()
    succeed("destroy", "--yes")
    assert teardown.list_resources(connect()) == []


def test_destroy_asks_for_confirmation(aws_calls, model):
    succeed("deploy", "--model", model)
    before = everything()

    assert CliRunner(mix_stderr=False).invoke(cli, ["destroy"], input="n\n").exit_code == 1
    assert everything() == before


def test_a_failed_creation_reports_sagemakers_reason_and_leaves_nothing(aws_calls, aws, model):
    before = everything()
    aws.endpoint_failures = ["The container for AllTraffic did not pass the ping health check."]

    message = fail("deploy", "--model", model)

    assert "did not pass the ping health check" in message
    assert "nothing is left behind" in message
    assert everything() - before == {"model package group scones-unlimited"}
    assert not Path("deployment.json").exists()


def test_an_interruption_names_what_exists_and_destroy_finds_it(aws_calls, aws, model, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(endpoint, "wait", interrupt)
        result = run("deploy", "--model", model)

    assert result.exit_code == 130
    message = " ".join(result.stderr.split())
    for what in ("model", "endpoint configuration", "endpoint"):
        assert f"{what} scones-unlimited-dev-" in message
    assert "scones destroy" in message
    succeed("destroy", "--yes")
    assert teardown.list_resources(connect()) == []


def test_an_endpoint_is_deleted_once_it_has_been_created(aws_calls, aws, model):
    succeed("deploy", "--model", model)
    name = Deployment.read().endpoint_name
    states = iter(["Creating", "Creating", "InService"])

    def describe(account, name, real=endpoint.describe):
        found = real(account, name)
        state = next(states, None)
        return replace(found, status=state) if found and state else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint, "describe", describe)
        endpoint.delete(connect(), name)

    assert next(states, None) is None
    assert endpoint.describe(connect(), name) is None


def test_what_could_not_be_deleted_is_named(aws_calls, aws, model):
    aws.endpoint_failures = ["no capacity"]
    aws.errors["DeleteModel"] = ("AccessDeniedException", "not you")

    message = fail("deploy", "--model", model)

    assert "could not delete: model scones-unlimited-dev-" in message
    aws.errors.clear()
    assert any("model scones-unlimited-dev-" in one for one in everything())


@pytest.mark.parametrize(
    ("operation", "refusal", "advice"),
    [
        (
            "CreateEndpoint",
            (
                "ResourceLimitExceeded",
                "The account-level service limit 'ml.m5.large for endpoint usage' is 0",
            ),
            "Service Quotas",
        ),
        (
            "CreateModel",
            ("AccessDeniedException", "not authorized to perform iam:PassRole"),
            "DeployerPolicy",
        ),
        ("GetCallerIdentity", ("ExpiredToken", "The security token is expired"), "sign in again"),
    ],
)
def test_an_aws_error_is_one_line_with_advice_and_leaves_nothing(
    aws_calls, aws, model, *, operation, refusal, advice
):
    before = everything()
    aws.errors[operation] = refusal

    message = fail("deploy", "--model", model)

    assert refusal[1] in message
    assert advice in message
    aws.errors.clear()
    assert everything() - before <= {"model package group scones-unlimited"}


def test_a_missing_image_is_reported_before_anything_is_created(aws_calls, aws, model, monkeypatch):
    monkeypatch.setattr(image, "tag", lambda platform: "of-changed-code-amd64")
    before = everything()

    message = fail("deploy", "--model", model)

    assert "is not in ECR. Push it with: scones image --platform linux/amd64 --push" in message
    assert everything() == before


def test_without_the_roles_stack_it_says_how_to_create_it(aws_calls, aws, model):
    boto3.client("cloudformation").delete_stack(StackName="scones-unlimited-roles")

    assert "make roles" in fail("deploy", "--model", model)


def test_the_deployer_policy_allows_exactly_the_actions_used(aws_calls, aws, model, newer):
    succeed("deploy", "--model", model)
    serve(aws, newer)
    succeed("deploy", "--model", newer)
    succeed("rollback")
    succeed("status")
    for resource in teardown.list_resources(connect()):
        if resource.kind != "stack":
            resource.delete()

    allowed = allowed_actions("DeployerPolicy")
    # IAM names some services and operations differently than their requests do.
    used = {action.replace("monitoring:", "cloudwatch:") for action in aws_calls.actions}
    iam_names = {"s3:HeadObject": "s3:GetObject", "s3:ListObjectVersions": "s3:ListBucketVersions"}
    used = {iam_names.get(action, action) for action in used} - {"sts:GetCallerIdentity"}
    assert used <= allowed
    unused = {action for action in allowed - used if action.startswith("sagemaker:")}
    assert unused == {
        "sagemaker:AddTags",
        "sagemaker:UpdateEndpointWeightsAndCapacities",
        # used by training, which other tests cover
        "sagemaker:CreateTrainingJob",
        "sagemaker:DeleteTrainingJob",
        "sagemaker:DescribeTrainingJob",
        "sagemaker:StopTrainingJob",
    }


def allowed_actions(name: str) -> set[str]:
    statements = roles()["Resources"][name]["Properties"]["PolicyDocument"]["Statement"]
    actions = [statement["Action"] for statement in statements]
    return set(chain(*([action] if isinstance(action, str) else action for action in actions)))


def roles() -> Any:
    from cfnlint.decode import cfn_yaml  # noqa: PLC0415  half a second

    return cfn_yaml.load(str(ROOT / "model" / "roles.yaml"))


def test_no_statement_of_the_roles_allows_an_action_by_a_wildcard():
    for name in ("ExecutionRole", "StudioRole", "DeployerPolicy", "KeyPolicy"):
        properties = roles()["Resources"][name]["Properties"]
        documents = [
            properties.get("PolicyDocument"),
            *(p["PolicyDocument"] for p in properties.get("Policies", [])),
        ]
        for statement in chain(*(document["Statement"] for document in documents if document)):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not [action for action in actions if "*" in action]
            assert statement["Sid"]


def role_statements(name: str) -> dict[str, Any]:
    """The statements of a role's own policies, by Sid."""
    policies = roles()["Resources"][name]["Properties"]["Policies"]
    return {one["Sid"]: one for policy in policies for one in policy["PolicyDocument"]["Statement"]}


def test_the_execution_role_may_read_the_alarms_that_updates_watch(aws_calls, aws, model, newer):
    succeed("deploy", "--model", model)
    serve(aws, newer)
    succeed("deploy", "--model", newer)

    (update,) = aws_calls.of("UpdateEndpoint")
    statement = role_statements("ExecutionRole")["ReadRollbackAlarms"]
    assert statement["Action"] == "cloudwatch:DescribeAlarms"
    pattern = statement["Resource"]["Fn::Sub"].rpartition(":alarm:")[2]
    for alarm in update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]:
        assert fnmatch.fnmatchcase(alarm["AlarmName"], pattern)


def test_studio_may_tag_what_it_creates():
    statements = role_statements("StudioRole")

    assert statements["TagNewSpaces"]["Condition"] == {
        "StringEquals": {"sagemaker:TaggingAction": "CreateSpace"}
    }
    for sid, resource in (("TagNewSpaces", "space/*"), ("TagApplications", "app/*")):
        assert statements[sid]["Action"] == "sagemaker:AddTags"
        assert statements[sid]["Resource"]["Fn::Sub"].endswith(f":{resource}")


def test_a_kms_key_may_be_used_by_the_execution_role_and_by_deployers():
    resources = roles()["Resources"]
    statements = resources["KeyPolicy"]["Properties"]["PolicyDocument"]["Statement"]

    assert statements[0]["Action"] == "kms:CreateGrant"
    assert {json.dumps(statement["Resource"]) for statement in statements} == {'{"Ref": "KmsKeyArn"}'}
    for name in ("ExecutionRole", "StudioRole"):
        assert '{"Ref": "KeyPolicy"}' in json.dumps(resources[name]["Properties"]["ManagedPolicyArns"])
    assert roles()["Outputs"]["KeyPolicyArn"]


def test_the_deployer_policy_allows_what_doctor_checks():
    assert {
        "servicequotas:ListServiceQuotas",
        "lambda:GetAccountSettings",
        "iam:SimulatePrincipalPolicy",
    } <= allowed_actions("DeployerPolicy")


def test_the_notebook_says_what_studio_may_not_do():
    notebook = json.loads((ROOT / "model" / "walkthrough.ipynb").read_text())

    introduction = " ".join("".join(notebook["cells"][0]["source"]).split())
    assert "Studio's role may not create roles or stacks" in introduction


def test_the_deployer_policy_is_within_iams_size_limit():
    document = json.dumps(roles()["Resources"]["DeployerPolicy"]["Properties"]["PolicyDocument"])
    longest = {
        "${AWS::Partition}": "aws-us-gov",
        "${AWS::Region}": "ap-southeast-2",
        "${AWS::AccountId}": "1" * 12,
    }
    for name, value in longest.items():
        document = document.replace(name, value)

    assert len("".join(document.split())) + 500 < 6144


def test_a_studio_domain_is_deleted_with_its_content(aws_calls, aws):
    sagemaker = boto3.client("sagemaker")
    domain = sagemaker.create_domain(
        DomainName="scones-unlimited",
        AuthMode="IAM",
        DefaultUserSettings={"ExecutionRole": role()},
        SubnetIds=["subnet-1"],
        VpcId="vpc-1",
    )["DomainArn"].rpartition("/")[2]
    owner = {"UserProfileName": "ada", "SpaceName": "lab"}
    aws.studio = {
        "App": [{"AppName": "default", "AppType": "JupyterLab", "Status": "InService", "SpaceName": "lab"}],
        "Space": [owner],
        "UserProfile": [owner],
    }

    teardown.delete_domain(connect(), domain)

    assert aws.studio == {"App": [], "Space": [], "UserProfile": []}
    assert sagemaker.list_domains()["Domains"] == []
    assert aws_calls.of("DeleteDomain")[0]["RetentionPolicy"] == {"HomeEfsFileSystem": "Delete"}


@pytest.mark.parametrize("instances", [1, 2, 40])
@pytest.mark.parametrize("bake_seconds", [0, 60, 3600])
@pytest.mark.parametrize("canary", [True, False])
def test_every_update_policy_is_valid_for_sagemaker(instances, bake_seconds, canary):
    policy = blue_green(instances, ["one", "other"], bake_seconds, canary=canary)

    shape = boto3.client("sagemaker").meta.service_model.shape_for("DeploymentConfig")
    assert violations(policy, shape, "DeploymentConfig") == []
    routing = policy["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert (routing["Type"] == "CANARY") == (canary and instances > 1)


@pytest.mark.parametrize("command", ["deploy", "status", "rollback", "destroy"])
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"AWS_DEFAULT_REGION": "us-esat-1"}, "SageMaker is not available in us-esat-1"),
        ({"AWS_DEFAULT_REGION": ""}, "no region: set AWS_REGION"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no AWS credentials"),
    ],
)
def test_a_wrong_aws_environment_is_reported_in_one_line(command, environment, reason, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)

    assert reason in fail(command)


def test_a_unique_name_is_valid_for_sagemaker_and_the_stack():
    name = endpoint.unique_name("productionstage1", "smoke")

    assert len(name) <= 63
    assert name == name.lower()
    assert name != endpoint.unique_name("productionstage1", "smoke")


@pytest.mark.parametrize("stage", ["Dev", "a-b", "", "x" * 17, "1a"])
def test_a_stage_that_is_not_a_short_word_is_a_usage_error(stage):
    assert run("status", "--stage", stage).exit_code == 2


def test_parameters_need_a_deployment_or_an_endpoint(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert "scones deploy" in fail("parameters")
    assert succeed("parameters", "--endpoint", "theirs") == "EndpointName=theirs\n"


def test_parameters_of_another_endpoint_do_not_come_from_the_deployment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    deployed = Deployment(
        stage="dev",
        region="us-east-1",
        account="123456789012",
        endpoint_name="ours",
        class_labels=("e bike", "moped"),
        confidence_threshold=0.87,
        image_size=96,
        capture_uri=None,
        model="m 1",
        model_package="arn",
        deployed_at="2026-11-25T00:00:00Z",
    )
    deployed.write()

    assert succeed("parameters", "--endpoint", "theirs") == "EndpointName=theirs\n"
    ours = (
        "EndpointName=ours\nConfidenceThreshold=0.87\nImageSize=96\nCapturePercent=0\n"
        "file://deployment.yaml\n"
    )
    assert succeed("parameters", "--endpoint", "ours") == ours
    assert succeed("parameters") == ours
    # sam gets the words into which a shell splits the output of $(scones parameters)
    assert CfnParameterOverridesType().convert(tuple(ours.split()), None, None) == deployed.parameters()
    older = json.loads(FILE.read_text())
    del older["capture_percent"]
    FILE.write_text(json.dumps(older))
    assert Deployment.read() == deployed
    replace(deployed, stage="prod").write()
    assert "belongs to stage prod" in fail("parameters")
