"""Files that a command cannot read are named once, with the reason and with what to do."""

from pathlib import Path

import pytest

from hapsync.cli import run

SETTINGS = """\
[haproxy]
template = "{template}"
[agent]
state_dir = "{folder}/file/state"
[backends.web]
service = "web"
"""


def refused(capsys: pytest.CaptureFixture[str], command: str, config: Path) -> str:
    """What is said of them below the file at fault."""
    assert run([command, "--config", str(config)]) == 78
    head, problem = capsys.readouterr().err.splitlines()
    assert head.startswith("hapsync: ")
    assert head.endswith(": 1 problem")
    assert "Errno" not in problem
    return f"{head.removeprefix('hapsync: ').removesuffix(': 1 problem')}:{problem}"


@pytest.fixture
def config(work: Path) -> Path:
    path = work / "hapsync.toml"
    path.write_text(SETTINGS.format(template=work / "haproxy.cfg.j2", folder=work))
    return path


@pytest.mark.parametrize("command", ["apply", "plan", "check", "render"])
def test_a_template_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], work: Path, config: Path, command: str
) -> None:
    why = "haproxy.template cannot be read: No such file or directory; write it, or name another in hapsync.toml"

    assert refused(capsys, command, config) == f"{work}/haproxy.cfg.j2:  {why}"


@pytest.mark.parametrize("command", ["apply", "plan", "check", "render", "status"])
def test_a_folder_is_no_configuration(capsys: pytest.CaptureFixture[str], work: Path, command: str) -> None:
    assert refused(capsys, command, work) == f"{work}:  cannot be read (Is a directory); name another with --config"


@pytest.mark.parametrize("command", ["apply", "freeze"])
def test_a_state_folder_that_cannot_be_made_is_named(
    capsys: pytest.CaptureFixture[str], work: Path, config: Path, command: str
) -> None:
    (work / "haproxy.cfg.j2").write_text('backend web\n  {{ servers("web") }}\n')
    (work / "file").write_text("")
    why = f"agent.state_dir {work}/file/state: Not a directory; it must be there, writable by this user, with room"

    assert refused(capsys, command, config) == f"{config}:  {why}"
