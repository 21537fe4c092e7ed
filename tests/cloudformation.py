"""Templates as CloudFormation would resolve them, with names and ARNs made up as AWS makes them up."""

import functools
import re
from typing import Any

from samcli.lib.translate.sam_template_validator import SamTemplateValidator
from samcli.yamlhelper import yaml_parse

from tests.conftest import ROOT

type Resources = dict[str, dict[str, Any]]

ACCOUNT, REGION, PARTITION, STACK = "123456789012", "eu-west-1", "aws", "scones-unlimited-dev"
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": PARTITION,
    "AWS::Region": REGION,
    "AWS::URLSuffix": "amazonaws.com",
}

ARNS = {
    "AWS::CloudWatch::Alarm": "arn:aws:cloudwatch:{region}:{account}:alarm:{name}",
    "AWS::DynamoDB::Table": "arn:aws:dynamodb:{region}:{account}:table/{name}",
    "AWS::Events::EventBus": "arn:aws:events:{region}:{account}:event-bus/{name}",
    "AWS::Events::Rule": "arn:aws:events:{region}:{account}:rule/{name}",
    "AWS::IAM::ManagedPolicy": "arn:aws:iam::{account}:policy/{name}",
    "AWS::IAM::OIDCProvider": "arn:aws:iam::{account}:oidc-provider/token.actions.githubusercontent.com",
    "AWS::IAM::Role": "arn:aws:iam::{account}:role/{name}",
    "AWS::KMS::Key": "arn:aws:kms:{region}:{account}:key/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
    "AWS::Lambda::Function": "arn:aws:lambda:{region}:{account}:function:{name}",
    "AWS::Logs::LogGroup": "arn:aws:logs:{region}:{account}:log-group:{name}:*",
    "AWS::S3::Bucket": "arn:aws:s3:::{name}",
    "AWS::SNS::Topic": "arn:aws:sns:{region}:{account}:{name}",
    "AWS::SQS::Queue": "arn:aws:sqs:{region}:{account}:{name}",
    "AWS::StepFunctions::StateMachine": "arn:aws:states:{region}:{account}:stateMachine:{name}",
}
REFERRED_TO_BY_ARN = {
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::OIDCProvider",
    "AWS::SNS::Topic",
    "AWS::StepFunctions::StateMachine",
}
"""The types whose ``Ref`` is their ARN."""
NAMES = {"AWS::Logs::LogGroup": "LogGroupName", "AWS::StepFunctions::StateMachine": "StateMachineName"}
"""The property with which a template chooses the name of a resource."""
NO_VALUE = object()


class NoManagedPolicies:
    """Stand in for AWS's list of managed policies, which SAM would download; the templates name none."""

    def load(self) -> dict[str, str]:
        return {}


@functools.cache
def translate(path: str) -> dict[str, Any]:
    """Apply SAM's transform, so that the roles and policies that SAM adds are there."""
    template = yaml_parse((ROOT / path).read_text())
    if "Transform" not in template:
        return template
    validator = SamTemplateValidator(template, NoManagedPolicies(), region=REGION)
    return yaml_parse(validator.get_translated_template_if_valid())


def resolve(path: str, stack: str = STACK, **parameters: str) -> Resources:
    """Resolve a template's intrinsic functions, and leave out the resources whose condition is false."""
    return Resolver(translate(path), parameters, stack).resources()


def arns(path: str, stack: str, **parameters: str) -> dict[str, str]:
    """The ARN of each resource of a stack whose type has one in `ARNS`."""
    resolver = Resolver(translate(path), parameters, stack)
    return {name: resolver.arn(name) for name, one in resolver.resources().items() if one["Type"] in ARNS}


