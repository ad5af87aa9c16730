"""The reload of HAProxy into a rendered configuration; after a failure the old one is back."""

import contextlib
import hashlib
import logging
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from hapsync.config.schema import HAProxyConfig
from hapsync.errors import ConfigRefused, ReloadError, ReloadUnavailable, RuntimeAPIError
from hapsync.haproxy.cfg import HEADER, is_sealed
from hapsync.haproxy.commands import drain_commands
from hapsync.haproxy.compare import shows
from hapsync.haproxy.master import Processes, read_processes, start_reload
from hapsync.haproxy.socket import check_alive, open_session
from hapsync.model.server import HAProxyProcess
from hapsync.plan.target import TargetState
from hapsync.system.files import candidate_file, keep_copy, move_into_place, read_text_or_none, write_atomically
from hapsync.system.process import no_program, program_path
from hapsync.text import reason

log = logging.getLogger(__name__)

SHOWN_SECONDS = 1.0
"""The time for a new worker to show the target. A new worker shows its file at once, so one that shows another state
after this time runs with other servers."""
_POLL_SECONDS = 0.02
_SAID_LINES = 12
_KILLED_BY = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU})
"""The signals of an operator, or of the kernel without memory; a check command killed by another signal has
refused."""
_OUTPUT_SIGNS = 4 << 20
"""The limit of the output; two lines for each of ten thousand servers fit."""


def check_candidate(config: HAProxyConfig, candidate: str) -> None:
    """Run `haproxy.check_command` on the file `candidate`.

    Raises ConfigRefused with the command's output when its exit code is not 0. Raises ReloadUnavailable when the
    command cannot be run, takes too long or is killed, which proves nothing about the file and may pass.
    """
    words = [word.replace("{config}", candidate) for word in config.check_command]
    ended = _run(words, config.check_timeout_seconds, "haproxy.check_command")
    if -ended.returncode in _KILLED_BY:
        raise ReloadUnavailable(f"haproxy.check_command: ended by {signal.Signals(-ended.returncode).name}")
    if ended.returncode != 0:
        said = ended.stdout.replace(Path(candidate).name, Path(config.config).name)
        asked = shlex.join(words).replace(candidate, config.config)
        raise ConfigRefused(
            f"`{asked}` refused the rendered configuration:\n{_shown(said)}", read_text_or_none(candidate) or "", said
        )


def check_text(config: HAProxyConfig, text: str) -> None:
    """Run `haproxy.check_command` on a candidate that holds `text`, and delete the candidate.

    Raises ReloadError (ConfigRefused after a refusal, ReloadUnavailable where the check could not run).
    """
    with _candidate(config, text) as candidate:
        check_candidate(config, candidate)


def install(
    config: HAProxyConfig, text: str, *, is_checked: bool = False, is_wanted: Callable[[], bool] = lambda: True
) -> bool:
    """Check `text`, unless it was checked, and replace `haproxy.config` with it in one step.

    A file from another author, or one edited since, is first copied beside it. `is_wanted` is asked after the check;
    the file stays where it returns False. Returns whether the file was replaced.

    Raises ReloadError (ConfigRefused after a refusal); the old file then stays.
    """
    with _candidate(config, text) as candidate:
        if not is_checked:
            check_candidate(config, candidate)
        if not is_wanted():
            return False
        _keep_edits(config, read_text_or_none(config.config))
        move_into_place(candidate, config.config)
    return True


@contextlib.contextmanager
def _candidate(config: HAProxyConfig, text: str) -> Iterator[str]:
    """Yield the name of a candidate that holds `text`; raises ReloadUnavailable where a file cannot be written."""
    try:
        with candidate_file(config.config, text) as candidate:
            yield candidate
    except (OSError, ValueError) as error:
        raise ReloadUnavailable(
            f"{config.config} cannot be written: {error}; hapsync writes a new file beside it, then renames it"
        ) from error


