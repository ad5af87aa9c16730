"""A command imports what it needs when it needs it; what it does not need costs its start and its memory."""

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.harness.ports import free_port

WORK = ("agent", "consul", "haproxy", "inspect", "plan", "system")
FOREIGN = frozenset({"requests", "urllib3", "charset_normalizer"})
"""What python-consul2 imports for the transport that is not used."""
SCRIPT = """\
import json, os, signal, sys, threading, time
from hapsync.cli import run
def stop():
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.05)
    time.sleep(1)  # it runs
    os.kill(os.getpid(), signal.SIGTERM)
if sys.argv[2:4] == ["agent", "--config"]:
    threading.Thread(target=stop, daemon=True).start()
try:
    code = run(sys.argv[2:])
finally:
    with open(sys.argv[1], "w") as file:
        json.dump(sorted(sys.modules), file)
sys.exit(code)
"""
TEMPLATE = """\
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
frontend public
    bind 127.0.0.1:8080
    default_backend web
backend web
    {{ servers("web") }}
"""


@pytest.fixture
def config(work: Path) -> Path:
    """A configuration that is right, of a Consul and an HAProxy that do not run."""
    path = work / "hapsync.toml"
    path.write_text(f"""\
[consul]
address = "http://127.0.0.1:{free_port()}"
[haproxy]
socket = "{work}/admin.sock"
config = "{work}/haproxy.cfg"
template = "{work}/haproxy.cfg.j2"
master_socket = "{work}/master.sock"
[agent]
state_dir = "{work}/state"
runtime_dir = "{work}/run"
[backends.web]
service = "web"
""")
    (work / "haproxy.cfg.j2").write_text(TEMPLATE)
    return path


def imported(work: Path, *arguments: str, code: int) -> set[str]:
    """Run a command to its end; return the packages it has imported, and of ours the modules."""
    listing = work / "modules.json"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, listing, *arguments],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert code == done.returncode, done.stderr
    names = json.loads(listing.read_text())
    return {name if name.startswith("hapsync.") else name.split(".")[0] for name in names}


def unneeded(found: Collection[str], *more: str) -> set[str]:
    return set(found) & (FOREIGN | {"pyroute2", *more})


def test_help_imports_next_to_nothing(work: Path) -> None:
    found = imported(work, "--help", code=0)

    assert unneeded(found, "rich", "jinja2", "consul", "cattrs", "asyncio", "http", "ssl", "logging") == set()
    assert {name for name in found if name.startswith("hapsync.")} == {
        "hapsync.cli",
        "hapsync.errors",
        "hapsync.text",
    }


@pytest.mark.parametrize(
    "command",
    [*("status", "plan", "apply", "render", "check", "agent"), *("hold", "drain", "release", "freeze", "thaw")],
)
def test_the_help_of_a_command_imports_none_of_its_work(work: Path, command: str) -> None:
    found = imported(work, command, "--help", code=0)

    assert unneeded(found, "rich", "jinja2", "consul", "asyncio", "http", "ssl") == set()
    assert not {name for name in found if name.startswith(tuple(f"hapsync.{room}" for room in WORK))}


@pytest.mark.parametrize(
    "words",
    [
        *(("status",), ("plan",), ("apply",), ("render",), ("check",), ("agent",), ("freeze",), ("thaw",)),
        *(("hold", "web/srv1"), ("drain", "web/srv1"), ("release", "web/srv1"), ("release", "web")),
    ],
    ids=" ".join,
)
def test_a_wrong_configuration_is_said_before_anything_heavy_is_imported(work: Path, words: tuple[str, ...]) -> None:
    (work / "wrong.toml").write_text("speed = 1\n")
    found = imported(work, *words, "--config", str(work / "wrong.toml"), code=78)

    assert unneeded(found, "rich") == set()
    if words == ("status",):
        assert unneeded(found, "jinja2", "asyncio") == set()


def test_status_imports_what_shows_a_table_and_no_template(work: Path, config: Path) -> None:
    found = imported(work, "status", "--config", str(config), code=1)

    assert unneeded(found, "jinja2", "markupsafe", "asyncio") == set()
    assert "rich" in found


def test_status_for_programs_imports_no_table(work: Path, config: Path) -> None:
    found = imported(work, "status", "--json", "--config", str(config), code=1)

    assert unneeded(found, "jinja2", "markupsafe", "asyncio", "rich") == set()


def test_plan_imports_the_template_it_looks_at_and_no_table(work: Path, config: Path) -> None:
    found = imported(work, "plan", "--config", str(config), code=1)

    assert unneeded(found, "asyncio", "rich") == set()


def test_render_imports_the_template_and_no_table(work: Path, config: Path) -> None:
    found = imported(work, "render", "--config", str(config), code=0)

    assert unneeded(found, "rich", "asyncio") == set()
    assert "jinja2" in found


def test_render_offline_imports_no_consul(work: Path, config: Path) -> None:
    found = imported(work, "render", "--offline", "--config", str(config), code=0)

    assert unneeded(found, "rich", "consul", "ssl", "hapsync.consul.client") == set()


def test_check_imports_no_table(work: Path, config: Path) -> None:
    found = imported(work, "check", "--config", str(config), code=2)

    assert unneeded(found, "rich") == set()


def test_apply_imports_no_table(work: Path, config: Path) -> None:
    found = imported(work, "apply", "--config", str(config), code=1)

    assert unneeded(found, "rich") == set()


def test_the_agent_imports_no_table(work: Path, config: Path) -> None:
    found = imported(work, "agent", "--config", str(config), code=0)

    assert unneeded(found, "rich") == set()
    assert {"jinja2", "consul"} <= found
