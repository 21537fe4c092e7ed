"""What the resources of the templates are for, each requirement for all resources that it concerns."""

import ast
import itertools
import json
import re
from typing import Any

import pytest
from ministack.core.iam_evaluator import EvalContext, evaluate_resource_policy
from samcli.yamlhelper import yaml_parse

from functions.classify import app as classify
from functions.serialize import app as serialize
from functions.serialize import sandbox
from tests.cloudformation import ACCOUNT, REGION, STACK, Resolver, Resources, resolve, translate
from tests.conftest import ROOT

ENDPOINT = "scones-unlimited-prod"
MONITORED = {
    "EndpointName": ENDPOINT,
    "CaptureUri": "s3://workspace/captures",
    "CapturePercent": "10",
    "BaselineUri": "s3://workspace/models/1/baseline.json",
    "AlarmEmail": "oncall@example.com",
}
PIPELINE = resolve("template.yaml", **MONITORED)
UNMONITORED = resolve("template.yaml", EndpointName=ENDPOINT)
SUBSCRIBER = resolve("events/subscriber.yaml", ResultsBusName=f"{STACK}-results")
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1"
STUDIO = {"Studio": "yes", "StudioVpcId": "vpc-1", "StudioSubnetIds": "subnet-1", "KmsKeyArn": KEY}
ROLES = resolve("model/roles.yaml", **STUDIO)
GITHUB = resolve(".github/oidc.yaml", Repository="owner/name", Stage="dev")
TEMPLATES = {
    "template.yaml": PIPELINE,
    "events/subscriber.yaml": SUBSCRIBER,
    "model/roles.yaml": ROLES,
    ".github/oidc.yaml": GITHUB,
}
TWO_WEEKS = 14 * 24 * 60 * 60


def of_type(resources: Resources, kind: str) -> dict[str, Any]:
    return {name: one["Properties"] for name, one in resources.items() if one["Type"] == kind}


def everywhere(kind: str) -> list:
    """Every resource of a type in all templates, as parameters of a test."""
    return [
        pytest.param(properties, id=f"{template}: {name}")
        for template, resources in TEMPLATES.items()
        for name, properties in of_type(resources, kind).items()
    ]


# ── Photos, results and messages are kept long enough, and no longer ────────────────────────────────────────


def test_a_photo_that_is_overwritten_or_deleted_can_be_told_from_its_successor():
    """Events name a version, and EventBridge gets them."""
    bucket = PIPELINE["UploadBucket"]["Properties"]

    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["NotificationConfiguration"]["EventBridgeConfiguration"]["EventBridgeEnabled"] is True


@pytest.mark.parametrize("bucket", everywhere("AWS::S3::Bucket"))
def test_old_versions_and_parts_of_uploads_do_not_stay_forever(bucket):
    everything = [rule for rule in bucket["LifecycleConfiguration"]["Rules"] if "Prefix" not in rule]

    assert all(rule["Status"] == "Enabled" for rule in bucket["LifecycleConfiguration"]["Rules"])
    assert [rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for rule in everything] == [1]
    if "VersioningConfiguration" in bucket:
        assert [rule["NoncurrentVersionExpiration"]["NoncurrentDays"] for rule in everything] == [7]


