"""The shape of the package is kept by machines: who may import whom, how long a module may be, who may speak."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.tools import ROOT

PACKAGE = ROOT / "hapsync"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 420


def check_imports(folder: Path) -> tuple[int, str]:
    """Return what import-linter makes of the package in `folder`."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache", "--no-logo"], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def calls(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_imports_go_downwards_and_the_core_touches_nothing() -> None:
    code, said = check_imports(ROOT)

    assert "2 kept, 0 broken" in said
    assert code == 0


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("diff.py", "import time", "the core touches nothing BROKEN"),
        ("guard.py", "import time", "the core touches nothing BROKEN"),
        ("history.py", "import random", "the core touches nothing BROKEN"),
        ("guard.py", "from hapsync.history import seen", "downwards only BROKEN"),
        ("guard.py", "from hapsync.worker.safety import Safety", "downwards only BROKEN"),
        ("model.py", "def late() -> None:\n    import socket", "the core touches nothing BROKEN"),
        ("status.py", "from pathlib import Path", "the core touches nothing BROKEN"),
        ("model.py", "from hapsync.diff import diff", "downwards only BROKEN"),
        ("catalog.py", "import hapsync.edge.files", "downwards only BROKEN"),
        ("edge/files.py", "from hapsync.worker import loop", "downwards only BROKEN"),
        ("extra.py", "", "hapsync.extra"),
    ],
)
def test_an_import_that_breaks_a_contract_is_caught(tmp_path: Path, module: str, line: str, broken: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "hapsync", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "hapsync" / module).open("a") as file:
        file.write(f"\n{line}\n")
    code, said = check_imports(tmp_path)

    assert broken in said
    assert code != 0


def test_a_module_is_short_enough_to_be_read_at_once() -> None:
    too_long = {
        str(module.relative_to(ROOT)): count
        for module in MODULES
        if (count := len(module.read_text().splitlines())) > LONGEST
    }

    assert too_long == {}


def test_nothing_prints_but_the_command_line() -> None:
    outside = [module for module in MODULES if "cli" not in module.relative_to(PACKAGE).parts]

    assert [module.name for module in MODULES if "print" in calls(module)] == []
    assert [module.name for module in outside if "click.echo" in calls(module)] == []


def test_there_is_a_package_to_look_at() -> None:
    assert {"diff.py", "loop.py", "tables.py"} <= {module.name for module in MODULES}
    assert "click.echo" in calls(PACKAGE / "cli" / "apply.py")
