"""Every template under cfn-lint, which knows what CloudFormation requires of each resource."""

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from cfnlint import api, config

from tests.conftest import ROOT
from tests.validators.test_policies import DEPLOYMENTS


def findings(text: str) -> list[str]:
    regions = ["us-east-1"]
    found = api.lint(text, config=config.ManualArgs(regions=regions))
    return [f"{one.rule.id} {one.message}" for one in found]


@pytest.mark.parametrize("path", DEPLOYMENTS)
def test_a_template_is_one_that_cloudformation_accepts(path):
    assert findings((ROOT / path).read_text()) == []


def test_a_missing_required_property_is_found():
    topicless = "Resources: {Mail: {Type: AWS::SNS::Subscription, Properties: {Endpoint: a@b.example}}}"

    assert [one for one in findings(topicless) if "'Protocol' is a required property" in one]
