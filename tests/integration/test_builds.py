"""The native libraries in built functions are for the machine that runs them."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from samcli.yamlhelper import yaml_parse

from local import build_source, host
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


def sam_build(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `sam build` as a user does, in a copy of the checkout."""
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(programs / "sam"), "build", *arguments],
        cwd=checkout,
        env=os.environ | {"PATH": path, "SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("overrides", [(), ("Architecture=arm64",), ("Architecture=x86_64",)], ids=str)
@pytest.mark.parametrize("architecture", build_source.ARCHITECTURES)
def test_plain_sam_build_states_for_which_processor_it_installed_libraries(tmp_path, architecture, overrides):
    """Whatever the host is, and whatever is overridden in one command and forgotten in the next."""
    build_source.copy_source(tmp_path, architecture)

    built = sam_build(tmp_path, "SerializeFunction", *(f"--parameter-overrides={one}" for one in overrides))

    assert built.returncode == 0, built.stderr
    template = yaml_parse((tmp_path / ".aws-sam" / "build" / "template.yaml").read_text())
    assert template["Globals"]["Function"]["Architectures"] == [architecture]
    assert machines(tmp_path / ".aws-sam" / "build") == {architecture}


@pytest.mark.parametrize("changed", ["aws-lambda-powertools", "jmespath"])
def test_a_build_with_a_file_of_another_hash_fails(tmp_path, changed):
    """Also if the file is that of a dependency of a dependency."""
    build_source.copy_source(tmp_path, host.architecture())
    requirements = tmp_path / "functions" / "filter" / "requirements.txt"
    before, entry, after = re.split(
        rf"({changed}==.*?(?=^\S|\Z))", requirements.read_text(), flags=re.M | re.S
    )
    entry = re.sub("sha256:[0-9a-f]{64}", lambda found: f"sha256:{found[0][:6:-1]}", entry)
    requirements.write_text(before + entry + after)

    built = sam_build(tmp_path, "FilterFunction")

    assert built.returncode == 1
    assert "DO NOT MATCH THE HASHES" in built.stderr


@pytest.mark.parametrize("processor", ["aarch64", "x86_64"])
def test_make_build_verifies_wheels_also_for_another_processor(tmp_path, processor):
    """sam asks pip for these by name and version only."""
    checkout = tmp_path / "checkout"
    build_source.copy_source(checkout, "x86_64")
    for name in ("Makefile", "samconfig.toml"):
        shutil.copy(ROOT / name, checkout)
    shutil.copytree(ROOT / "local", checkout / "local")
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (pillow,) = (one for one in lock["package"] if one["name"] == "pillow")
    wheel = re.compile(rf"-cp313-cp313-manylinux[\w.]+_{processor}\.whl$")
    (right,) = {one["hash"] for one in pillow["wheels"] if wheel.search(one["url"])}
    for requirements in checkout.glob("functions/*/requirements.txt"):
        requirements.write_text(requirements.read_text().replace(right, f"sha256:{'0' * 64}"))

    built = subprocess.run(
        ["make", "build", "UV=true", "-o", ".venv/.ready", f"BIN={Path(sys.executable).parent}"],
        cwd=checkout,
        env=os.environ | {"ARCHITECTURE": {"aarch64": "arm64"}.get(processor, processor)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert built.returncode == 2
    assert "HASHES" in built.stderr
    assert not (checkout / ".aws-sam" / "build").exists()
