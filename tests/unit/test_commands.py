"""Every command of `scones` keeps the same promises."""

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import scones
from model.terminal.commands import LazyGroup
from tests.conftest import ROOT

PROGRAMS = {"scones": scones.cli}
COMMANDS = {
    (program, name): group.get_command(click.Context(group), name)
    for program, group in PROGRAMS.items()
    for name in group.list_commands(click.Context(group))
}
every_command = pytest.mark.parametrize(
    ("program", "name"), COMMANDS, ids=[f"{program} {name}" for program, name in COMMANDS]
)
NO_JSON = {
    "predict": "prints a JSON line a photo",
    "serve": "answers over HTTP",
    "review": "asks a person",
    "image": "prints a name, for other commands",
    "down": "has no result",
}
SPENDS_OR_CHANGES = {
    *("data", "train", "image", "deploy", "rollback", "destroy"),
    *("traffic", "replay", "activate", "backfill", "forget"),
}
"""What costs money, or changes what is in AWS."""


@every_command
def test_help_says_how_to_call_it_with_examples(program, name):
    shown = CliRunner().invoke(PROGRAMS[program], [name, "--help"], prog_name=program, terminal_width=100)

    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: {program} {name}")
    examples = shown.output.partition("Examples:\n")[2].partition("\n\n")[0]
    assert f"{program} {name}" in examples.replace("`", "") or name in {"parameters", "serve"}
    assert "\x1b" not in shown.output


@every_command
def test_every_example_is_a_call_that_is_understood(program, name):
    """Each option in an example is one that the command has."""
    command = COMMANDS[program, name]
    examples = re.sub(r"\\\n +", "", command.help.partition("Examples:\n")[2].partition("\n\n")[0])
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "--debug"}
    for call in re.findall(rf"{program} {name}\b([^|;&>)\n]*)", examples):
        assert set(re.findall(r"(?<!\S)--[\w-]+", call)) <= known, call


@every_command
def test_results_can_be_had_as_json(program, name):
    has = any("--json" in parameter.opts for parameter in COMMANDS[program, name].params)

    assert has is (name not in NO_JSON)


@every_command
def test_what_spends_or_changes_something_can_be_tried_first(program, name):
    has = any("--dry-run" in parameter.opts for parameter in COMMANDS[program, name].params)

    assert has is (name in SPENDS_OR_CHANGES)


@every_command
def test_an_unknown_option_is_wrong_usage(program, name):
    done = CliRunner(mix_stderr=False).invoke(PROGRAMS[program], [name, "--no-such-option"])

    assert done.exit_code == 2
    assert "Traceback" not in done.stderr


def run_raising(monkeypatch, error: BaseException, *arguments: str):
    def fail(**_: object) -> None:
        raise error

    command = click.Command("status", callback=fail)
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: command)
    return CliRunner(mix_stderr=False).invoke(scones.cli, [*arguments, "status"], prog_name="scones")


def test_an_error_that_nobody_foresaw_is_one_line_with_the_next_step(monkeypatch):
    done = run_raising(monkeypatch, KeyError("what\nnow"))

    assert done.exit_code == 1
    assert done.stderr == "Error: KeyError: 'what\\nnow' (traceback: scones --debug status …)\n"


def test_with_debug_it_is_a_traceback(monkeypatch):
    done = run_raising(monkeypatch, KeyError("what"), "--debug")

    assert isinstance(done.exception, KeyError)


def test_ctrl_c_is_130_and_one_line(monkeypatch):
    done = run_raising(monkeypatch, KeyboardInterrupt())

    assert (done.exit_code, done.stderr) == (130, "Interrupted.\n")


def test_local_commands_fail_in_one_line_too(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no\nway")

    monkeypatch.setattr("local.stack.Stack.down", fail)

    done = CliRunner(mix_stderr=False).invoke(scones.cli, ["down"])
    assert (done.exit_code, done.stderr) == (
        1,
        "Error: ValueError: no way (traceback: scones --debug down …)\n",
    )
    done = CliRunner().invoke(scones.cli, ["--debug", "down"])
    assert isinstance(done.exception, ValueError)


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": ""}])
def test_what_goes_into_a_pipe_is_plain(environment, tmp_path):
    command = [sys.executable, "-m", "scones", "cost", "--photos", "1000"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)

    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout


def test_a_shell_completes_commands_and_options():
    def completed(*words: str) -> list[str]:
        env = {
            "_SCONES_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["scones", *words]),
            "COMP_CWORD": str(len(words)),
            "PATH": "/usr/bin:/bin",
        }
        done = subprocess.run(
            [Path(sys.executable).with_name("scones")], env=env, capture_output=True, text=True, check=True
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert completed("ro") == ["rollback"]
    assert completed("deploy", "--dry") == ["--dry-run"]


def test_every_exit_code_is_in_the_table():
    table = set(re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE))
    said = {
        code
        for command in [*COMMANDS.values(), *PROGRAMS.values()]
        for code in re.findall(r"^ +(\d+)  ", command.help.partition("Exit codes:")[2], re.MULTILINE)
    }

    assert said <= table
    assert json.dumps(sorted(table, key=int)) == '["0", "1", "2", "3", "130"]'
