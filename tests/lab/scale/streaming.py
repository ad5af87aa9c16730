"""A Consul that streams, for Debian's 1.8 does not: `python -m tests.lab.scale.streaming` builds one, in minutes.

It is HashiCorp's, built from source by the Go toolchain of this machine, and is only measured here.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

VERSION = "1.20.6"
HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hapsync" / "go" / f"consul-v{VERSION}"
PROGRAM = HOME / "consul"


class NoStreamingError(Exception):
    """There is no Consul here that streams; the message says how to get one."""


@contextlib.contextmanager
def consul_of(*, is_streaming: bool) -> Iterator[None]:
    """Have the harness start the Consul that streams, or its own; raises NoStreamingError where there is none."""
    before = os.environ.get("CONSUL")
    if is_streaming:
        os.environ["CONSUL"] = streaming_consul()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("CONSUL", None)
        else:
            os.environ["CONSUL"] = before


def streaming_consul() -> str:
    """Path of a Consul 1.10 or newer: `$CONSUL_STREAMING`, or the one that was built; raises NoStreamingError."""
    named = os.environ.get("CONSUL_STREAMING") or str(PROGRAM)
    found = shutil.which(named)
    if found is None:
        raise NoStreamingError(
            "no Consul that streams: set CONSUL_STREAMING to the path of a Consul 1.10 or newer, or build one with "
            "`python -m tests.lab.scale.streaming`"
        )
    return found


def build() -> Path:
    """Build Consul into the cache and return its path; raises NoStreamingError when Go or its modules are missing."""
    if shutil.which("go") is None:
        raise NoStreamingError("no Go toolchain on PATH")
    told = json.loads(_go(Path.cwd(), "mod", "download", "-json", f"github.com/hashicorp/consul@v{VERSION}"))
    with tempfile.TemporaryDirectory(prefix="consul-") as folder:
        source = Path(folder) / "consul"
        shutil.copytree(told["Dir"], source, copy_function=shutil.copyfile)
        for one in (source, *source.rglob("*")):
            one.chmod(0o755 if one.is_dir() else 0o644)
        # They name folders that the module does not have; the same modules are published, with their versions.
        inside = re.findall(r"^\s*(\S+) => \./", (source / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
        _go(source, "mod", "edit", *(f"-dropreplace={module}" for module in inside))
        _go(source, "mod", "tidy", "-e")
        HOME.mkdir(parents=True, exist_ok=True)
        _go(source, "build", "-o", str(PROGRAM), ".")
    return PROGRAM


def _go(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["go", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoStreamingError(
            f"go {arguments[0]} {arguments[1]}: {done.stderr.strip()[-1000:] or done.stdout[-1000:]}"
        )
    return done.stdout


if __name__ == "__main__":
    try:
        print(build())
    except NoStreamingError as error:
        sys.exit(str(error))
