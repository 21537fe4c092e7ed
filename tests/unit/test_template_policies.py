"""Where the permissions of roles and people end, by the emulator's evaluation of their policies.

That each permission is needed is tested on the running stack (tests/e2e/test_permissions.py and others).
"""

import json
from typing import Any

import pytest
from ministack.core.iam_evaluator import (
    EvalContext,
    evaluate,
    evaluate_resource_policy,
    parse_policy_document,
)
from moto.iam.aws_managed_policies import aws_managed_policies_data

from tests.cloudformation import ACCOUNT, REGION, STACK, resolve
from tests.unit.test_template import ENDPOINT, MONITORED, PIPELINE, TEMPLATES, documents, of_type

BUCKET = "arn:aws:s3:::scones-unlimited-dev-uploadbucket"
TABLE = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{STACK}-ResultsTable"
CAPTURES = "arn:aws:s3:::workspace"
EXPRESS = resolve("template.yaml", **MONITORED, WorkflowType="EXPRESS")


def request(action: str, resource: str, **context: Any) -> EvalContext:
    return EvalContext(
        principal_arn=f"arn:aws:iam::{ACCOUNT}:role/any",
        principal_type="AssumedRole",
        principal_account=ACCOUNT,
        action=action,
        resource_arn=resource,
        region=REGION,
        secure_transport=context.pop("tls", True),
        service_context={name.replace("_", ":"): value for name, value in context.items()},
    )


def may(who: str, action: str, resource: str, resources: dict[str, Any] = PIPELINE, **context: Any) -> bool:
    """Whether the policies of a role, or a policy for people, allow something."""
    policies = documents(resources[who]["Properties"].get("Policies", resources[who]["Properties"]))
    if who == "BackfillStateMachineRole":
        policies += documents(resources["BackfillMapRunPolicy"])
    parsed = [parse_policy_document(policy) for policy in policies]
    return evaluate(request(action, resource, **context), parsed).decision == "Allow"


ARNS = {
    "states": f"arn:aws:states:{REGION}:{ACCOUNT}",
    "sqs": f"arn:aws:sqs:{REGION}:{ACCOUNT}",
    "events": f"arn:aws:events:{REGION}:{ACCOUNT}",
    "stack": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack",
}
PHOTOS = [f"{BUCKET}/uploads/a.jpg", f"{BUCKET}/archive/2026/a.jpg"]


@pytest.mark.parametrize("photo", PHOTOS)
def test_uploads_and_archived_photos_can_be_classified_reviewed_and_forgotten(photo):
    assert may("SerializeFunctionRole", "s3:GetObject", photo)
    assert may("SerializeFunctionRole", "s3:GetObjectVersion", photo)
    assert may("BackfillStateMachineRole", "s3:GetObject", photo)
    assert may("ReviewPolicy", "s3:GetObject", photo)
    assert may("ReviewPolicy", "s3:GetObjectVersion", photo)
    assert may("ForgetPolicy", "s3:GetObjectVersion", photo)
    assert may("ForgetPolicy", "s3:DeleteObjectVersion", photo)
    assert not may("ReviewPolicy", "s3:DeleteObjectVersion", photo)


def test_people_who_forget_find_both_stacks_and_both_queues():
    for stack in (f"{STACK}/1", "scones-unlimited-roles/1"):
        assert may("ForgetPolicy", "cloudformation:DescribeStacks", f"{ARNS['stack']}/{stack}")
    for queue in ("ReviewQueue", "FailedQueue"):
        for action in ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes"):
            assert may("ForgetPolicy", f"sqs:{action}", f"{ARNS['sqs']}:{STACK}-{queue}")


LISTED = {
    "BackfillStateMachineRole": {"uploads/": True, "archive/2026/": True, "ground-truth/": False, "": False},
    "BackfillPolicy": {
        "uploads/": True,
        "archive/2026/": True,
        "backfills/1/": True,
        "ground-truth/": False,
        "": False,
    },
    "MonitorPolicy": {"ground-truth/2026/": True, "uploads/": False, "": False},
}


@pytest.mark.parametrize(
    ("who", "prefix", "allowed"),
    [(who, prefix, allowed) for who, prefixes in LISTED.items() for prefix, allowed in prefixes.items()],
)
def test_only_the_keys_that_a_command_needs_can_be_listed(who, prefix, allowed):
    """Keys are couriers' file names."""
    assert may(who, "s3:ListBucket", BUCKET, s3_prefix=prefix) is allowed


def test_a_load_test_touches_only_its_own_photos_and_results():
    """It deletes what it sent, in a bucket and a table that others use too."""
    own, other = "uploads/traffic/1/a.jpg", "uploads/a.jpg"
    for action in ("s3:PutObject", "s3:DeleteObjectVersion"):
        assert may("TrafficPolicy", action, f"{BUCKET}/{own}")
        assert not may("TrafficPolicy", action, f"{BUCKET}/{other}")
    for key, allowed in ((own, True), (other, False)):
        item = {"dynamodb_leadingkeys": [f"s3://{BUCKET.rpartition(':')[2]}/{key}"]}
        assert may("TrafficPolicy", "dynamodb:DeleteItem", TABLE, **item) is allowed
        assert may("TrafficPolicy", "s3:ListBucketVersions", BUCKET, s3_prefix=key) is allowed


