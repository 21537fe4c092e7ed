"""`scones doctor` and the quota check of `scones deploy` report each problem before anything is created."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from moto import mock_aws

from model.sagemaker import image, preflight
from model.sagemaker.endpoint import Hosting
from pipeline import doctor
from scones import cli
from tests import moto_gaps
from tests.conftest import free_port


@pytest.fixture
def aws(monkeypatch, tmp_path) -> Iterator[moto_gaps.MotoExtension]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for variable in doctor.PORTS:
        monkeypatch.setenv(variable, str(free_port()))
    monkeypatch.setattr(doctor, "STACK_FILE", tmp_path / "stack.json")
    monkeypatch.setattr(doctor, "check_docker", lambda: preflight.Check("docker", "ok", "engine"))
    with moto_gaps.filled() as extension, mock_aws():
        yield extension


def run(*arguments: str) -> Result:
    return CliRunner(mix_stderr=False).invoke(cli, ["doctor", *arguments])


def failed(*arguments: str) -> list[dict[str, str]]:
    done = run("--json", *arguments)
    failures = [check for check in json.loads(done.stdout) if check["status"] == "failed"]
    assert done.exit_code == (1 if failures else 0)
    return failures


def test_nothing_fails_where_nothing_is_wrong(aws):
    assert failed() == []


def test_each_line_of_the_report_has_status_name_and_finding(aws):
    done = run()

    assert done.exit_code == 0
    assert {line.split()[1] for line in done.stdout.splitlines()} == {
        *("python", "disk", "port", "docker", "region", "credentials", "permissions", "quota"),
    }


def test_an_instance_quota_that_is_too_low_for_updates_is_reported(aws):
    aws.quotas["ml.m5.large for endpoint usage"] = 0

    (check,) = failed()

    assert check["finding"].startswith("ml.m5.large for endpoint usage is 0; ")
    assert check["advice"] == "Request an increase to 4 (Service Quotas, Amazon SageMaker, region us-east-1)."


def test_the_quota_of_another_instance_type_does_not_count(aws):
    aws.quotas["ml.m5.large for endpoint usage"] = 0

    assert failed("--instance-type", "ml.c7g.large") == []


def test_a_serverless_quota_that_is_too_low_is_reported(aws):
    aws.quotas[preflight.SERVERLESS_QUOTA] = 10

    (check,) = failed("--serverless")

    assert "is 10; a deployment and its updates need up to 40 concurrent requests" in check["finding"]


def test_too_little_lambda_concurrency_is_reported(aws):
    aws.lambda_concurrency = 5

    (check,) = failed()

    assert "5 unreserved concurrent executions" in check["finding"]


def test_a_missing_permission_is_reported_with_the_command_that_needs_it(aws):
    aws.denied_actions = {"sagemaker:UpdateEndpoint"}

    (check,) = failed()

    assert check["finding"] == "scones deploy lacks sagemaker:UpdateEndpoint"


def test_permissions_that_cannot_be_simulated_are_unknown_and_no_failure(aws):
    aws.errors["SimulatePrincipalPolicy"] = ("AccessDenied", "not authorized")

    assert failed() == []
    assert "unknown permissions" in " ".join(run().stdout.split())


def test_quotas_that_cannot_be_read_are_unknown_and_no_failure(aws):
    aws.errors["ListServiceQuotas"] = ("AccessDeniedException", "not authorized")

    assert failed() == []


def test_missing_credentials_are_reported_and_the_rest_is_left_out(aws, monkeypatch):
    aws.errors["GetCallerIdentity"] = ("InvalidClientTokenId", "The security token is invalid.")

    (check,) = failed()

    assert check["name"] == "credentials"


def test_a_missing_region_is_reported(aws, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")

    (check,) = failed()

    assert (check["name"], "AWS_REGION" in check["advice"]) == ("region", True)


def test_a_port_that_another_process_has_is_reported(aws, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("ENDPOINT_PORT", str(taken.getsockname()[1]))

        (check,) = failed()

    assert "ENDPOINT_PORT" in check["advice"]


def test_a_port_that_the_local_stack_has_is_fine(aws, monkeypatch, tmp_path):
    (tmp_path / "stack.json").write_text("{}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("ENDPOINT_PORT", str(taken.getsockname()[1]))

        assert failed() == []


def test_a_full_disk_is_reported(aws, monkeypatch):
    monkeypatch.setattr(doctor, "DISK_GB", 10**9)

    assert [check["name"] for check in failed()] == ["disk"]


@pytest.mark.parametrize(
    ("script", "finding"),
    [
        (None, "not installed"),
        ("#!/bin/sh\necho 'Cannot connect to the daemon' >&2; exit 1\n", "Cannot connect"),
    ],
    ids=["no docker", "no engine"],
)
def test_docker_that_does_not_run_is_reported(script, finding, monkeypatch, tmp_path):
    if script:
        docker = Path(tmp_path, "docker")
        docker.write_text(script)
        docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nonexistent")

    check = doctor.check_docker()

    assert check.status == "failed"
    assert finding in check.finding


CLASSIC = "[[Backing Filesystem extfs] [Supports d_type true] [Native Overlay Diff true]]"
CONTAINERD = "[[driver-type io.containerd.snapshotter.v1]]"


@pytest.mark.parametrize("buildx", [False, True])
@pytest.mark.parametrize("store", [CLASSIC, CONTAINERD])
def test_the_manifest_that_docker_would_push_is_reported(store, buildx, monkeypatch, tmp_path):
    docker = Path(tmp_path, "docker")
    docker.write_text(f"""#!/bin/sh
case "$1" in
  info) echo '29.1.3 {store}' ;;
  buildx) exit {int(not buildx)} ;;
esac
""")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nonexistent")

    check = doctor.check_docker()

    if store == CONTAINERD and not buildx:
        assert check.status == "failed"
        assert f"engine 29.1.3 pushes {image.OCI_MANIFEST}, which SageMaker rejects" in check.finding
        assert check.advice.startswith("Install buildx (docker buildx version), or turn off the containerd")
    else:
        assert check == preflight.Check("docker", "ok", f"engine 29.1.3 pushes {image.MANIFEST}")


@pytest.mark.parametrize(
    ("instances", "most", "needed"), [(1, 4, 4), (1, 1, 3), (3, 4, 6)], ids=["scaling", "one", "several"]
)
def test_an_update_needs_both_fleets_at_once(instances, most, needed):
    hosting = Hosting(instances=instances, max_instances=most)

    assert preflight.needed_instances(hosting, None) == needed


def test_the_role_of_an_assumed_session_is_simulated():
    caller = "arn:aws:sts::123456789012:assumed-role/Deployer/ada"

    assert preflight._principal(caller) == "arn:aws:iam::123456789012:role/Deployer"
