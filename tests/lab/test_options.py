"""What is wrong with what the lab is asked for is said in a line, before anything is played."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.harness.processes import short_folder
from tests.harness.tools import ROOT
from tests.lab.options import options
from tests.lab.ways import WAYS


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said of them, without the line that names --help."""
    with pytest.raises(SystemExit) as ended:
        options(arguments, WAYS)
    usage, said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert "--help" in usage
    return said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ways", "other"), "'other' (choose from 'restart', 'reload, no hand-over', "),
        (("--interval", "nan"), "--interval: 'nan' is no number of seconds from 0.1 to 60"),
        (("--rate", "0"), "--rate: '0' is not above 0"),
        (("--out", __file__), "cannot be made (File exists)"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_those_that_can(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert words in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("asked", "words"),
    [((), "playing needs root"), (("--report", "/nowhere"), "/nowhere: No such file or directory; name a file")],
)
def test_whoever_is_not_root_is_told_so_and_may_make_reports_all_the_same(asked: tuple[str, ...], words: str) -> None:
    code = """
        import os, sys
        from tests.lab import __main__ as lab
        os.setuid(65534)
        sys.exit(lab.main())
    """
    with short_folder() as out:
        out.chmod(0o777)
        command = (sys.executable, "-c", textwrap.dedent(code), "--out", str(out), *asked)
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert list(out.iterdir()) == []

    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) <= 2
    assert ended.returncode == 2


def test_a_machine_that_gives_no_namespaces_is_told_so_in_a_line(tmp_path: Path) -> None:
    without = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    command = (*without, sys.executable, "-m", "tests.lab", "--quick", "--out", str(tmp_path))
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    assert ended.stderr.startswith("python -m tests.lab: no network namespaces, bridge or veth can be made here: ")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.returncode == 2
