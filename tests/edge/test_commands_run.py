"""The check command: the folder that it runs in, and the search for its program."""

from pathlib import Path

import attrs
import pytest

from hapsync.config.schema import HAProxyConfig
from hapsync.errors import ConfigRefused, ReloadUnavailable
from hapsync.haproxy.reload import check_candidate
from hapsync.system import process


def checking(folder: Path, *command: str) -> HAProxyConfig:
    config = HAProxyConfig(socket=str(folder / "socket"), template="", config=str(folder / "haproxy.cfg"))
    return attrs.evolve(config, check_command=(*command, "{config}"))


def test_the_check_runs_in_the_root_folder_as_haproxy_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigRefused, match=r"refused the rendered configuration:\nin /$"):
        check_candidate(checking(tmp_path, "sh", "-c", 'echo "in $PWD"; exit 1'), str(tmp_path / "candidate"))


def test_a_program_of_the_superuser_is_found_under_the_path_of_cron(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "sbin" / "check-it"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    with pytest.raises(ReloadUnavailable, match=r'there is no program "check-it" in PATH, nor in /usr/local/sbin'):
        check_candidate(checking(tmp_path, "check-it"), str(tmp_path / "candidate"))
    monkeypatch.setattr(process, "SBIN", (str(program.parent),))
    check_candidate(checking(tmp_path, "check-it"), str(tmp_path / "candidate"))


def test_a_program_named_from_the_folder_of_the_caller_is_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "check-it"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)

    check_candidate(checking(tmp_path, "./check-it"), str(tmp_path / "candidate"))
