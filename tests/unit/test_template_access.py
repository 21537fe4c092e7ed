"""Access rules that every template follows, each with tests that it detects violations.

The rules check the template after SAM's transform, as CloudFormation receives it, so that they include the
roles and policies that SAM creates. Reasons for exceptions are comments in the source.
"""

import copy
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import yaml
from samcli.lib.translate.sam_template_validator import SamTemplateValidator
from samcli.yamlhelper import yaml_parse

from tests.conftest import ROOT

TEMPLATES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.yaml", "[!.]*/*.yaml", "[!.]*/*/*.yaml", ".github/*.yaml")
    for path in ROOT.glob(pattern)
    # The template of the baseline design in tests/bench need not follow the rules.
    if "AWSTemplateFormatVersion" in path.read_text() and not path.is_relative_to(ROOT / "tests")
)
OURS = ("scones-unlimited", "${AWS::StackName}")
"""Prefixes of names that only this project's resources have."""

type Template = dict[str, Any]
type Resource = dict[str, Any]


class Finding(NamedTuple):
    """A violation of a rule by a resource."""

    rule: str
    resource: str


class NoPolicies:
    """The templates use no AWS managed policies, whose list would have to be fetched."""

    def load(self) -> dict[str, str]:
        return {}


def translated(source: str) -> Template:
    """A template as CloudFormation receives it."""
    template = yaml_parse(source)
    if "Transform" not in template:
        return template
    validator = SamTemplateValidator(template, NoPolicies(), region="us-east-1")
    return yaml_parse(validator.get_translated_template_if_valid())


SOURCES = {path: (ROOT / path).read_text() for path in TEMPLATES}
SOUND = {path: translated(source) for path, source in SOURCES.items()}


def aslist(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def parts(value: Any) -> Iterator[Any]:
    """A value and everything in it, including both branches of an Fn::If."""
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from parts(one)


def statements(resource: Resource, effect: str = "Allow") -> list[dict[str, Any]]:
    """The statements of all policies in a resource."""
    found = (part for part in parts(resource) if isinstance(part, dict))
    return [part for part in found if part.get("Effect") == effect]


def of_type(template: Template, kind: str) -> dict[str, Resource]:
    found = {name: one for name, one in template["Resources"].items() if one["Type"] == kind}
    return {name: one.get("Properties", {}) for name, one in found.items()}


def wildcard_actions(template: Template, source: str) -> Iterator[str]:
    for name, resource in template["Resources"].items():
        for statement in statements(resource):
            if "NotAction" in statement or any("*" in action for action in aslist(statement["Action"])):
                yield name


def unexplained_wildcard_resources(template: Template, source: str) -> Iterator[str]:
    """Resources with a statement for any resource, without a reason in the source."""
    explained = reasons(source)
    for name, resource in template["Resources"].items():
        for statement in statements(resource):
            wide = "NotResource" in statement or is_wide(statement.get("Resource", []))
            if wide and (name, statement.get("Sid")) not in explained:
                yield name


def is_wide(resource: Any) -> bool:
    texts = [text for text in parts(resource) if isinstance(text, str)]
    return any("*" in text and not is_narrow(text) for text in texts)


def is_narrow(arn: str) -> bool:
    """Whether the part before a wildcard is specific to this project."""
    before = arn.partition("*")[0]
    return bool(re.search(r"\$\{(?!AWS::)", before)) or any(name in before for name in OURS)


@functools.cache
def reasons(text: str) -> set[tuple[str, str]]:
    """The resource and Sid of each statement that has a comment."""
    lines = text.splitlines()
    explained = set()
    for name, resource in entries(entries_by_name(yaml.compose(text))["Resources"]):
        for node in nodes(resource):
            keys = entries_by_name(node)
            if not {"Sid", "Effect"} <= keys.keys():
                continue
            last = max(leaf.start_mark.line for leaf in nodes(node) if isinstance(leaf, yaml.ScalarNode))
            written = lines[node.start_mark.line : last + 1]
            if any(line.lstrip().startswith("#") or "  # " in line for line in written):
                explained.add((name, keys["Sid"].value))
    return explained


def nodes(node: yaml.Node) -> Iterator[yaml.Node]:
    yield node
    inner = (
        [child for pair in node.value for child in pair]
        if isinstance(node, yaml.MappingNode)
        else node.value
        if isinstance(node, yaml.SequenceNode)
        else []
    )
    for child in inner:
        yield from nodes(child)


def entries(node: yaml.Node) -> list[tuple[str, yaml.Node]]:
    return (
        [(key.value, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
        if isinstance(node, yaml.MappingNode)
        else []
    )


def entries_by_name(node: yaml.Node) -> dict[str, yaml.Node]:
    return dict(entries(node))


def open_to_anyone(template: Template, source: str) -> Iterator[str]:
    """Resources whose policy allows access to anyone in any account."""
    for name, resource in template["Resources"].items():
        principals = [statement.get("Principal") for statement in statements(resource)]
        if resource["Type"] == "AWS::Lambda::Permission":
            principals.append(resource["Properties"]["Principal"])
        if resource["Type"] == "AWS::Lambda::Url" and resource["Properties"]["AuthType"] == "NONE":
            yield name
        if any("*" in parts(principal) for principal in principals):
            yield name


def public_buckets(template: Template, source: str) -> Iterator[str]:
    blocks = {"BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"}
    for name, bucket in of_type(template, BUCKET).items():
        settings = bucket.get("PublicAccessBlockConfiguration", {})
        blocked = {key for key, value in settings.items() if value is True}
        rules = bucket.get("OwnershipControls", {}).get("Rules", [])
        owner_alone = [rule["ObjectOwnership"] for rule in rules] == ["BucketOwnerEnforced"]
        if blocked != blocks or not owner_alone or "AccessControl" in bucket:
            yield name


BUCKET, BUCKET_POLICY = "AWS::S3::Bucket", "AWS::S3::BucketPolicy"
QUEUE, QUEUE_POLICY = "AWS::SQS::Queue", "AWS::SQS::QueuePolicy"
TOPIC, TOPIC_POLICY = "AWS::SNS::Topic", "AWS::SNS::TopicPolicy"
TABLE, MACHINE = "AWS::DynamoDB::Table", "AWS::StepFunctions::StateMachine"

ENCRYPTED: dict[str, Callable[[Resource], Any]] = {
    BUCKET: lambda bucket: bucket.get("BucketEncryption"),
    TABLE: lambda table: table.get("SSESpecification", {}).get("SSEEnabled") is True,
    QUEUE: lambda queue: queue.get("SqsManagedSseEnabled") is True or queue.get("KmsMasterKeyId"),
    TOPIC: lambda topic: topic.get("KmsMasterKeyId"),
}
"""CloudWatch encrypts all logs, and EventBridge all buses, by default."""


def unencrypted_stores(template: Template, source: str) -> Iterator[str]:
    for kind, encrypted in ENCRYPTED.items():
        yield from (name for name, store in of_type(template, kind).items() if not encrypted(store))


POLICIES = {
    BUCKET: (BUCKET_POLICY, "Bucket"),
    QUEUE: (QUEUE_POLICY, "Queues"),
    TOPIC: (TOPIC_POLICY, "Topics"),
}


def reached_without_tls(template: Template, source: str) -> Iterator[str]:
    for kind, (policy_kind, about) in POLICIES.items():
        guarded = {
            reference["Ref"]
            for policy in of_type(template, policy_kind).values()
            if any(is_tls_only(statement) for statement in statements(policy, "Deny"))
            for reference in aslist(policy[about])
        }
        yield from of_type(template, kind).keys() - guarded


def is_tls_only(statement: dict[str, Any]) -> bool:
    return (
        statement["Principal"] == "*"
        and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
        # A topic policy may not have a wildcard action; publishing is the only access from outside.
        and aslist(statement["Action"])[0] in {"s3:*", "sqs:*", "sns:Publish"}
    )


def logs_without_retention(template: Template, source: str) -> Iterator[str]:
    groups = of_type(template, "AWS::Logs::LogGroup")
    yield from (name for name, group in groups.items() if "RetentionInDays" not in group)
    for name, function in of_type(template, "AWS::Lambda::Function").items():
        if function.get("LoggingConfig", {}).get("LogGroup", {}).get("Ref") not in groups:
            yield name
    for name, machine in of_type(template, MACHINE).items():
        named = [text for text in parts(machine.get("LoggingConfiguration")) if isinstance(text, str)]
        if not groups.keys() & set(named):
            yield name


def photos_in_logs(template: Template, source: str) -> Iterator[str]:
    for name, machine in of_type(template, MACHINE).items():
        if machine.get("LoggingConfiguration", {}).get("IncludeExecutionData"):
            yield name


def data_without_expiry(template: Template, source: str) -> Iterator[str]:
    """Buckets and tables in which nothing expires."""
    for name, bucket in of_type(template, BUCKET).items():
        rules = bucket.get("LifecycleConfiguration", {}).get("Rules", [])
        if not any("ExpirationInDays" in rule and rule["Status"] == "Enabled" for rule in rules):
            yield name
    for name, table in of_type(template, TABLE).items():
        if not table.get("TimeToLiveSpecification", {}).get("Enabled"):
            yield name


RULES = (
    wildcard_actions,
    unexplained_wildcard_resources,
    open_to_anyone,
    public_buckets,
    unencrypted_stores,
    reached_without_tls,
    logs_without_retention,
    photos_in_logs,
    data_without_expiry,
)


def findings(template: Template, source: str) -> set[Finding]:
    return {Finding(rule.__name__, name) for rule in RULES for name in rule(template, source)}


@pytest.mark.parametrize("path", TEMPLATES)
def test_a_template_follows_every_rule(path):
    assert findings(SOUND[path], SOURCES[path]) == set()


def test_the_templates_are_found():
    assert {"template.yaml", "model/roles.yaml", ".github/oidc.yaml"} <= set(TEMPLATES)


# Ways to break a template: a type of resource, the rule that must detect it, and the change.
def put(*keys: str, value: Any) -> Callable[[Resource], None]:
    def change(resource: Resource) -> None:
        properties = resource["Properties"]
        for key in keys[:-1]:
            properties = properties[key]
        properties[keys[-1]] = value

    return change


def drop(key: str) -> Callable[[Resource], None]:
    return lambda resource: resource["Properties"].pop(key, None)


def allow(**more: Any) -> Callable[[Resource], None]:
    """Add a statement to the first policy in a resource."""
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::a/b"} | more

    def change(resource: Resource) -> None:
        policies = [part for part in parts(resource["Properties"]) if isinstance(part, dict)]
        lists = [part["Statement"] for part in policies if isinstance(part.get("Statement"), list)]
        lists[-1].append(statement)

    return change


def drop_denials(resource: Resource) -> None:
    for part in parts(resource["Properties"]):
        if isinstance(part, dict) and isinstance(part.get("Statement"), list):
            part["Statement"] = [one for one in part["Statement"] if one["Effect"] != "Deny"]


ROLE, POLICY = "AWS::IAM::Role", "AWS::IAM::ManagedPolicy"
WIDE, TOPIC_OF_ALL = "unexplained_wildcard_resources", {"Fn::Sub": "arn:aws:sns:${AWS::Region}:*:topic"}
BREAKAGES: list[tuple[str, str, Callable[[Resource], None]]] = [
    (ROLE, "wildcard_actions", allow(Action="s3:*")),
    (ROLE, "wildcard_actions", allow(Action=["sqs:SendMessage", "s3:Get*"])),
    (ROLE, "wildcard_actions", allow(NotAction="s3:PutObject")),
    (POLICY, "wildcard_actions", allow(Action="*")),
    (ROLE, WIDE, allow(Sid="New", Resource="*")),
    (ROLE, WIDE, allow(Sid="New", Resource=["arn:aws:s3:::a/b", "arn:aws:s3:::*"])),
    (ROLE, WIDE, allow(Sid="New", Resource=TOPIC_OF_ALL)),
    (POLICY, WIDE, allow(Resource="*")),
    (BUCKET_POLICY, "open_to_anyone", allow(Principal="*")),
    (QUEUE_POLICY, "open_to_anyone", allow(Principal={"AWS": "*"})),
    (TOPIC_POLICY, "open_to_anyone", allow(Principal={"AWS": ["1", "*"]})),
    ("AWS::Lambda::Permission", "open_to_anyone", put("Principal", value="*")),
    (BUCKET, "public_buckets", drop("PublicAccessBlockConfiguration")),
    (BUCKET, "public_buckets", put("PublicAccessBlockConfiguration", "BlockPublicPolicy", value=False)),
    (BUCKET, "public_buckets", drop("OwnershipControls")),
    (BUCKET, "public_buckets", put("AccessControl", value="PublicRead")),
    (BUCKET, "unencrypted_stores", drop("BucketEncryption")),
    (TABLE, "unencrypted_stores", drop("SSESpecification")),
    (QUEUE, "unencrypted_stores", put("SqsManagedSseEnabled", value=False)),
    (TOPIC, "unencrypted_stores", drop("KmsMasterKeyId")),
    ("AWS::Logs::LogGroup", "logs_without_retention", drop("RetentionInDays")),
    ("AWS::Lambda::Function", "logs_without_retention", drop("LoggingConfig")),
    (MACHINE, "logs_without_retention", drop("LoggingConfiguration")),
    (MACHINE, "photos_in_logs", put("LoggingConfiguration", "IncludeExecutionData", value=True)),
    (BUCKET, "data_without_expiry", drop("LifecycleConfiguration")),
    (TABLE, "data_without_expiry", drop("TimeToLiveSpecification")),
]
BROKEN = [
    pytest.param(path, name, rule, change, id=f"{path}: {name}: {rule} {number}")
    for path, template in SOUND.items()
    for name, resource in template["Resources"].items()
    for number, (kind, rule, change) in enumerate(BREAKAGES)
    if resource["Type"] == kind
]


@pytest.mark.parametrize(("path", "name", "rule", "change"), BROKEN)
def test_a_broken_template_is_detected(path, name, rule, change):
    template = copy.deepcopy(SOUND[path])

    change(template["Resources"][name])

    assert findings(template, SOURCES[path]) == {Finding(rule, name)}


@pytest.mark.parametrize(
    ("path", "guarded", "policy"),
    [
        pytest.param(path, reference["Ref"], name, id=f"{path}: {name}")
        for path, template in SOUND.items()
        for policy_kind, about in POLICIES.values()
        for name, policy in of_type(template, policy_kind).items()
        for reference in aslist(policy[about])
    ],
)
def test_a_policy_that_allows_plain_http_is_detected(path, guarded, policy):
    weaker, without = copy.deepcopy(SOUND[path]), copy.deepcopy(SOUND[path])

    drop_denials(weaker["Resources"][policy])
    del without["Resources"][policy]

    for template in (weaker, without):
        assert findings(template, SOURCES[path]) == {Finding("reached_without_tls", guarded)}


def test_every_rule_is_tested():
    failing = {param.values[2] for param in BROKEN} | {"reached_without_tls"}

    assert failing == {rule.__name__ for rule in RULES}


WILD = [
    path for path, template in SOUND.items() if any(unexplained_wildcard_resources(template, "Resources: {}"))
]


@pytest.mark.parametrize("path", WILD)
def test_a_reason_that_is_removed_from_the_source_is_missed(path):
    lines = [line.split("  # ")[0] for line in SOURCES[path].splitlines()]
    silent = "\n".join(line for line in lines if not line.lstrip().startswith("#"))

    missed = findings(SOUND[path], silent)

    assert {finding.rule for finding in missed} == {"unexplained_wildcard_resources"}
    assert len(missed) > 1


def test_rules_check_the_transformed_template():
    made = {resource["Type"] for resource in SOUND["template.yaml"]["Resources"].values()}

    assert {"AWS::Lambda::Function", "AWS::Lambda::Permission", MACHINE} <= made
    assert not [kind for kind in made if kind.startswith("AWS::Serverless")]