def test_a_load_test_sends_copies_of_events_only_to_its_own_queue():
    rules = [
        f"{ARNS['events']}:rule/scones-traffic-1",
        f"{ARNS['events']}:rule/{STACK}-ResultsBus/scones-traffic-1",
    ]
    own, other = f"{ARNS['sqs']}:scones-traffic-1", f"{ARNS['sqs']}:somebody-elses"
    for rule in rules:
        for action in ("events:PutRule", "events:DeleteRule", "events:RemoveTargets", "events:TagResource"):
            assert may("TrafficPolicy", action, rule)
        assert may("TrafficPolicy", "events:PutTargets", rule, events_targetarn=[own])
        assert not may("TrafficPolicy", "events:PutTargets", rule, events_targetarn=[other])
        assert not may("TrafficPolicy", "events:PutTargets", rule, events_targetarn=[own, other])


def test_a_load_test_publishes_probes_on_both_buses_and_no_results():
    for bus in ("default", f"{STACK}-ResultsBus"):
        arn = f"{ARNS['events']}:event-bus/{bus}"
        assert may("TrafficPolicy", "events:PutEvents", arn, events_source="scones.subscription")
        assert not may("TrafficPolicy", "events:PutEvents", arn, events_source="scones.vehicle-classifier")


@pytest.mark.parametrize("resources", [PIPELINE, EXPRESS], ids=["STANDARD", "EXPRESS"])
def test_a_backfill_starts_executions_of_either_type_and_stops_none(resources):
    suffix = "" if resources is PIPELINE else "-express"
    machine = f"{ARNS['states']}:stateMachine:{STACK}-classify{suffix}"
    execution = f"{ARNS['states']}:execution:{STACK}-classify{suffix}:1"
    standard = resources is PIPELINE

    def backfill_may(action: str, arn: str) -> bool:
        return may("BackfillStateMachineRole", action, arn, resources)

    assert backfill_may("states:StartExecution", machine) is standard
    assert backfill_may("states:StartSyncExecution", machine) is not standard
    assert backfill_may("states:DescribeExecution", execution) is standard
    assert not backfill_may("states:StopExecution", execution)


def test_captures_of_this_endpoint_are_written_and_read_and_no_other_data():
    own, other = f"{CAPTURES}/captures/{ENDPOINT}/a.jsonl", f"{CAPTURES}/captures/another/a.jsonl"
    for who, action in (
        ("ClassifyFunctionRole", "s3:PutObject"),
        ("MonitorFunctionRole", "s3:GetObject"),
        ("MonitorPolicy", "s3:GetObject"),
        ("ForgetPolicy", "s3:GetObject"),
        ("ForgetPolicy", "s3:PutObject"),
        ("ForgetPolicy", "s3:DeleteObjectVersion"),
    ):
        assert may(who, action, own)
        assert not may(who, action, other)
    for who in ("MonitorFunctionRole", "MonitorPolicy", "ForgetPolicy"):
        assert may(who, "s3:ListBucket", CAPTURES)
    assert may("ForgetPolicy", "s3:ListBucketVersions", CAPTURES)
    assert may("MonitorFunctionRole", "s3:GetObject", "arn:aws:s3:::workspace/models/1/baseline.json")


TLS_ONLY = [
    pytest.param(policy, id=f"{template}: {name}")
    for template, resources in TEMPLATES.items()
    for kind in ("AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy")
    for name, policy in of_type(resources, kind).items()
]


@pytest.mark.parametrize("policy", TLS_ONLY)
def test_nothing_is_read_or_written_without_tls(policy):
    document = policy["PolicyDocument"]
    (denial,) = (one for one in document["Statement"] if one["Effect"] == "Deny")
    arn = next(iter(denial["Resource"])) if isinstance(denial["Resource"], list) else denial["Resource"]
    service = arn.split(":")[2]
    calls = {
        "s3": [("s3:ListBucket", arn), ("s3:GetObject", f"{arn}/a.jpg"), ("s3:PutObject", f"{arn}/a.jpg")],
        "sqs": [("sqs:ReceiveMessage", arn), ("sqs:SendMessage", arn)],
        "sns": [("sns:Publish", arn)],
    }
    for action, resource in calls[service]:
        plain = evaluate_resource_policy(document, request(action, resource, tls=False))
        encrypted = evaluate_resource_policy(document, request(action, resource))
        assert (plain.decision, encrypted.decision) == ("Deny", "ImplicitDeny")


MANAGED = json.loads(aws_managed_policies_data)
TRACED = [name for name in PIPELINE if name.endswith(("FunctionRole", "StateMachineRole"))]


def actions(policy: str) -> set[str]:
    (statement,) = MANAGED[policy]["Document"]["Statement"]
    return set(statement["Action"])


LOGGED = (
    *(f"logs:{do}LogDelivery" for do in ("Create", "Get", "Update", "Delete")),
    *("logs:ListLogDeliveries", "logs:PutResourcePolicy"),
    *("logs:DescribeResourcePolicies", "logs:DescribeLogGroups"),
)
"""Step Functions Developer Guide, "Using CloudWatch Logs to log execution history in Step Functions"."""


@pytest.mark.parametrize("role", TRACED)
def test_what_runs_may_trace_and_log(role):
    """As AWS's own policies allow, but Lambda samples for its functions, and their log groups exist."""
    traces = actions("AWSXRayDaemonWriteAccess") - {"xray:GetSamplingStatisticSummaries"}
    logs = dict.fromkeys(LOGGED, "*")
    if role.endswith("FunctionRole"):
        traces -= {"xray:GetSamplingRules", "xray:GetSamplingTargets"}
        group = f"/aws/lambda/{STACK}-{role.removesuffix('FunctionRole').lower()}"
        arn = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:*"
        logs = dict.fromkeys(actions("AWSLambdaBasicExecutionRole") - {"logs:CreateLogGroup"}, arn)

    for action, resource in (dict.fromkeys(traces, "*") | logs).items():
        assert may(role, action, resource), action
