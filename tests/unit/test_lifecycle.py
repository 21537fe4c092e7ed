"""Everything that is written to the upload bucket expires, and docs/security.md says when."""

import json
import re
from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse

from pipeline import activation, load_test
from tests.conftest import ROOT

TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
RULES = TEMPLATE["Resources"]["UploadBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
RETENTION = {rule["Prefix"]: rule["ExpirationInDays"]["Ref"] for rule in RULES if "Prefix" in rule}
"""The parameter with the retention in days of each prefix."""
STORED = (ROOT / "docs" / "security.md").read_text().partition("\n## Forget a photo")[0]


def statements(value: Any) -> list[dict[str, Any]]:
    """Every statement in a part of the template."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [value] if isinstance(value, dict) and "Effect" in value else []
    return found + [one for part in inner for one in statements(part)]


def prefixes_allowed(*actions: str) -> set[str]:
    """The prefixes of the upload bucket under which some statement allows one of these actions."""
    allowed = [json.dumps(one) for one in statements(TEMPLATE)]
    matching = [one for one in allowed if any(f'"{action}"' in one for action in actions)]
    return {prefix for one in matching for prefix in re.findall(r"\$\{UploadBucket\.Arn\}/([^\"]+)\*\"", one)}


def written() -> set[str]:
    """The prefixes under which photos are read, and under which the code writes."""
    backfill = (ROOT / "statemachine" / "backfill.asl.json").read_text()
    ground_truth = TEMPLATE["Outputs"]["GroundTruthUri"]["Value"]["Fn::Sub"]
    return {
        *prefixes_allowed("s3:PutObject", "s3:GetObject", "s3:GetObjectVersion"),
        *re.findall(r"'(\w+/)'", backfill),
        *(f"{prefix}/" for prefix in re.findall(r'"Prefix": "(\w+)"', backfill)),
        ground_truth.removeprefix("s3://${UploadBucket}/") + "/",
        load_test.PREFIX,
        activation.FOLDER,
    }


def test_the_prefixes_that_are_written_are_found():
    folders = {"uploads/", "archive/", "ground-truth/", "backfills/", "activation/", "erasures/"}
    assert written() == folders | {load_test.PREFIX}


@pytest.mark.parametrize("prefix", sorted(written()))
def test_what_is_written_under_a_prefix_expires(prefix):
    (rule,) = [one for one in RULES if "Prefix" in one and prefix.startswith(one["Prefix"])]

    assert rule["Status"] == "Enabled"
    assert RETENTION[rule["Prefix"]] in TEMPLATE["Parameters"]


def test_no_rule_is_for_a_prefix_that_nothing_writes():
    assert RETENTION.keys() <= written()


def test_photos_labels_and_manifests_have_a_retention_of_their_own():
    assert RETENTION == {
        "uploads/": "PhotoRetentionDays",
        "archive/": "PhotoRetentionDays",
        "activation/": "PhotoRetentionDays",
        "ground-truth/": "ResultRetentionDays",
        "backfills/": "LogRetentionDays",
        "erasures/": "LogRetentionDays",
    }


def test_old_versions_and_interrupted_uploads_expire_under_every_prefix():
    (rule,) = [one for one in RULES if "Prefix" not in one]

    assert rule["Status"] == "Enabled"
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 7}
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}


@pytest.mark.parametrize(("prefix", "parameter"), RETENTION.items())
def test_the_documentation_names_the_retention_of_every_prefix(prefix, parameter):
    (row,) = [line for line in STORED.splitlines() if f"`{prefix}`" in line]

    assert f"{TEMPLATE['Parameters'][parameter]['Default']} days" in row
    assert f"`{parameter}`" in row


def test_what_aws_keeps_of_a_deleted_stack_is_documented():
    resources = TEMPLATE["Resources"]
    recovery = resources["ResultsTable"]["Properties"]["PointInTimeRecoverySpecification"]
    keys = [one["Properties"] for one in resources.values() if one["Type"] == "AWS::KMS::Key"]
    pages = [(ROOT / "docs" / page).read_text() for page in ("security.md", "aws.md", "commands.md")]

    assert recovery == {"PointInTimeRecoveryEnabled": True}
    assert [key["PendingWindowInDays"] for key in keys] == [7]
    for page in pages:
        assert "35 days" in page
        assert re.search(r"\bkey\b[^.]*\b7\s+days", page)
