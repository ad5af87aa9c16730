"""The shape of the package is kept by machines: who may import whom, how long a module may be, who may speak."""

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from grimp import build_graph

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
        ("plan/diff.py", "import time", "the core touches nothing BROKEN"),
        ("plan/guard.py", "from hapsync.agent.guard_state import Safety", "downwards only BROKEN"),
        ("plan/guard.py", "from hapsync.haproxy.cfg import parse_sections", "downwards only BROKEN"),
        ("model/server.py", "def late() -> None:\n    import socket", "the core touches nothing BROKEN"),
        ("model/server.py", "from hapsync.plan.diff import diff", "downwards only BROKEN"),
        ("haproxy/cfg.py", "from hapsync.system.files import read_text", "the core touches nothing BROKEN"),
        ("consul/client.py", "import hapsync.haproxy.socket", "downwards only BROKEN"),
        ("system/files.py", "from hapsync.agent import agent", "downwards only BROKEN"),
        ("inspect/status.py", "from pathlib import Path", "the core touches nothing BROKEN"),
        ("plan/new.py", "import time", "the core touches nothing BROKEN"),
        ("model/new.py", "import socket", "the core touches nothing BROKEN"),
        ("config/new.py", "import hapsync.system.files", "downwards only BROKEN"),
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


def test_every_module_that_touches_nothing_is_in_the_contract_of_the_core() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (core,) = (one for one in contracts if one["name"] == "the core touches nothing")
    graph = build_graph("hapsync", include_external_packages=True, cache_dir=None)
    touched = [name for name in core["forbidden_modules"] if name in graph.modules]
    pure = {
        module
        for module in graph.modules
        if module.startswith("hapsync.")
        and not graph.find_children(module)
        and not any(graph.chain_exists(importer=module, imported=one) for one in touched)
    }
    listed = tuple(core["source_modules"])
    unlisted = {module for module in pure if not any(f"{module}.".startswith(f"{one}.") for one in listed)}

    # The commands import what they need when they are called, and `__main__` calls them.
    shell = ("hapsync.cli.", "hapsync.__main__", "hapsync.system.")
    assert {module for module in unlisted if not module.startswith(shell)} == set()
    assert "hapsync.plan.diff" in pure


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
    assert {"diff.py", "agent.py", "tables.py"} <= {module.name for module in MODULES}
    assert "click.echo" in calls(PACKAGE / "cli" / "apply.py")
