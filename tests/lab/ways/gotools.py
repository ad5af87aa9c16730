"""Programs of others that are written in Go: `GoTool`. Neither hapsync nor its tests need Go; two ways do."""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from attrs import frozen

from tests.lab.ways.way import UnavailableError

_BUILD_SECONDS = 900.0


@frozen
class GoTool:
    """A program that `go install` makes of `package` at `version`, or one that is there already.

    The variable of its name (CONSUL_TEMPLATE for `consul-template`) may say where that is.
    """

    package: str
    """Its path; the last part is the program's name."""
    version: str

    @property
    def name(self) -> str:
        return self.package.rpartition("/")[2]

    @property
    def variable(self) -> str:
        return self.name.upper().replace("-", "_")

    def told(self) -> str:
        """Its version; where the variable names the program, which may be any, what that says of itself (`-v`)."""
        if not os.environ.get(self.variable):
            return self.version
        ended = subprocess.run((self.path(), "-v"), capture_output=True, text=True, timeout=30, check=False)
        said = (ended.stdout.strip() or "nothing").splitlines()[0]
        return f"as ${self.variable} names it, which says of itself: {said}"

    def path(self) -> str:
        """The path of the program, which is made where it is not there yet, once for all (some minutes).

        Raises `UnavailableError` where there is no Go, or Go cannot make it.
        """
        if named := os.environ.get(self.variable):
            if not (found := shutil.which(named)):
                raise UnavailableError(f"${self.variable} is {named!r}, which cannot be run")
            return str(Path(found).absolute())
        folder = _cache() / f"{self.name}-{self.version}"
        program = folder / self.name
        if not program.exists():
            if not (go := shutil.which("go")):
                raise UnavailableError(
                    f"{self.name} {self.version} is not here, and neither is Go to make it: install Go, "
                    f"or set {self.variable} to its path"
                )
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with (folder.parent / f"{self.name}.lock").open("w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not program.exists():
                        self._make(go, folder)
            except OSError as error:
                raise UnavailableError(f"{self.name} {self.version} cannot be made: {error}") from error
        return str(program)

    def _make(self, go: str, folder: Path) -> None:
        # Renamed whole, so that a build cut short never leaves half a program behind.
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            command = ("nice", go, "install", f"{self.package}@{self.version}")
            try:
                ended = subprocess.run(
                    command,
                    env={**os.environ, "GOBIN": work, "GOFLAGS": "-buildvcs=false"},
                    cwd=work,
                    capture_output=True,
                    text=True,
                    timeout=_BUILD_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise UnavailableError(
                    f"go install {self.package}@{self.version} was not over after {_BUILD_SECONDS:g} s"
                ) from None
            if ended.returncode:
                raise UnavailableError(f"go install {self.package}@{self.version} failed: {_reason(ended.stderr)}")
            folder.mkdir(exist_ok=True)
            (Path(work) / self.name).replace(folder / self.name)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hapsync" / "go"


def _reason(said: str) -> str:
    """What Go said, in one line: without its progress, and without addresses, which are this machine's affair."""
    lines = [line.strip() for line in said.splitlines() if not line.startswith("go: downloading ")]
    return re.sub(r"https?://\S+?(?=:? |$)", "the module proxy", "; ".join(lines)) or "it does not say why"
