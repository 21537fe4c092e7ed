"""The Makefile: what it refuses, and that its recipes are for any POSIX shell and GNU Make 3.81."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

TARGETS = sorted(set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)))
NOT_ON_MACOS = re.compile(
    r"""(?x)
    \[\[ | <<< | &> | \bmapfile\b | \breadarray\b | \bdeclare\b | \blocal\s+\w+= | \$\{\w+(\[|\^|,)
    | \breadlink\s+-f | \bsed\s+(-\w*i|-\w*r) | \bgrep\s+-\w*P | \bdate\s+(-d|--) | \bstat\s+-c | \bxargs\s+-r
    | \bsort\s+-\w*V | \bcp\s+-\w*t | \bnproc\b | \btimeout\s | /proc/ | \btac\b | \bsha256sum\b
    """
)
"""Syntax that bash 3.2 as /bin/sh lacks, and options and commands that only Linux has."""


def make(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=inherited | env,
        capture_output=True,
        text=True,
        check=False,
    )


def recipe(target: str, *arguments: str) -> str:
    shown = make("--silent", "--dry-run", target, *arguments)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_a_recipe_is_valid_in_a_posix_shell_and_on_macos(target):
    shown = recipe(target, "REPOSITORY=owner/name")

    assert not re.search(r"^SHELL", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert subprocess.run(["sh", "-n"], input=shown, text=True, check=False).returncode == 0
    assert NOT_ON_MACOS.findall(shown) == []


@pytest.mark.parametrize("script", [".ci/run", "model/container/serve", "model/container/train"])
def test_a_script_needs_no_newer_bash_than_that_of_macos(script):
    text = (ROOT / script).read_text()

    assert text.startswith("#!")
    assert "python" in text.splitlines()[0] or NOT_ON_MACOS.findall(text) == []


@pytest.fixture
def programs(tmp_path) -> Iterator[Path]:
    """A folder with programs that only write down their arguments."""
    for name in ("scones", "sam", "python", "uv"):
        file = tmp_path / name
        file.write_text('#!/bin/sh\nfor given; do printf "%s\\0" "$given"; done >>"${0%/*}/given"\n')
        file.chmod(0o755)
    yield tmp_path
    (ROOT / "pwned").unlink(missing_ok=True)


def given(programs: Path, *arguments: str, **env: str) -> list[str]:
    """The arguments of all programs that a target ran."""
    no_setup = (f"UV={programs}/uv", "-o", ".venv/.ready", "-o", "tests/validators/node_modules/.ready")
    made = make(*arguments, *no_setup, f"BIN={programs}", **env)
    assert made.returncode == 0, made.stderr
    return (programs / "given").read_text().split("\0")


def test_a_home_folder_that_the_shell_did_not_expand_is_found(programs):
    """zsh leaves the tilde in PHOTOS=~/…, and bash does not."""
    home = Path.home()

    assert f"{home}/My  photos" in given(programs, "demo", "PHOTOS=~/My  photos")
    assert f"{home}/ours" in given(programs, "train", "DATA=~/ours")
    assert "photos/~/1" in given(programs, "demo", "PHOTOS=photos/~/1")


HOSTILE = """a 'b' "c" $(touch pwned) `touch pwned` ; touch pwned; $HOME $(shell touch pwned) %s # \\ *"""
USES = {
    "PHOTOS": "demo",
    "DATA": "train",
    "PREFIX": "backfill",
    "BURST": "traffic",
    "STACK": "replay",
    "ENDPOINT": "deploy",
    "BASELINE": "deploy",
    "PARAMETERS": "deploy",
    "ARCHITECTURE": "build",
    "KMS_KEY": "roles",
    "STUDIO": "roles",
    "REPOSITORY": "github",
    "PROVIDER": "github",
    "OWNER_ID": "github",
    "REPOSITORY_ID": "github",
    "CONTAINERS": "up",
    "CLOUDFORMATION_ROLE": "deploy",
    "PERMISSIONS_BOUNDARY": "deploy",
}
NOT_ARGUMENTS = {"CONTAINERS"}
"""Switches, of which only whether they are given counts."""
ELSEWHERE = {"STAGE", "BENCH", "RUNS", "ONLY", "SAMPLE", "FRESH", "CI"}
"""Variables with tests of their own, or for developers' targets that run `uv`."""


def test_every_documented_variable_is_tried():
    documented = set(re.findall(r"[\[ ]([A-Z][A-Z_]+)=", make("help").stdout))

    assert documented <= USES.keys() | ELSEWHERE
    of_workflows = {"CLOUDFORMATION_ROLE", "PERMISSIONS_BOUNDARY", "CI"}
    assert documented | of_workflows | {"PREFIX"} == USES.keys() | ELSEWHERE


@pytest.mark.parametrize("by_environment", [False, True])
@pytest.mark.parametrize(("name", "target"), USES.items())
def test_what_users_give_is_never_run(programs, name, target, by_environment):
    pair = {"OWNER_ID": {"REPOSITORY_ID": "1"}, "REPOSITORY_ID": {"OWNER_ID": "1"}}.get(name, {})
    arguments = [] if by_environment else [f"{name}={HOSTILE}"]
    env = pair | ({name: HOSTILE} if by_environment else {})

    found = given(programs, target, *arguments, **env)

    assert not (ROOT / "pwned").exists()
    if name not in NOT_ARGUMENTS | {"STUDIO"}:
        assert any(argument.endswith(HOSTILE) for argument in found), found


@pytest.mark.parametrize(
    "name", [*sorted(ELSEWHERE - {"STAGE"}), "SCONES_HOME", "EMULATOR_PORT", "AWS_REGION", "ANY"]
)
@pytest.mark.parametrize("target", ["fuzz", "mutation", "bench", "train", "deploy"])
def test_no_variable_on_the_command_line_is_run(programs, target, name):
    """make hands all of them to the programs, documented or not."""
    given(programs, target, f"{name}={HOSTILE}")

    assert not (ROOT / "pwned").exists()


@pytest.mark.parametrize("target", ["deploy", "destroy", "github"])
@pytest.mark.parametrize(
    "stage", ["production", "Dev", "dev prod", "", "preview1", "review_1", f"review{HOSTILE}"]
)
def test_a_stage_with_a_typo_is_rejected(programs, target, stage):
    made = make(target, "UV=true", "-o", ".venv/.ready", f"BIN={programs}", f"STAGE={stage}")

    assert made.returncode == 2
    assert f"No such stage: {stage}. Use dev, prod, or review" in made.stderr
    assert not (programs / "given").exists()
    assert not (ROOT / "pwned").exists()


@pytest.mark.parametrize("stage", ["dev", "prod", "review", "review17"])
def test_the_stages_can_be_deployed_and_are_activated(programs, stage):
    arguments = given(programs, "deploy", f"STAGE={stage}")

    assert arguments[arguments.index("--stack-name") + 1] == f"scones-unlimited-{stage}"
    assert arguments[-4:-1] == ["activate", "--stack", f"scones-unlimited-{stage}"]


@pytest.mark.parametrize("parameters", ["Architecture=x86_64", "MonitorHours=1 Architecture=arm64"])
def test_the_architecture_is_chosen_before_the_build(programs, parameters):
    made = make("deploy", "UV=true", "-o", ".venv/.ready", f"BIN={programs}", f"PARAMETERS={parameters}")

    assert made.returncode == 2
    assert not (programs / "given").exists()
    assert "Give ARCHITECTURE=…" in made.stderr


def test_nothing_is_built_or_deployed_without_an_endpoint(programs):
    (programs / "scones").write_text("#!/bin/sh\necho No endpoint >&2; exit 1\n")

    made = make("deploy", "UV=true", "-o", ".venv/.ready", f"BIN={programs}")

    assert made.returncode == 2
    assert not (programs / "given").exists()


def test_parameters_with_spaces_reach_sam_in_one_piece(programs):
    """sam parses the quotes itself."""
    (programs / "scones").write_text("#!/bin/sh\necho EndpointName=ours\necho file://deployment.yaml\n")

    arguments = given(programs, "deploy", PARAMETERS='MonitorHours=1 ClassLabels="cargo bike,other"')

    assert arguments[-4:-1] == [
        "EndpointName=ours",
        "file://deployment.yaml",
        'MonitorHours=1 ClassLabels="cargo bike,other"',
    ]


@pytest.mark.parametrize("platform", ["MINGW64_NT-10.0-26100 x86_64", "Darwin x86_64", "Linux i686"])
def test_another_platform_is_refused_in_one_sentence(platform):
    made = make("demo", f"PLATFORM={platform}")

    assert made.returncode == 2
    assert made.stdout == ""
    assert made.stderr.count("\n") == 1
    assert f"does not run on {platform}, only on Linux" in made.stderr
    assert "use WSL 2" in made.stderr


@pytest.mark.parametrize("platform", ["Linux x86_64", "Linux aarch64", "Darwin arm64"])
def test_the_platforms_of_the_readme_are_supported(platform):
    assert make("--dry-run", "demo", f"PLATFORM={platform}").returncode == 0


@pytest.mark.parametrize(
    ("env", "region"),
    [
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-east-1"}, "eu-west-1"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "us-east-2"}, "us-east-2"),
        ({"AWS_DEFAULT_REGION": "us-east-2"}, "us-east-2"),
    ],
)
def test_sam_uses_the_region_of_the_aws_cli(env, region):
    made = make("--eval=region:;@echo $$AWS_DEFAULT_REGION", "region", **env)

    assert made.stdout.strip() == region
