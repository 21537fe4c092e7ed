"""The mutants of templates and state machines: each differs from its file in what its name says."""

import json
from typing import Any

import pytest
import yaml
from samcli.yamlhelper import yaml_parse

from pipeline.markdown import END
from tests.conftest import ROOT
from tests.mutation import document_mutants, results

TEMPLATE = """
Resources:
  # A queue.
  Queue:
    Type: AWS::SQS::Queue
    Properties:
      SqsManagedSseEnabled: true
      # Why.
      Tags: [{ Key: a, Value: b }, { Key: c, Value: d }]
  Policy:
    Type: AWS::SQS::QueuePolicy
    Properties:
      PolicyDocument:
        Statement:
          - Sid: One
            Effect: Allow
            # The reason for the resource.
            Resource: "*"
          - Sid: Two
            Action:
              - sqs:SendMessage
              - sqs:ReceiveMessage  # both
      Queues: !Split [",", !Ref Names]
"""


def changes(source: str) -> dict[str, str]:
    return {f"{one.where}: {one.change}": one.text for one in document_mutants.mutants("file", source)}


def remove(data: Any, path: list[str]) -> Any:
    """Data without the entry at a path, whose items are called as in a mutant's name."""
    key, *rest = path
    if isinstance(data, dict):
        return {k: remove(v, rest) if k == key else v for k, v in data.items() if k != key or rest}
    names = [one.get("Sid", str(n)) if isinstance(one, dict) else one for n, one in enumerate(data)]
    pairs = zip(names, data, strict=True)
    return [remove(one, rest) if name == key else one for name, one in pairs if name != key or rest]


def test_an_entry_is_dropped_and_everything_else_stays():
    whole = yaml_parse(TEMPLATE)
    dropped = {name: text for name, text in changes(TEMPLATE).items() if name.endswith(": dropped")}

    for name, text in dropped.items():
        assert yaml_parse(text) == remove(whole, name.removesuffix(": dropped").split(".")), name
    assert len(dropped) == 24


def test_comments_after_a_dropped_entry_stay():
    mutants = changes(TEMPLATE)

    assert "# Why." in mutants["Resources.Queue.Properties.SqsManagedSseEnabled: dropped"]
    effect = mutants["Resources.Policy.Properties.PolicyDocument.Statement.One.Effect: dropped"]
    assert "# The reason for the resource." in effect


def test_a_switch_is_reversed():
    mutant = changes(TEMPLATE)["Resources.Queue.Properties.SqsManagedSseEnabled: true → false"]

    assert yaml_parse(mutant)["Resources"]["Queue"]["Properties"]["SqsManagedSseEnabled"] is False


def test_texts_for_people_and_the_arguments_of_functions_are_left_alone():
    names = changes(TEMPLATE)

    assert not [name for name in names if ".Sid:" in name or "Queues.0" in name or "Queues.1" in name]


@pytest.mark.parametrize(
    ("expression", "changed"),
    [
        ("{% $a = 1 and $b %}", {"{% $a != 1 and $b %}", "{% $a = 2 and $b %}", "{% $a = 1 or $b %}"}),
        ("{% $pad($a, -32, '0') %}", {"{% $a %}", "{% $pad($a, -32, '1') %}"}),
        (
            "{% $exists($a) ? $f([{'b': 1}, 2]) : null %}",
            {
                "{% true ? $f([{'b': 1}, 2]) : null %}",
                "{% false ? $f([{'b': 1}, 2]) : null %}",
                "{% $exists($a) ? [{'b': 1}, 2] : null %}",
                "{% $exists($a) ? $f([{'b': 2}, 2]) : null %}",
                "{% $exists($a) ? $f([{'b': 1}, 3]) : null %}",
            },
        ),
        ("{% $plain %}", set()),
    ],
)
def test_operators_numbers_and_calls_of_an_expression_are_changed(expression, changed):
    source = json.dumps({"States": {"S": {"Output": expression}}}, indent=1)

    states = [json.loads(text)["States"].get("S", {}) for text in changes(source).values()]
    found = {state.get("Output") for state in states}

    assert found - {None} == changed


@pytest.mark.parametrize("path", ["template.yaml", "model/roles.yaml", "statemachine/classify.asl.json"])
def test_every_mutant_of_a_file_is_another_document(path):
    source = (ROOT / path).read_text()
    mutants = document_mutants.mutants(path, source)

    assert len({one.name for one in mutants}) == len(mutants) > 300
    assert all(one.text != source for one in mutants)


def test_every_explanation_is_one_line():
    reasons = yaml.safe_load((ROOT / "tests" / "mutation" / "survivors.yaml").read_text())

    assert all("\n" not in text and text.endswith(".") for text in reasons.values())


def test_the_documentation_shows_the_results():
    shown = results.PAGE.read_text().partition(results.BEGIN)[2].partition(END)[0].strip()

    assert shown == results.section(), "make mutation"