def test_captures_expire():
    rules = ROLES["WorkspaceBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]

    assert [rule["ExpirationInDays"] for rule in rules if rule.get("Prefix") == "captures/"] == [90]


def test_a_result_expires_by_the_attribute_that_the_state_machine_writes():
    table = PIPELINE["ResultsTable"]["Properties"]
    definition = json.loads((ROOT / "statemachine" / "classify.asl.json").read_text())
    item = definition["States"]["Record"]["Arguments"]["Item"]

    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert {"expires_at", *(key["AttributeName"] for key in table["KeySchema"])} <= item.keys()


def test_a_result_can_be_restored_to_any_second_and_costs_nothing_while_idle():
    table = PIPELINE["ResultsTable"]["Properties"]

    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    assert table["BillingMode"] == "PAY_PER_REQUEST"


RETAINING = [
    *(pytest.param(PIPELINE[name]["Properties"], id=name) for name in ("ReviewQueue", "FailedQueue")),
    pytest.param(SUBSCRIBER["Undelivered"]["Properties"], id="Undelivered"),
]


@pytest.mark.parametrize("queue", RETAINING)
def test_a_person_has_two_weeks_for_what_waits_in_a_queue(queue):
    assert queue["MessageRetentionPeriod"] == TWO_WEEKS


def test_what_a_subscriber_fails_to_process_is_kept():
    redrive = SUBSCRIBER["Queue"]["Properties"]["RedrivePolicy"]

    assert redrive["deadLetterTargetArn"].endswith("-Undelivered")
    assert redrive["maxReceiveCount"] > 1


def test_a_reviewer_has_minutes_for_a_photo_even_with_another_client():
    assert PIPELINE["ReviewQueue"]["Properties"]["VisibilityTimeout"] >= 60


# ── Events reach their target, or a queue ───────────────────────────────────────────────────────────────────

TARGETS = [
    pytest.param(target, id=f"{name}: {target['Id']}")
    for resources in (PIPELINE, SUBSCRIBER)
    for name, rule in of_type(resources, "AWS::Events::Rule").items()
    for target in rule["Targets"]
    # A schedule comes again.
    if "EventPattern" in rule
]
DEFAULT = {"MaximumEventAgeInSeconds": 24 * 60 * 60, "MaximumRetryAttempts": 185}
"""EventBridge's own policy (User Guide, "Event retry policy")."""


@pytest.mark.parametrize("target", TARGETS)
def test_an_event_is_tried_for_a_day_and_then_kept_in_a_queue(target):
    """What cannot be queued, or is a mail, has no queue of its own."""
    kept = target.get("DeadLetterConfig", {"Arn": target["Arn"]})["Arn"].rpartition("-")[2]

    assert target.get("RetryPolicy", DEFAULT) == DEFAULT
    assert kept in {"FailedQueue", "Undelivered", "AlarmTopic"}


@pytest.mark.parametrize("rule", everywhere("AWS::Events::Rule"))
def test_a_rule_has_a_target(rule):
    assert rule["Targets"]


EVENT = {
    "version": "0",
    "id": "1",
    "account": ACCOUNT,
    "region": REGION,
    "time": "2026-11-25T05:04:34Z",
    "resources": [],
}


def matches(
    rule: str, source: str, kind: str, detail: dict[str, Any], resources: Resources = PIPELINE
) -> bool:
    """Whether a rule's pattern matches an event, by moto's implementation of patterns."""
    from moto.events.models import EventPattern  # noqa: PLC0415  after the environment is set

    pattern = json.dumps(resources[rule]["Properties"]["EventPattern"])
    return EventPattern.load(pattern).matches_event(
        EVENT | {"source": source, "detail-type": kind, "detail": detail}
    )


BUCKET = PIPELINE["ClassifyStateMachinePhotoUploaded"]["Properties"]["EventPattern"]["detail"]["bucket"][
    "name"
][0]
UPLOADED = {"bucket": {"name": BUCKET}, "object": {"key": "uploads/a.jpg"}}


def test_only_uploads_to_this_bucket_are_classified():
    rule = "ClassifyStateMachinePhotoUploaded"

    assert matches(rule, "aws.s3", "Object Created", UPLOADED)
    for source, kind, detail in (
        ("custom", "Object Created", UPLOADED),
        ("aws.s3", "Object Deleted", UPLOADED),
        ("aws.s3", "Object Created", UPLOADED | {"bucket": {"name": "another"}}),
        ("aws.s3", "Object Created", UPLOADED | {"object": {"key": "archive/a.jpg"}}),
    ):
        assert not matches(rule, source, kind, detail)


MACHINE = PIPELINE["UncaughtRule"]["Properties"]["EventPattern"]["detail"]["stateMachineArn"][0]
ENDED = {"stateMachineArn": MACHINE, "status": "TIMED_OUT"}
STATUS = "Step Functions Execution Status Change"


@pytest.mark.parametrize(
    "detail",
    [
        {"status": "TIMED_OUT"},
        {"status": "ABORTED"},
        {"status": "FAILED", "error": "States.Runtime"},
        {"status": "FAILED", "error": "States.DataLimitExceeded"},
    ],
)
def test_what_the_state_machine_cannot_catch_is_queued(detail):
    assert matches("UncaughtRule", "aws.states", STATUS, ENDED | detail)


@pytest.mark.parametrize(
    ("source", "kind", "detail"),
    [
        ("aws.states", STATUS, {"status": "SUCCEEDED"}),
        ("aws.states", STATUS, {"status": "FAILED", "error": "EndpointUnavailableError"}),
        ("aws.states", STATUS, {"stateMachineArn": "another"}),
        ("aws.states", "Another", {}),
        ("custom", STATUS, {}),
    ],
)
def test_what_the_state_machine_queues_itself_is_not_queued_again(source, kind, detail):
    assert not matches("UncaughtRule", source, kind, ENDED | detail)


def test_only_photos_that_need_review_reach_the_review_queue():
    rule = "ReviewRule"

    assert matches(rule, "scones.vehicle-classifier", "VehicleNeedsReview", {})
    assert not matches(rule, "scones.vehicle-classifier", "VehicleClassified", {})
    assert not matches(rule, "custom", "VehicleNeedsReview", {})
    assert [target["InputPath"] for target in PIPELINE[rule]["Properties"]["Targets"]] == ["$.detail"]


MOTORCYCLE = {"version": "1", "label": "motorcycle", "confidence": 0.97}


def test_the_subscriber_gets_certain_motorcycles_of_the_version_that_it_knows():
    def gets(**detail: Any) -> bool:
        return matches(
            "Rule", "scones.vehicle-classifier", "VehicleClassified", MOTORCYCLE | detail, SUBSCRIBER
        )

    assert gets()
    assert not any((gets(version="2"), gets(label="bicycle"), gets(confidence=0.9)))
    assert not matches("Rule", "custom", "VehicleClassified", MOTORCYCLE, SUBSCRIBER)
    assert not matches("Rule", "scones.vehicle-classifier", "PhotoRejected", MOTORCYCLE, SUBSCRIBER)


def test_rules_for_outcomes_listen_on_the_results_bus():
    assert PIPELINE["ReviewRule"]["Properties"]["EventBusName"].endswith("-ResultsBus")
    assert SUBSCRIBER["Rule"]["Properties"]["EventBusName"] == f"{STACK}-results"
    assert PIPELINE["ResultsBus"]["Properties"]["Name"] == f"{STACK}-results"


def test_a_notification_says_which_execution_ended_how_and_what_to_do():
    (notified,) = (
        one for one in PIPELINE["UncaughtRule"]["Properties"]["Targets"] if "InputTransformer" in one
    )
    paths, template = (
        notified["InputTransformer"]["InputPathsMap"],
        notified["InputTransformer"]["InputTemplate"],
    )

    assert paths == {"status": "$.detail.status", "execution": "$.detail.executionArn"}
    assert {"<status>", "<execution>"} <= set(re.findall(r"<\w+>", template))
    assert "make replay" in template
    # Several lines, each a JSON string (EventBridge User Guide, "Input transformation").
    assert all(json.loads(re.sub(r"<\w+>", "x", line)) for line in template.splitlines())


# ── Who may use a resource ──────────────────────────────────────────────────────────────────────────────────


def allows(policy: dict[str, Any], service: str, action: str, arn: str, **context: Any) -> bool:
    """Whether a resource's policy lets an AWS service do something, by the emulator's evaluation."""
    keys = {f"aws:{name.lower()}": value for name, value in context.items()}
    request = EvalContext(
        principal_arn=f"arn:aws:iam::{ACCOUNT}:root",
        principal_type="Service",
        principal_account=ACCOUNT,
        action=action,
        resource_arn=arn,
        region=REGION,
        secure_transport=True,
        service_context=keys,
    )
    return evaluate_resource_policy(policy, request, service=service).decision == "Allow"


TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:{STACK}-AlarmTopic"
SERVICE_ACCESS = [
    pytest.param(resources, kind, name, id=name)
    for resources in (PIPELINE, SUBSCRIBER)
    for kind in ("AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy")
    for name in of_type(resources, kind)
]


@pytest.mark.parametrize(("resources", "kind", "name"), SERVICE_ACCESS)
def test_only_this_accounts_own_rules_and_alarms_can_write(resources, kind, name):
    """Otherwise anybody's rule, in any account, could fill the queue or send mails."""
    policy = resources[name]["Properties"]["PolicyDocument"]
    open_to = [one for one in policy["Statement"] if one["Effect"] == "Allow"]

    assert open_to
    for statement in open_to:
        service, action, arn = statement["Principal"]["Service"], statement["Action"], statement["Resource"]
        (pattern,) = [arn for keys in statement["Condition"].values() for arn in keys.values()]
        ours = pattern.replace("*", "x")
        foreign = ours.replace(ACCOUNT, "999999999999")
        assert allows(policy, service, action, arn, sourceArn=ours)
        assert not allows(policy, service, action, arn, sourceArn=foreign)
        assert not allows(policy, service, action, arn)
        assert not allows(policy, "s3.amazonaws.com", action, arn, sourceArn=ours)


def resource_policies(resources: Resources) -> dict[str, dict[str, Any]]:
    """The policy of each queue and topic, by its ARN."""
    policies = {}
    for kind in ("AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy"):
        for policy in of_type(resources, kind).values():
            document = policy["PolicyDocument"]
            policies |= {statement["Resource"]: document for statement in document["Statement"]}
    return policies


@pytest.mark.parametrize("resources", [PIPELINE, SUBSCRIBER], ids=["template.yaml", "subscriber.yaml"])
def test_a_rule_may_deliver_to_its_targets_and_to_the_queue_of_what_is_not_delivered(resources):
    """A rule's own ARN is its bus's name and its own, which begin with the stack's."""
    policies = resource_policies(resources)
    delivered = set()
    for name, rule in of_type(resources, "AWS::Events::Rule").items():
        for target in rule["Targets"]:
            arns = {target["Arn"], target.get("DeadLetterConfig", {}).get("Arn")} & policies.keys()
            delivered |= arns
            for arn in arns:
                action = "sqs:SendMessage" if ":sqs:" in arn else "sns:Publish"
                ours = f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{STACK}-{name}"
                assert allows(policies[arn], "events.amazonaws.com", action, arn, sourceArn=ours)

    assert delivered == policies.keys()


def test_alarms_may_notify():
    ours = f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm:{STACK}-DriftAlarm"

    policy = resource_policies(PIPELINE)[TOPIC]
    assert allows(policy, "cloudwatch.amazonaws.com", "sns:Publish", TOPIC, sourceArn=ours)


def test_the_failed_queue_takes_events_of_every_rule_of_this_stack_and_of_no_other():
    policy = PIPELINE["FailedQueuePolicy"]["Properties"]["PolicyDocument"]
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{STACK}-FailedQueue"
    rules = f"arn:aws:events:{REGION}:{ACCOUNT}:rule"

    def takes(rule: str) -> bool:
        return allows(policy, "events.amazonaws.com", "sqs:SendMessage", arn, sourceArn=f"{rules}/{rule}")

    assert takes(f"{STACK}-ClassifyStateMachinePhotoUploaded-1X")
    assert takes(f"{STACK}-results/{STACK}-ReviewRule-1X")
    assert not takes("somebody-elses")


TRUSTED = {"lambda", "states", "sagemaker", "cloudformation"}
ASSUMED = [
    pytest.param(role, id=f"{template}: {name}")
    for template, resources in TEMPLATES.items()
    for name, role in of_type(resources, "AWS::IAM::Role").items()
    if name not in {"DeployRole", "ClassifyStateMachinePhotoUploadedRole"}
]


@pytest.mark.parametrize("role", ASSUMED)
def test_a_role_is_for_one_service_of_this_account(role):
    """Lambda passes no source; a function's role is in its account anyway (Lambda Developer Guide)."""
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    service = statement["Principal"]["Service"]

    assert (statement["Effect"], statement["Action"]) == ("Allow", "sts:AssumeRole")
    assert service.removesuffix(".amazonaws.com") in TRUSTED
    if service != "lambda.amazonaws.com":
        assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}


