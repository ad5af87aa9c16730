"""Where the programs under test are."""

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / ".venv" / "hapsync-tools.env"

# Debian keeps haproxy in sbin, which is not on every user's PATH.
_SBIN = "/usr/local/sbin:/usr/sbin"


class ToolMissingError(Exception):
    """A program that the tests need cannot be found."""


def haproxy_path() -> str:
    """Absolute path of the HAProxy to test with; `ToolMissingError` when there is none."""
    return _find("HAPROXY", "haproxy")


def consul_path() -> str:
    """Absolute path of the Consul to test with; `ToolMissingError` when there is none."""
    return _find("CONSUL", "consul")


def _find(variable: str, program: str) -> str:
    named = os.environ.get(variable) or _recorded().get(variable)
    search = os.environ.get("PATH", os.defpath) + os.pathsep + _SBIN
    found = shutil.which(named or program, path=search)
    if found is None:
        what = f"${variable} is {named!r}, which cannot be run" if named else f"no {program} on PATH"
        raise ToolMissingError(f"{what}: run `make bootstrap`, or set {variable} to the program's path")
    return str(Path(found).absolute())


def _recorded() -> dict[str, str]:
    """What tests/bootstrap.sh noted down; empty when it has not run."""
    if not RECORD.exists():
        return {}
    lines = RECORD.read_text(encoding="utf-8").splitlines()
    return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}
