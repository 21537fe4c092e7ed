"""The Makefile: what it refuses, and that its recipes are for any POSIX shell and GNU Make 3.81."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
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


def test_a_home_folder_that_the_shell_did_not_expand_is_found():
    """zsh leaves the tilde in PHOTOS=~/…, and bash does not."""
    home = Path.home()

    assert f'--photos "{home}/My  photos"' in recipe("demo", "PHOTOS=~/My  photos")
    assert f'--source "{home}/ours"' in recipe("train", "DATA=~/ours")
    assert '--photos "photos/~/1"' in recipe("demo", "PHOTOS=photos/~/1")


@pytest.mark.parametrize("target", ["deploy", "destroy", "github"])
@pytest.mark.parametrize("stage", ["production", "Dev", "dev prod", "", "preview1"])
def test_a_stage_with_a_typo_is_rejected(target, stage):
    made = make("--dry-run", target, f"STAGE={stage}")

    assert made.returncode == 2
    assert f"No such stage: {stage}. Use dev, prod, or review" in made.stderr
    assert "sam deploy" not in made.stdout


@pytest.mark.parametrize("stage", ["dev", "prod", "review", "review17"])
def test_the_stages_can_be_deployed(stage):
    assert f"--stack-name scones-unlimited-{stage} " in recipe("deploy", f"STAGE={stage}")


def test_a_deployment_ends_with_the_activation_of_its_stack():
    last = recipe("deploy", "STAGE=review17").rpartition("&&")[2]

    assert last.split()[1:] == ["activate", "--stack", "scones-unlimited-review17"]


@pytest.mark.parametrize("parameters", ["Architecture=x86_64", "MonitorHours=1 Architecture=arm64"])
def test_the_architecture_is_chosen_before_the_build(parameters):
    made = make("--dry-run", "deploy", f"PARAMETERS={parameters}")

    assert made.returncode == 2
    assert "Give ARCHITECTURE=…" in made.stderr


def test_parameters_with_spaces_reach_sam_in_one_piece(tmp_path):
    """sam parses the quotes itself."""
    for name in ("scones", "sam", "python"):
        (tmp_path / name).write_text('#!/bin/sh\nfor given; do echo "<$given>"; done >>"$0.log"\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scones").write_text("#!/bin/sh\necho EndpointName=ours\necho file://deployment.yaml\n")

    made = make(
        *("deploy", "UV=uv", "-o", ".venv/.ready", f"BIN={tmp_path}"),
        PARAMETERS='MonitorHours=1 ClassLabels="cargo bike,other"',
    )

    assert made.returncode == 0, made.stderr
    assert (tmp_path / "sam.log").read_text().splitlines()[-4:] == [
        "<Architecture=arm64>",
        "<EndpointName=ours>",
        "<file://deployment.yaml>",
        '<MonitorHours=1 ClassLabels="cargo bike,other">',
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