def documents(value: Any) -> list[dict[str, Any]]:
    """The policy documents in a part of a template."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [value] if isinstance(value, dict) and "Statement" in value else []
    return found + [one for part in inner for one in documents(part)]


@pytest.mark.parametrize("path", TEMPLATES)
def test_policies_are_written_in_the_current_version_of_the_language(path):
    """In the older one, variables are plain text (IAM User Guide, "Version"). SAM writes one itself."""
    versions = {
        document.get("Version")
        for name, resource in TEMPLATES[path].items()
        for document in documents(resource)
        if name != "ClassifyStateMachinePhotoUploadedRole"
    }

    assert versions == {"2012-10-17"}


def test_the_alarm_key_encrypts_for_the_services_that_publish_and_for_roles_only_through_sns():
    policy = PIPELINE["AlarmKey"]["Properties"]["KeyPolicy"]

    def may(action: str, **context: str) -> bool:
        request = EvalContext(
            principal_arn=f"arn:aws:iam::{ACCOUNT}:role/any",
            principal_type="AssumedRole",
            principal_account=ACCOUNT,
            action=action,
            resource_arn="*",
            region=REGION,
            service_context=context,
        )
        return evaluate_resource_policy(policy, request).decision == "Allow"

    through_sns = {"kms:viaservice": f"sns.{REGION}.amazonaws.com"}
    for action in ("kms:Decrypt", "kms:GenerateDataKey"):
        for service in ("cloudwatch.amazonaws.com", "events.amazonaws.com"):
            assert allows(policy, service, action, "*")
        assert not allows(policy, "s3.amazonaws.com", action, "*")
        assert may(action, **through_sns)
        assert not may(action)
        assert not may(action, **{"kms:viaservice": f"s3.{REGION}.amazonaws.com"})
    statements = [
        one for document in documents(GITHUB["CloudFormationRole"]) for one in document["Statement"]
    ]
    listed = [one["Action"] if isinstance(one["Action"], list) else [one["Action"]] for one in statements]
    managing = {action for names in listed for action in names if action.startswith("kms:")}
    for action in (managing - {"kms:CreateKey"}) | {"kms:CancelKeyDeletion"}:
        assert may(action), action


def test_the_key_of_alarms_is_renewed_every_year():
    assert PIPELINE["AlarmKey"]["Properties"]["EnableKeyRotation"] is True


# ── Functions and state machines ────────────────────────────────────────────────────────────────────────────

FUNCTIONS = of_type(PIPELINE, "AWS::Lambda::Function")
MACHINES = of_type(PIPELINE, "AWS::StepFunctions::StateMachine")
OPTIONAL = {"MALLOC_TRIM_THRESHOLD_", "POWERTOOLS_SERVICE_NAME", "POWERTOOLS_METRICS_NAMESPACE"}
"""Settings that a library reads."""


def settings_read(function: str) -> set[str]:
    """The environment variables that a function's code reads."""
    folder = ROOT / "functions" / function.removesuffix("Function").lower()
    sources = [path.read_text() for path in folder.rglob("*.py")]
    return {name for text in sources for name in re.findall(r"environ(?:\.get\(|\[)[\"']([A-Z_]+)", text)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gets_every_setting_that_it_reads_and_no_other(name):
    given = set(FUNCTIONS[name]["Environment"]["Variables"])

    assert given - OPTIONAL == settings_read(name) - OPTIONAL
    assert {"POWERTOOLS_SERVICE_NAME", "POWERTOOLS_METRICS_NAMESPACE"} <= given


def test_settings_are_the_parameters():
    values = {name: one["Environment"]["Variables"] for name, one in FUNCTIONS.items()}

    assert values["ClassifyFunction"]["ENDPOINT_NAME"] == ENDPOINT
    assert values["ClassifyFunction"]["CAPTURE_URI"] == MONITORED["CaptureUri"]
    assert values["ClassifyFunction"]["CAPTURE_PERCENT"] == MONITORED["CapturePercent"]
    assert values["MonitorFunction"]["CAPTURE_URI"] == f"{MONITORED['CaptureUri']}/{ENDPOINT}"
    assert values["MonitorFunction"]["BASELINE_URI"] == MONITORED["BaselineUri"]
    assert int(values["SerializeFunction"]["MALLOC_TRIM_THRESHOLD_"]) == 16 * 2**20
    assert "CAPTURE_URI" not in UNMONITORED["ClassifyFunction"]["Properties"]["Environment"]["Variables"]


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_is_built_for_the_locked_python_and_the_chosen_processor(function):
    locked = re.search(r'requires-python = "==([\d.]+)\.\*"', (ROOT / "pyproject.toml").read_text())

    assert locked
    assert function["Runtime"] == f"python{locked[1]}"
    assert function["Architectures"] == ["x86_64"]
    assert function["Handler"] == "app.lambda_handler"


def test_a_functions_code_is_its_own_folder():
    """SAM builds what the source names."""
    source = yaml_parse((ROOT / "template.yaml").read_text())["Resources"]

    for name in FUNCTIONS:
        assert source[name]["Properties"]["CodeUri"] == f"functions/{name.removesuffix('Function').lower()}/"


@pytest.mark.parametrize(("name", "function"), FUNCTIONS.items())
def test_a_function_has_its_own_role_and_log(name, function):
    assert function["Role"].endswith(f"-{name}Role")
    group = f"/aws/lambda/{STACK}-{name.removesuffix('Function').lower()}"
    assert function["LoggingConfig"]["LogGroup"] == group


def longest_call(client: Any) -> float:
    """The seconds after which a client gives up, with botocore's pauses (standard mode, Retries)."""
    settings = client.meta.config
    assert settings.retries["mode"] == "standard"
    attempts = settings.retries["total_max_attempts"]
    pauses = sum(2**retry for retry in range(attempts - 1))
    return attempts * (settings.connect_timeout + settings.read_timeout) + pauses


def test_a_function_is_done_with_its_retries_before_its_timeout():
    """Otherwise Lambda ends it, and the error does not say what was unavailable."""
    timeouts = {name: function["Timeout"] for name, function in FUNCTIONS.items()}

    assert longest_call(serialize.S3) + sandbox.DECODING_SECONDS < timeouts["SerializeFunction"]
    assert longest_call(classify.RUNTIME) + longest_call(classify.storage()) < timeouts["ClassifyFunction"]
    for client in (serialize.S3, classify.storage()):
        assert client.meta.config.retries["total_max_attempts"] > 1
    # The state machine repeats it: a function that waits costs money.
    assert classify.RUNTIME.meta.config.retries["total_max_attempts"] == 1


def test_every_execution_and_call_is_traced():
    assert {function["TracingConfig"]["Mode"] for function in FUNCTIONS.values()} == {"Active"}
    assert all(machine["TracingConfiguration"]["Enabled"] is True for machine in MACHINES.values())


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_a_state_machine_logs_at_least_its_failures(machine):
    logging = machine["LoggingConfiguration"]

    assert logging["Level"] in {"ALL", "ERROR"}
    assert len(logging["Destinations"]) == 1


def test_executions_of_photos_are_logged_whole_because_express_ones_have_no_history():
    assert MACHINES["ClassifyStateMachine"]["LoggingConfiguration"]["Level"] == "ALL"


def test_the_workflow_type_is_chosen_but_a_backfill_is_standard():
    """A map run belongs to a Standard execution."""
    express = resolve("template.yaml", EndpointName=ENDPOINT, WorkflowType="EXPRESS")

    assert PIPELINE["ClassifyStateMachine"]["Properties"]["StateMachineType"] == "STANDARD"
    assert express["ClassifyStateMachine"]["Properties"]["StateMachineType"] == "EXPRESS"
    assert "StateMachineType" not in express["BackfillStateMachine"]["Properties"]


def test_logs_are_named_after_the_stack_and_kept_as_long_as_chosen():
    chosen = resolve("template.yaml", **MONITORED, LogRetentionDays="7")
    groups = of_type(chosen, "AWS::Logs::LogGroup")

    assert {group["RetentionInDays"] for group in groups.values()} == {"7"}
    for group in groups.values():
        # The second prefix avoids a limit of the policy for log delivery (Step Functions Developer Guide).
        assert group["LogGroupName"].startswith((f"/aws/lambda/{STACK}-", f"/aws/vendedlogs/states/{STACK}-"))


def test_the_monitor_runs_when_the_hours_captures_have_arrived():
    (minute, hour, *_) = re.findall(
        r"[^\s()]+", PIPELINE["MonitorFunctionEveryHour"]["Properties"]["ScheduleExpression"]
    )[1:]

    assert (int(minute) >= 10, hour) == (True, "*")


def test_without_captures_nothing_monitors():
    gone = PIPELINE.keys() - UNMONITORED.keys()

    assert {
        "MonitorFunction",
        "MonitorFunctionRole",
        "MonitorLogGroup",
        "DriftAlarm",
        "AccuracyAlarm",
    } <= gone
    assert all(
        name.startswith(("Monitor", "Drift", "Accuracy", "Captures", "UnderThreshold", "AlarmSub"))
        for name in gone
    )


# ── Alarms ──────────────────────────────────────────────────────────────────────────────────────────────────

ALARMS = of_type(PIPELINE, "AWS::CloudWatch::Alarm")
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize(("name", "alarm"), ALARMS.items())
def test_an_alarm_notifies_when_it_goes_off_and_when_it_is_over(name, alarm):
    assert alarm["AlarmActions"] == alarm["OKActions"] == [TOPIC]
    # Without traffic there is no data, which is no alarm.
    assert alarm["TreatMissingData"] == "notBreaching"


@pytest.mark.parametrize(("name", "alarm"), ALARMS.items())
def test_an_alarm_names_its_entry_in_the_runbook(name, alarm):
    assert f"docs/operations.md#{name.lower()}" in alarm["AlarmDescription"]
    assert re.search(rf"^## .*\b{name}\b", RUNBOOK, flags=re.MULTILINE)


def published() -> set[str]:
    """The names of the metrics that functions publish."""
    calls = [
        node
        for path in (ROOT / "functions").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_metric"
    ]
    texts = [part for call in calls for part in ast.walk(call.args[0]) if isinstance(part, ast.Constant)]
    return {text.value for text in texts}


METRICS = {
    "AWS/Lambda": ({"Errors", "Throttles", "Duration"}, {"FunctionName"}),
    "AWS/States": ({"ExecutionsFailed", "ExecutionsTimedOut"}, {"StateMachineArn"}),
    "AWS/SQS": ({"ApproximateNumberOfMessagesVisible"}, {"QueueName"}),
    "AWS/SageMaker": ({"Invocation5XXErrors", "ModelLatency"}, {"EndpointName", "VariantName"}),
    f"SconesUnlimited/{STACK}": (published(), {"service"}),
}
"""Metrics and their dimensions, as each service's developer guide lists them."""


def watched(alarm: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of an alarm, also of one that computes, as an alarm on one metric has them."""
    statistics = [one["MetricStat"] for one in alarm.get("Metrics", []) if "MetricStat" in one]
    return [one["Metric"] | {"Statistic": one["Stat"], "Period": one["Period"]} for one in statistics] or [
        alarm
    ]


@pytest.mark.parametrize(("name", "alarm"), ALARMS.items())
def test_an_alarm_watches_metrics_that_exist(name, alarm):
    for metric in watched(alarm):
        metrics, dimensions = METRICS[metric["Namespace"]]
        assert metric["MetricName"] in metrics
        assert {one["Name"] for one in metric["Dimensions"]} == dimensions
        assert len([key for key in ("Statistic", "ExtendedStatistic") if key in metric]) == 1
        assert metric["Period"] in {60, 300, 3600}
    # The first period beyond the threshold is enough; only a percentile of few answers is noisy.
    assert alarm["EvaluationPeriods"] == (3 if "ExtendedStatistic" in alarm else 1)


def test_photos_that_wait_for_capacity_are_not_errors_of_classify():
    """In a period in which none waits, the metric does not exist."""
    expressions = [one for one in ALARMS["ClassifyErrorsAlarm"]["Metrics"] if "Expression" in one]

    assert [one["Expression"] for one in expressions] == ["errors - FILL(busy, 0)"]
    assert {one["MetricName"] for one in watched(ALARMS["ClassifyErrorsAlarm"])} == {"Errors", "EndpointBusy"}


@pytest.mark.parametrize(("name", "alarm"), ALARMS.items())
def test_an_alarm_watches_what_it_is_named_after(name, alarm):
    for dimension in itertools.chain.from_iterable(metric["Dimensions"] for metric in watched(alarm)):
        match dimension["Name"]:
            case "FunctionName":
                assert name.startswith(dimension["Value"].removeprefix(f"{STACK}-").removesuffix("Function"))
            case "QueueName":
                assert dimension["Value"] == f"{STACK}-{name.removesuffix('Alarm')}"
            case "StateMachineArn":
                assert dimension["Value"].endswith(":scones-unlimited-dev-classify")
            case "service":
                assert (
                    dimension["Value"]
                    == FUNCTIONS["ClassifyFunction"]["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]
                )
            case "VariantName":
                assert dimension["Value"] == "AllTraffic"
            case "EndpointName":
                assert dimension["Value"] == ENDPOINT


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_functions_errors_throttles_and_long_runs_go_off(function):
    stem = function.removesuffix("Function")
    errors, throttles, duration = (
        ALARMS[f"{stem}{kind}Alarm"] for kind in ("Errors", "Throttles", "Duration")
    )

    for counted in (errors, throttles):
        assert {metric["Statistic"] for metric in watched(counted)} == {"Sum"}
        assert counted["Threshold"] == 0
    assert duration["Statistic"] == "Maximum"
    assert duration["Threshold"] == 0.8 * 1000 * FUNCTIONS[function]["Timeout"]


def test_alarms_go_off_above_their_threshold_except_accuracys():
    below = {name for name, alarm in ALARMS.items() if alarm["ComparisonOperator"] == "LessThanThreshold"}
    above = {name for name, alarm in ALARMS.items() if alarm["ComparisonOperator"] == "GreaterThanThreshold"}

    assert below == {"AccuracyAlarm"}
    assert below | above == ALARMS.keys()


def test_alarms_of_parameters_have_their_values():
    chosen = {"ReviewBacklog": "7", "LeastAccuracy": "0.5", "MostUnderThreshold": "0.6"}
    alarms = of_type(resolve("template.yaml", **MONITORED, **chosen), "AWS::CloudWatch::Alarm")

    limits = {
        name: alarms[f"{name}Alarm"]["Threshold"] for name in ("ReviewQueue", "Accuracy", "UnderThreshold")
    }
    assert limits == {"ReviewQueue": "7", "Accuracy": "0.5", "UnderThreshold": "0.6"}


def test_an_address_is_subscribed_to_the_alarms_if_there_is_one():
    assert PIPELINE["AlarmSubscription"]["Properties"] == {
        "TopicArn": TOPIC,
        "Protocol": "email",
        "Endpoint": "oncall@example.com",
    }
    assert "AlarmSubscription" not in UNMONITORED


@pytest.mark.parametrize("resources", [PIPELINE, UNMONITORED], ids=["monitored", "unmonitored"])
def test_the_dashboard_shows_every_alarm_and_only_metrics_of_what_exists(resources):
    dashboard = resources["Dashboard"]["Properties"]
    widgets = json.loads(dashboard["DashboardBody"])["widgets"]
    shown = [one for widget in widgets for one in widget["properties"].get("alarms", [])]

    assert sorted(arn.rpartition("-")[2] for arn in shown) == sorted(
        of_type(resources, "AWS::CloudWatch::Alarm")
    )
    # The name is that of a stack in one region, because dashboards are global.
    assert dashboard["DashboardName"] == f"{STACK}-{REGION}"
    assert ("MonitorFunction" in dashboard["DashboardBody"]) == ("MonitorFunction" in resources)


# ── Outputs ─────────────────────────────────────────────────────────────────────────────────────────────────


def outputs(path: str, **parameters: str) -> dict[str, Any]:
    """A template's outputs with their values, without those whose condition is false."""
    template = translate(path)
    resolver = Resolver(template, parameters, STACK)
    found = template["Outputs"].items()
    return {
        name: resolver.value(one["Value"])
        for name, one in found
        if "Condition" not in one or resolver._holds(one["Condition"])
    }


OUTPUTS = {
    "template.yaml": outputs("template.yaml", **MONITORED),
    "model/roles.yaml": outputs("model/roles.yaml", **STUDIO),
    ".github/oidc.yaml": outputs(".github/oidc.yaml", Repository="owner/name", Stage="dev"),
    "events/subscriber.yaml": outputs("events/subscriber.yaml", ResultsBusName="bus"),
}


def test_every_output_that_the_commands_and_the_documentation_name_exists():
    named = re.compile(
        r"""output\(["'](\w+)|outputs\[["'](\w+)|OutputKey=='(\w+)'|`(\w+(?:PolicyArn|RoleArn))`"""
    )
    texts = [
        path.read_text()
        for pattern in ("pipeline/**/*.py", "local/**/*.py", "model/**/*.py", "docs/*.md", "README.md")
        for path in ROOT.glob(pattern)
    ]
    read = {name for text in texts for found in named.findall(text) for name in found if name}

    assert read <= {name for names in OUTPUTS.values() for name in names}
    assert {"ResultsBusName", "ForgetPolicyArn", "DeployerPolicyArn"} <= read


USED = {
    "AWS::CloudWatch::Dashboard": "Name",
    "AWS::IAM::ManagedPolicy": "Arn",
    "AWS::Lambda::Function": "Name",
    "AWS::SageMaker::Domain": "Id",
    "AWS::SNS::Topic": "Arn",
    "AWS::SQS::Queue": "Url",
}
"""What people attach, open, subscribe to and read messages of, and what their outputs' names end with."""


@pytest.mark.parametrize("path", TEMPLATES)
def test_what_people_use_is_an_output(path):
    used = {f"{name}{USED[one['Type']]}" for name, one in TEMPLATES[path].items() if one["Type"] in USED}

    # Messages that a subscriber does not process have no reader yet.
    assert used - {"UndeliveredUrl"} <= OUTPUTS[path].keys()
