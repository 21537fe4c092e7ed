"""SageMaker's runtime in the emulator: IAM decides who may call the model, and errors are SageMaker's."""

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from local import processes
from local.stack import ENDPOINT_NAME
from pipeline import sample_images

PHOTO = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1))


def invoke(client, body=PHOTO):
    return client.invoke_endpoint(EndpointName=ENDPOINT_NAME, ContentType="image/jpeg", Body=body)


def runtime_as(stack, access_key: str, secret: str):
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=stack.endpoint_url,
        region_name=stack.region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
    )


@pytest.fixture
def user(stack):
    """A user without permissions in the emulated account."""
    iam = stack.client("iam")
    iam.create_user(UserName="courier")
    key = iam.create_access_key(UserName="courier")["AccessKey"]
    yield key
    iam.delete_access_key(UserName="courier", AccessKeyId=key["AccessKeyId"])
    for policy in iam.list_user_policies(UserName="courier")["PolicyNames"]:
        iam.delete_user_policy(UserName="courier", PolicyName=policy)
    iam.delete_user(UserName="courier")


def allow(stack, resource: str) -> None:
    stack.client("iam").put_user_policy(
        UserName="courier",
        PolicyName="invoke",
        PolicyDocument='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", '
        f'"Action": "sagemaker:InvokeEndpoint", "Resource": "{resource}"}}]}}',
    )


def test_the_servers_listen_only_on_loopback(stack):
    registry = processes.registered(stack.home / "processes.json")
    servers = [server for entry in registry if (server := processes.find_process(entry))]

    listening = {
        connection.laddr
        for server in servers
        for connection in server.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }

    assert listening == {("127.0.0.1", stack.ports.emulator), ("127.0.0.1", stack.ports.endpoint)}


def test_the_account_owner_may_invoke_the_endpoint(stack):
    answer = invoke(stack.client("sagemaker-runtime"))

    assert answer["ContentType"] == "application/json"
    assert answer["Body"].read().startswith(b"[0.")


def test_a_user_without_permission_is_denied(stack, user):
    with pytest.raises(ClientError, match=r"AccessDenied.*sagemaker:InvokeEndpoint"):
        invoke(runtime_as(stack, user["AccessKeyId"], user["SecretAccessKey"]))


def test_a_user_with_permission_for_this_endpoint_may_invoke_it(stack, user):
    allow(stack, f"arn:aws:sagemaker:{stack.region}:000000000000:endpoint/{ENDPOINT_NAME}")

    assert invoke(runtime_as(stack, user["AccessKeyId"], user["SecretAccessKey"]))["Body"].read()


def test_a_user_with_permission_for_another_endpoint_is_denied(stack, user):
    allow(stack, f"arn:aws:sagemaker:{stack.region}:000000000000:endpoint/another")

    with pytest.raises(ClientError, match="AccessDenied"):
        invoke(runtime_as(stack, user["AccessKeyId"], user["SecretAccessKey"]))


def test_a_wrong_secret_is_denied_whatever_the_policy_allows(stack, user):
    allow(stack, "*")

    with pytest.raises(ClientError, match="AccessDenied"):
        invoke(runtime_as(stack, user["AccessKeyId"], "not-the-secret"))


def test_a_body_that_is_not_a_photo_is_a_model_error(stack):
    with pytest.raises(ClientError) as raised:
        invoke(stack.client("sagemaker-runtime"), body=b"not a photo")

    assert raised.value.response["Error"]["Code"] == "ModelError"
    assert raised.value.response["OriginalStatusCode"] == 400