def _keep_edits(config: HAProxyConfig, old: str | None) -> None:
    """Keep a copy of text that hapsync did not write: the file from before hapsync, once, and each later edit."""
    if old is None or is_sealed(old):
        return
    if not old.startswith(HEADER):
        if keep_copy(config.config, ".before-hapsync") is not None:
            return
        log.warning("file %s was replaced outside of hapsync", config.config)
    digest = hashlib.blake2b(old.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    kept = keep_copy(config.config, f".edited-{digest}")
    if kept is not None:
        log.warning(
            "file %s was edited outside of hapsync; kept as %s, edit the template instead", config.config, kept
        )


def reload_into(
    config: HAProxyConfig, text: str, target: TargetState, *, is_checked: bool = False, next_socket: str | None = None
) -> HAProxyProcess:
    """Install `text`, reload HAProxy, and return the new worker after it shows `target`, drained servers included.

    The wait goes to its end even while hapsync stops: half a reload would leave file and worker different.
    `is_checked`: the check command has accepted this text already. `next_socket`: the socket of the new worker, if
    not `haproxy.socket`.

    Raises ReloadError; the old file is then back in place. If a new worker runs without the target, HAProxy was
    reloaded into the old file. ReloadUnavailable is raised before any change.
    """
    after = attrs.evolve(config, socket=next_socket or config.socket)
    before = check_alive(config.socket, config.timeout_seconds)
    try:
        master = read_processes(config.master, config.timeout_seconds) if config.master else None
    except RuntimeAPIError as error:
        raise ReloadUnavailable(str(error)) from error
    try:
        old = read_text_or_none(config.config)
    except OSError as error:
        raise ReloadUnavailable(f"{config.config} cannot be read: {reason(error)}") from error
    install(config, text, is_checked=is_checked)
    try:
        _start(config)
        return _wait_for(after, target, before, master)
    except (ReloadError, RuntimeAPIError, OSError) as error:
        _put_back(config, old)
        back = _reload_back(config, after, before)
        # A program that could not be started may appear soon.
        passes = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
        kind = ReloadUnavailable if passes and not back else ReloadError
        raise kind(f"the reload failed, the old file is back{back}: {error}") from error


def _start(config: HAProxyConfig) -> None:
    if config.master is not None:
        start_reload(config.master, config.reload_timeout_seconds)
        return
    ended = _run(config.reload_command or (), config.reload_timeout_seconds, "haproxy.reload_command")
    if ended.returncode != 0:
        raise ReloadError(f"haproxy.reload_command ended with {ended.returncode}: {_shown(ended.stdout)}")


def _wait_for(
    config: HAProxyConfig, target: TargetState, before: HAProxyProcess, master: Processes | None
) -> HAProxyProcess:
    begin = time.monotonic()
    deadline = begin + config.reload_timeout_seconds
    waiting_for = f"a worker other than {before.pid} to answer on {config.socket}"
    while time.monotonic() < deadline:
        with contextlib.suppress(RuntimeAPIError), open_session(config.socket, config.timeout_seconds) as session:
            process = session.read_process()
            if process.pid != before.pid:
                backends = target.backends.values()
                session.ask([one for backend in backends for one in drain_commands(backend.name, backend.slots)])
                differences = shows(session.read_servers(tuple(target.backends)), target)
                if not differences:
                    return process
                waiting_for = f"worker {process.pid} to show what was rendered: {'; '.join(differences[:3])}"
                deadline = min(deadline, time.monotonic() + SHOWN_SECONDS)
        _raise_if_failed(config, master)
        time.sleep(_POLL_SECONDS)
    raise ReloadError(f"waited {time.monotonic() - begin:.1f} s for {waiting_for}")


def _raise_if_failed(config: HAProxyConfig, master: Processes | None) -> None:
    if master is None or config.master is None:
        return
    try:
        now = read_processes(config.master, config.timeout_seconds)
    except RuntimeAPIError:
        return  # the master is being replaced
    if now.failed_reloads > master.failed_reloads:
        raise ReloadError("HAProxy's master counts a failed reload; see its log")


def _reload_back(config: HAProxyConfig, after: HAProxyConfig, before: HAProxyProcess) -> str:
    """Reload into the old file if a new worker has the refused one; return the message about it."""
    try:
        sockets = dict.fromkeys((config.socket, after.socket))
        if any(check_alive(one, config.timeout_seconds).pid == before.pid for one in sockets):
            return ""
        _start(config)
    except (ReloadError, RuntimeAPIError, OSError) as error:
        return f", but HAProxy could not be reloaded into it ({error})"
    return " and HAProxy was reloaded into it"


def _put_back(config: HAProxyConfig, old: str | None) -> None:
    try:
        if old is None:
            Path(config.config).unlink(missing_ok=True)
        else:
            write_atomically(config.config, old)
    except OSError as error:
        raise ReloadError(f"{config.config} cannot be put back as it was: {error}") from error


def _run(words: Sequence[str], timeout_seconds: float, key: str) -> subprocess.CompletedProcess[str]:
    """Run the command of `key` in `/`, where an init system starts HAProxy: relative names mean the same to both."""
    # The output goes into a file, not a pipe: a daemon started by the command would keep a pipe open forever.
    program = program_path(words[0]) or words[0]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        try:
            # The command has a session of its own, so that a timeout ends its children, too.
            process = subprocess.Popen(
                (program, *words[1:]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise ReloadUnavailable(f"{key}: {no_program(words[0])}") from error
        except OSError as error:
            raise ReloadUnavailable(f"{key}: {words[0]!r} cannot be run: {error.strerror}") from error
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise ReloadUnavailable(f"{key}: not done after {timeout_seconds:g} s, so it was ended") from error
        output.seek(0)
        return subprocess.CompletedProcess(words, process.returncode, output.read(_OUTPUT_SIGNS), "")


def _shown(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip() and "[NOTICE]" not in line]
    return "\n".join(lines[:_SAID_LINES])
