"""Where the programs under test are."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / ".venv" / "hapsync-tools.env"

MODERN_CONSUL = "1.14.11"
"""The newest Consul that is open source, and what it has that Debian's lacks: it streams, and tells of filtering."""

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


def modern_consul_path() -> str:
    """Absolute path of Consul 1.14.11, whichever Consul is tested with; `ToolMissingError` when it is not built."""
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hapsync" / f"consul-{MODERN_CONSUL}"
    if not os.access(program := cached / "consul", os.X_OK):
        raise ToolMissingError(f"no {program}: run `tests/consul.sh {MODERN_CONSUL}`, which builds it")
    return str(program)


@cache
def consul_version(program: str) -> tuple[int, ...]:
    """Major and minor version of a Consul; ValueError where it does not say one."""
    said = subprocess.run([program, "version"], capture_output=True, text=True, check=False, timeout=30).stdout
    found = re.match(r"Consul v?(\d+)\.(\d+)", said)
    if found is None:
        raise ValueError(f"{program} version: no version of Consul in {said[:100]!r}")
    return int(found[1]), int(found[2])


def unused_consul_ports(*names: str) -> dict[str, int]:
    """For `ports` of a Consul's configuration: those of `names` and of gRPC, all closed.

    1.14 opens one for gRPC over TLS by itself, at a fixed port; older ones refuse to start where it is named.
    """
    modern = ("grpc_tls",) if consul_version(consul_path()) >= (1, 14) else ()
    return dict.fromkeys((*names, "grpc", *modern), -1)


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
