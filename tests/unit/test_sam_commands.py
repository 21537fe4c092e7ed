"""The documented commands of SAM are valid, and sample events name no bucket that can be a stranger's."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from samcli.cli.main import cli
from samcli.yamlhelper import yaml_parse

from tests.conftest import ROOT

TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
PAGE = (ROOT / "docs" / "aws.md").read_text()
SECTION = PAGE.partition("\n## With SAM's own commands\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"^sam .+$", SECTION, re.MULTILINE)
SAMPLES = sorted((ROOT / "events").glob("*.json"))
RESERVED = "amzn-s3-demo-"
"""No account can create a bucket with this prefix (S3 User Guide, "General purpose bucket naming rules")."""


def parse(line: str) -> tuple[list[str], dict[str, Any], list[str]]:
    """Return a command's path, options and arguments; click raises `UsageError` for what it does not know."""
    words, path = shlex.split(line)[1:], []
    command: Any = cli
    while hasattr(command, "get_command"):
        path.append(words.pop(0))
        # Without an object in its context, SAM returns commands without options.
        command = command.get_command(click.Context(command, obj=True), path[-1])
        assert command, line
    parsed, rest, order = command.make_parser(click.Context(command)).parse_args(words)
    arguments = [parsed.pop(one.name) for one in order if isinstance(one, click.Argument)]
    assert not rest, line
    return path, parsed, [one for one in arguments if one]


def test_the_section_has_the_life_of_a_stack():
    paths = [" ".join(parse(line)[0]) for line in COMMANDS]

    assert list(dict.fromkeys(paths)) == ["build", "deploy", "local invoke", "delete"]
    assert any("--guided" in line for line in COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses_and_names_what_exists(line):
    path, options, arguments = parse(line)

    overridden = re.findall(r"(\w+)=", str(options.get("parameter_overrides", "")))
    assert set(overridden) <= TEMPLATE["Parameters"].keys()
    if path == ["local", "invoke"]:
        assert arguments[0] in TEMPLATE["Resources"]
        assert (ROOT / options["event"]).is_file()
    elif path == ["deploy"] and "guided" not in options:
        required = {name for name, one in TEMPLATE["Parameters"].items() if "Default" not in one}
        assert required <= set(overridden)


def test_an_unknown_option_is_noticed():
    with pytest.raises(click.UsageError):
        parse("sam deploy --parameters EndpointName=a")


def test_every_function_is_invoked_on_the_event_with_its_name():
    invoked = {tuple(shlex.split(line)[3:6:2]) for line in COMMANDS if line.startswith("sam local invoke")}
    resources = TEMPLATE["Resources"].items()
    functions = [name for name, one in resources if one["Type"] == "AWS::Serverless::Function"]

    assert invoked == {(name, f"events/{name.removesuffix('Function').lower()}.json") for name in functions}


@pytest.mark.parametrize("file", sorted((ROOT / "events").iterdir()), ids=lambda file: file.name)
def test_the_section_names_everything_among_the_sample_events(file: Path):
    assert re.search(rf"(events/|`){re.escape(file.name)}", SECTION)


def buckets(value: Any) -> list[str]:
    """Every bucket that an event names, by itself, in an ARN or in an address."""
    text = json.dumps(value)
    named = re.findall(r'"bucket": (?:\{"name": )?"([^"]+)"', text)
    return named + re.findall(r"(?:arn:aws:s3:::|s3://)([^/\"]+)", text)


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.name)
def test_a_sample_event_names_no_bucket_that_a_stranger_can_own(file: Path):
    assert all(bucket.startswith(RESERVED) for bucket in buckets(json.loads(file.read_text())))


def test_the_buckets_in_sample_events_are_found():
    found = {file.stem: len(buckets(json.loads(file.read_text()))) for file in SAMPLES}

    assert {name: count for name, count in found.items() if count} == {"photo-uploaded": 2, "serialize": 1}


def test_no_command_or_example_names_a_bucket_that_a_stranger_can_own():
    examples = SECTION + (ROOT / "docs" / "events.md").read_text()

    assert all(name.startswith((RESERVED, "<")) for name in re.findall(r"s3://([^/\s\"]+)", examples))
