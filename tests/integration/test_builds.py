"""The native libraries in built functions are for the machine that runs them."""

import shutil

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