class Resolver:
    """Resolve the intrinsic functions that the templates use."""

    def __init__(self, template: dict[str, Any], parameters: dict[str, str], stack: str) -> None:
        declared = template.get("Parameters", {})
        assert parameters.keys() <= declared.keys()
        defaults = {name: parameter.get("Default") for name, parameter in declared.items()}
        self._parameters = defaults | parameters
        self._conditions = template.get("Conditions", {})
        self._resources = template["Resources"]
        self._pseudo = PSEUDO | {"AWS::StackName": stack}
        self._stack = stack

    def resources(self) -> Resources:
        kept = {
            name: resource
            for name, resource in self._resources.items()
            if "Condition" not in resource or self._holds(resource["Condition"])
        }
        return {name: self.value(resource) for name, resource in kept.items()}

    def value(self, value: Any) -> Any:
        """Resolve a value, and all values in it."""
        if isinstance(value, list):
            return [one for one in map(self.value, value) if one is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, arguments),) = value.items()
            if function == "Ref" or function.startswith("Fn::"):
                return self._call(function, arguments)
        resolved = {key: self.value(one) for key, one in value.items()}
        return {key: one for key, one in resolved.items() if one is not NO_VALUE}

    def _call(self, function: str, arguments: Any) -> Any:  # noqa: PLR0911  one for each function
        match function:
            case "Ref":
                return self._ref(arguments)
            case "Fn::GetAtt":
                name, attribute = arguments if isinstance(arguments, list) else arguments.split(".", 1)
                return self._attribute(name, attribute)
            case "Fn::Sub":
                text, variables = (arguments, {}) if isinstance(arguments, str) else arguments
                return re.sub(r"\$\{([^}!]+)\}", lambda found: self._name(found[1], variables), text)
            case "Fn::If":
                condition, if_true, if_false = arguments
                return self.value(if_true if self._holds(condition) else if_false)
            case "Fn::Select":
                index, values = arguments
                return self.value(values)[int(index)]
            case "Fn::Split":
                separator, text = arguments
                return self.value(text).split(separator)
            case "Fn::Join":
                separator, values = arguments
                return separator.join(self.value(values))
        raise NotImplementedError(function)

    def _name(self, name: str, variables: dict[str, Any]) -> str:
        if name in variables:
            return str(self.value(variables[name]))
        return str(self._attribute(*name.split(".", 1)) if "." in name else self._ref(name))

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in self._pseudo:
            return self._pseudo[name]
        if name in self._parameters:
            return self._parameters[name]
        kind = self._resources[name]["Type"]
        if kind == "AWS::SQS::Queue":
            return f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{self._physical(name)}"
        return self.arn(name) if kind in REFERRED_TO_BY_ARN else self._physical(name)

    def _attribute(self, name: str, attribute: str) -> str:
        return self.arn(name) if attribute == "Arn" else self._physical(name)

    def arn(self, name: str) -> str:
        """Make up a resource's ARN."""
        pattern = ARNS[self._resources[name]["Type"]]
        return pattern.format(region=REGION, account=ACCOUNT, name=self._physical(name))

    def _physical(self, name: str) -> str:
        resource = self._resources[name]
        if given := resource.get("Properties", {}).get(NAMES.get(resource["Type"])):
            return str(self.value(given))
        match resource["Type"]:
            case "AWS::StepFunctions::StateMachine":  # CloudFormation does not use the stack's name here
                return f"{name}-1A2B3C4D5E6F"
            case "AWS::S3::Bucket":
                return f"{self._stack}-{name}".lower()
        return f"{self._stack}-{name}"

    def _holds(self, condition: Any) -> bool:
        if isinstance(condition, str):
            return self._holds(self._conditions[condition])
        ((function, arguments),) = condition.items()
        match function:
            case "Condition":
                return self._holds(arguments)
            case "Fn::Equals":
                first, second = map(self.value, arguments)
                return str(first) == str(second)
            case "Fn::Not":
                return not self._holds(arguments[0])
            case "Fn::And":
                return all(map(self._holds, arguments))
            case "Fn::Or":
                return any(map(self._holds, arguments))
        raise NotImplementedError(function)
