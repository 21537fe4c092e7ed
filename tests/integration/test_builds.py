"""The native libraries in built functions are for the machine that runs them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local import host
from tests.binaries import machines
from tests.conftest import ROOT

MACOS = ("--platform=macosx_14_0_arm64", "--python-version=3.13", "--implementation=cp")


def test_the_local_stack_runs_libraries_for_this_machine(stack):
    functions = [one for one in stack.home.joinpath("build").iterdir() if one.is_dir()]
    deployed = stack.client("lambda").list_functions()["Functions"]

    assert {one.name: machines(one) for one in functions} == {
        "SerializeFunction": {host.architecture()},
        "MonitorFunction": {host.architecture()},
        "ClassifyFunction": set(),
        "FilterFunction": set(),
    }
    assert {tuple(one["Architectures"]) for one in deployed} == {(host.architecture(),)}


def test_on_a_mac_they_are_replaced_by_libraries_for_it(stack, tmp_path):
    shutil.copytree(stack.home / "build" / "SerializeFunction", tmp_path / "SerializeFunction")
    shutil.copytree(stack.home / "build" / "FilterFunction", tmp_path / "FilterFunction")

    host.install_libraries(tmp_path, *MACOS)

    assert machines(tmp_path) == {"macOS arm64"}
    serialize = tmp_path / "SerializeFunction"
    assert not list(serialize.glob("*.libs"))
    assert {(serialize / name).exists() for name in ("app.py", "PIL", "pillow_heif")} == {True}
    assert list((serialize / "PIL").glob("_imaging.*darwin.so"))


def test_the_requirements_of_every_function_have_wheels_for_macs(tmp_path):
    for requirements in (ROOT / "functions").glob("*/requirements.txt"):
        function = tmp_path / requirements.parent.name
        function.mkdir()
        shutil.copy(requirements, function)
        (function / "to_replace.so").touch()

    host.install_libraries(tmp_path, *MACOS)

    assert machines(tmp_path) == {"macOS arm64"}


@pytest.mark.parametrize("changed", ["aws-lambda-powertools", "jmespath"])
def test_a_build_with_a_file_of_another_hash_fails(tmp_path, changed):
    """Also if the file is that of a dependency of a dependency."""
    for name in ("functions", "statemachine"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "template.yaml", tmp_path)
    requirements = tmp_path / "functions" / "filter" / "requirements.txt"
    before, entry, after = re.split(
        rf"({changed}==.*?(?=^\S|\Z))", requirements.read_text(), flags=re.M | re.S
    )
    entry = re.sub("sha256:[0-9a-f]{64}", lambda found: f"sha256:{found[0][:6:-1]}", entry)
    requirements.write_text(before + entry + after)

    sam = [str(Path(sys.executable).parent / "sam"), "build", "FilterFunction"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    built = subprocess.run(
        [*sam, f"--parameter-overrides=Architecture={host.architecture()}"],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert built.returncode == 1
    assert "DO NOT MATCH THE HASHES" in built.stderr
