"""Where the local stack runs, and what is built for it."""

import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from samcli.yamlhelper import yaml_parse

from local import LocalError, Ports, build_source, host
from local.stack import Stack
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("system", "machine"), [("Windows", "AMD64"), ("Darwin", "x86_64"), ("Linux", "armv7l")]
)
def test_another_platform_is_refused_and_named(monkeypatch, system, machine):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)

    with pytest.raises(LocalError, match=rf"does not run on {system} {machine}, only on .* use WSL 2\.$"):
        host.require_supported()


@pytest.mark.parametrize("command", ["demo", "up", "down", "drift"])
def test_every_local_command_refuses_windows_before_it_imports_large_libraries(command):
    """In Python for Windows there is no `fcntl`."""
    windows = "import platform, sys; sys.modules['fcntl'] = None; platform.system = lambda: 'Windows'"
    loaded = "sorted({'boto3', 'numpy', 'PIL'} & sys.modules.keys())"
    at_the_end = f"import atexit; atexit.register(lambda: print({loaded}))"
    run = f"{windows}; {at_the_end}; sys.argv = ['scones', '{command}']; import scones; scones.main()"

    done = subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("Error: The local stack does not run on Windows")
    assert done.stderr.count("\n") == 1
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("machine", "architecture"), [("x86_64", "x86_64"), ("aarch64", "arm64"), ("arm64", "arm64")]
)
def test_the_architecture_has_lambdas_name(monkeypatch, machine, architecture):
    monkeypatch.setattr(platform, "machine", lambda: machine)

    assert host.architecture() == architecture


@pytest.mark.parametrize("architecture", build_source.ARCHITECTURES)
def test_a_copy_of_the_source_states_another_architecture_and_nothing_else(tmp_path, architecture):
    copied = yaml_parse(build_source.copy_source(tmp_path / "source", architecture).read_text())
    source = yaml_parse((ROOT / "template.yaml").read_text())

    assert copied["Globals"]["Function"]["Architectures"] == [architecture]
    assert "Architecture" not in source["Parameters"]
    own = [one for one in source["Resources"].values() if "Architectures" in one.get("Properties", {})]
    assert own == []
    for template in (copied, source):
        del template["Globals"]["Function"]["Architectures"]
    assert copied == source
    assert files(tmp_path / "source") == files(ROOT)


def files(checkout: Path) -> set[str]:
    """The names of what `sam build` reads besides the template."""
    found = [path for folder in ("functions", "statemachine") for path in (checkout / folder).rglob("*")]
    return {path.relative_to(checkout).as_posix() for path in found if "__pycache__" not in path.parts}


def test_an_unknown_architecture_is_refused_in_one_line(tmp_path):
    command = [sys.executable, "-m", "local.build_source", str(tmp_path / "source"), "aarch64"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "No such architecture: aarch64. Use arm64 or x86_64.\n")
    assert not (tmp_path / "source").exists()


def test_containers_reach_docker_desktop_by_name(monkeypatch):
    monkeypatch.setattr(host, "ON_LINUX", False)
    monkeypatch.setattr(psutil, "net_if_addrs", dict)
    stack = Stack(ports=Ports(4001, 4002), for_containers=True)

    assert stack.container_url == "http://host.docker.internal:4001"
    binds = [one for one in stack._emulator().command if one.startswith("--bind")]
    assert binds == ["--bind=127.0.0.1:4001"]


def test_without_docker_on_linux_the_missing_network_is_named(monkeypatch):
    monkeypatch.setattr(host, "ON_LINUX", True)
    monkeypatch.setattr(psutil, "net_if_addrs", dict)

    with pytest.raises(LocalError, match=r"^No such network: docker0\. Start Docker"):
        _ = Stack().container_url
