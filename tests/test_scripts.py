"""What the scripts that make a machine ready say where something is missing. None of them installs anything here."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.harness.tools import MODERN_CONSUL, ROOT

TOOLS = (
    *("bash", "basename", "cat", "cp", "dirname", "env", "flock", "grep", "head", "mkdir", "mktemp", "mv", "python3"),
    *("realpath", "rm", "sed", "setpriv", "sha256sum", "sort", "tail", "timeout", "uname", "unshare"),
)
ADVICE = "install Consul from HashiCorp's packages and put it on PATH, or set $CONSUL to its path"


def _scripts_only(_: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".sh")]


class Machine:
    """A copy of the scripts, with a PATH that holds what is named and stand-ins, and no cache."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.path, self.cache = folder / "tree", folder / "bin", folder / "cache"
        shutil.copytree(ROOT / "tests", self.tree / "tests", ignore=_scripts_only)
        shutil.copytree(ROOT / "tests" / f"consul-{MODERN_CONSUL}", self.tree / "tests" / f"consul-{MODERN_CONSUL}")
        (self.tree / "pyproject.toml").touch()
        self.path.mkdir()
        for name in TOOLS:
            found = shutil.which(name)
            assert found, name
            (self.path / name).symlink_to(found)

    def has(self, name: str, script: str) -> Path:
        program = self.path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script of `tests`; what it says goes to `stderr`."""
        told: Mapping[str, str] = {
            "PATH": str(self.path),
            "HOME": str(self.tree),
            "XDG_CACHE_HOME": str(self.cache),
            **environment,
        }
        command = (shutil.which("bash") or "bash", str(self.tree / "tests" / script), *arguments)
        return subprocess.run(command, env=told, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_bootstrap_lists_all_that_is_missing_at_once(machine: Machine) -> None:
    old = machine.has("old-python", "exit 1")
    (machine.path / "setpriv").unlink()

    said = machine.run("bootstrap.sh", HAPROXY="/nowhere/haproxy", PYTHON=str(old))

    assert said.returncode == 1
    assert "$HAPROXY is '/nowhere/haproxy', which is no program that can be run" in said.stderr
    assert ADVICE in said.stderr
    assert "needs Python 3.11 or newer" in said.stderr
    assert "setpriv" in said.stderr
    assert "missing: setpriv (of util-linux or coreutils), HAProxy, Consul, Python's venv" in said.stderr
    assert not (machine.tree / ".venv").exists()


@pytest.mark.parametrize("version", ["v1.8.0", "v1.14.11", "1.10.3+dfsg", "v2.0.0"])
def test_a_consul_on_path_is_taken_where_it_is_new_enough(machine: Machine, version: str) -> None:
    program = machine.has("consul", f"echo 'Consul {version}'; echo 'Protocol 2'")

    said = machine.run("bootstrap.sh", HAPROXY="/nowhere/haproxy")

    assert f"Consul: {program}\n" in said.stderr
    assert "missing: HAProxy\n" in said.stderr


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo Consul v1.7.14", "is Consul v1.7.14, and the tests need 1.8 or newer"),
        ("echo Consul v0.9.3", "is Consul v0.9.3, and the tests need 1.8 or newer"),
        ("echo hello", "does not say a version of Consul"),
        ("exit 1", "does not say a version of Consul"),
    ],
)
def test_another_consul_is_looked_for_where_that_on_path_will_not_do(
    machine: Machine, script: str, reason: str
) -> None:
    machine.has("consul", script)

    said = machine.run("bootstrap.sh", HAPROXY="/nowhere/haproxy")

    assert f"{reason}; looking for another" in said.stderr
    assert ADVICE in said.stderr
    assert "missing: HAProxy, Consul\n" in said.stderr


def test_a_named_consul_goes_before_that_on_path_and_has_to_be_new_enough(machine: Machine) -> None:
    machine.has("consul", "echo Consul v1.9.0")
    named = machine.has("named-consul", "echo Consul v1.12.1")
    old = machine.has("old-consul", "echo Consul v1.7.0")

    taken = machine.run("bootstrap.sh", HAPROXY="/nowhere/haproxy", CONSUL=str(named))
    refused = machine.run("bootstrap.sh", HAPROXY="/nowhere/haproxy", CONSUL=str(old))

    assert f"Consul: {named}\n" in taken.stderr
    assert f"$CONSUL: {old} is Consul v1.7.0, and the tests need 1.8 or newer" in refused.stderr
    assert "missing: HAProxy, Consul\n" in refused.stderr


def test_a_machine_of_another_kind_is_told_what_is_for_amd64_only(machine: Machine) -> None:
    machine.has("apt-get", 'case "$*" in indextargets*) echo http://mirror.test/debian ;; *) exit 1 ;; esac')
    machine.has("apt-cache", "echo 'Candidate: (none)'")
    machine.has("dpkg", "echo arm64")

    consul = machine.run("bootstrap.sh", HAPROXY="/nowhere/haproxy")
    haproxy = machine.run("roots.sh", "3.2")

    assert "the pinned Debian package of consul is for amd64 only, and this machine is arm64" in consul.stderr
    assert "tests/consul.sh builds one (on amd64 and arm64)" in consul.stderr
    assert (haproxy.returncode, "are for amd64 only" in haproxy.stderr) == (1, True)


@pytest.mark.parametrize(
    ("go", "said"),
    [
        (None, "there is no go on PATH"),
        ("echo go1.19.8", "needs Go 1.20 or newer"),
        ('case $1 in env) echo go1.26.8 ;; *) echo "no route to the proxy"; exit 1 ;; esac', "no route to the proxy"),
    ],
)
def test_what_keeps_consul_from_being_built_is_said(machine: Machine, go: str | None, said: str) -> None:
    if go:
        machine.has("go", go)

    ended = machine.run("consul.sh", MODERN_CONSUL)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert said in ended.stderr
    assert list((machine.cache / "hapsync" / f"consul-{MODERN_CONSUL}").iterdir()) == []


@pytest.mark.parametrize("version", [MODERN_CONSUL, "1.14.10"])
def test_what_was_built_is_kept_where_it_is_the_version_named_and_nothing_else_is(
    machine: Machine, version: str
) -> None:
    program = f"#!/bin/sh\\necho Consul v{version}\\nsleep 0.1\\necho Protocol 2\\n"
    build = f"printf '{program}' >consul; chmod 755 consul; mkdir modules built"
    machine.has("chmod", f'exec {shutil.which("chmod")} "$@"')
    machine.has("sleep", f'exec {shutil.which("sleep")} "$@"')
    machine.has("go", f"case $1 in env) echo go1.26.8 ;; build) {build} ;; esac")

    ended = machine.run("consul.sh", MODERN_CONSUL)

    folder = machine.cache / "hapsync" / f"consul-{MODERN_CONSUL}"
    if version == MODERN_CONSUL:
        assert (ended.returncode, ended.stdout) == (0, f"{folder}/consul\n")
        assert [path.name for path in folder.iterdir()] == ["consul"]
    else:
        assert "what was built for Consul 1.14.11 is: Consul v1.14.10" in ended.stderr
        assert (ended.returncode, list(folder.iterdir())) == (1, [])


def test_a_consul_that_was_built_is_not_built_again(machine: Machine) -> None:
    built = machine.cache / "hapsync" / f"consul-{MODERN_CONSUL}" / "consul"
    built.parent.mkdir(parents=True)
    built.write_text("")
    built.chmod(0o755)

    assert machine.run("consul.sh", MODERN_CONSUL).stdout == f"{built}\n"
    unknown = machine.run("consul.sh", "1.15.0")
    assert f"there are {MODERN_CONSUL}" in unknown.stderr
