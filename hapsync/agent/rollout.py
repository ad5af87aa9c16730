"""Performs the rollout's actions: checks candidates beside the passes, asks for permits, reloads HAProxy."""

import contextlib
import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import attrs

from hapsync.agent.executor import Executor, value_of
from hapsync.agent.file_text import Candidate, is_applied
from hapsync.agent.guard_state import GuardState
from hapsync.agent.live_backends import WholeBackends, can_have
from hapsync.agent.reconcile import Reconciler
from hapsync.agent.settings import Settings
from hapsync.config.schema import BackendConfig, Config
from hapsync.consul.semaphore import PermitRequest
from hapsync.errors import (
    BrokenPromise,
    ConfigRefused,
    HapsyncError,
    ReloadUnavailable,
    RuntimeAPIError,
    WouldLose,
)
from hapsync.haproxy.cfg import parse_sections, server_options_in
from hapsync.haproxy.cfg_diff import Difference, difference
from hapsync.haproxy.check_errors import backends_at_fault
from hapsync.haproxy.foreign import refuse
from hapsync.haproxy.reload import check_text, reload_into
from hapsync.model.server import HAProxyProcess
from hapsync.plan.desired import Desired
from hapsync.plan.rollout import Do, Event, Rollout, State
from hapsync.system.files import read_text_or_none, write_in_folder
from hapsync.text import one_line

log = logging.getLogger(__name__)

CATALOG_SECONDS = 3.0
"""The longest wait for the catalog before a reload into changed settings: one reload may serve both."""
_NOTE_FILE = "reload-under-way"


@attrs.frozen
class Quarantine:
    """Settings to go on with, and the backends in them that keep their old `server_options`, each with the reason."""

    settings: Settings
    why: Mapping[str, str]


@attrs.frozen
class NotMade:
    """A rollout step that failed: HAProxy was not brought to the current settings, and keeps its own.

    `is_tried_again`: the next try comes by itself. `is_about_file`: the file cannot become what it should be, for the
    step was for settings, not only for slots, or would have broken a promise.
    """

    error: str
    is_tried_again: bool
    is_about_file: bool


@attrs.frozen
class _Check:
    """A check of `candidate` beside the passes; its value is None where the check command accepted it."""

    candidate: Candidate
    settings: Settings
    verdict: Future[HapsyncError | None]


class Reloads:
    """Keeps the rollout, and performs its actions; the agent's one thread calls all methods.

    The rollout's settings are the agent's settings. `whole` makes changes of whole backends without a reload.
    """

    def __init__(
        self, settings: Settings, guard_state: GuardState, executor: Executor, wake: Callable[[], None]
    ) -> None:
        """Take the first settings, and `wake` for the thread of a permit to call once it comes."""
        self.whole = WholeBackends(guard_state)
        self._rollout = Rollout(settings)
        self._executor = executor
        self._wake = wake
        self._check: _Check | None = None
        self._permit: PermitRequest | None = None

    @property
    def rollout(self) -> Rollout[Settings]:
        """The current settings, and HAProxy's progress towards them."""
        return self._rollout

    @rollout.setter
    def rollout(self, rollout: Rollout[Settings]) -> None:
        self._rollout = rollout
        if self._permit is not None and not rollout.has_permit and rollout.state is not State.WAITING:
            self._permit.give_back()
            self._permit = None

    @property
    def waits_for(self) -> str | None:
        """The reason, in words, why a due reload waits for a permit; None where it does not wait."""
        return (self._permit.waits_for or None) if self._permit and self._rollout.state is State.WAITING else None

    def release_permit(self) -> None:
        """Give back the permit that this balancer has or asks for: no reload is being made."""
        self.rollout = self._rollout.permit_lost()

    def use(self, settings: Settings, why: str | None = None) -> None:
        """Switch to `settings`; a reload is due, after a wait for the catalog, where HAProxy was not made from them.

        `why`: they are other ones than before, for this reason; None: they are adapted to the running HAProxy.
        """
        at, now = self._due_if_not_applied(settings), self._rollout
        self.rollout = now.moved_to(settings, at) if why is None else now.taken(settings, why, at)

    def compare(self, wait_seconds: float = 0.0) -> None:
        """Make a reload due in `wait_seconds` if the running HAProxy was not made from the current settings."""
        self.rollout = self._rollout.compared(self._due_if_not_applied(self._rollout.settings, wait_seconds))

    def worker_came(self, process: HAProxyProcess, *, is_another: bool, was_away: bool) -> None:
        """Note the first answer of a worker: of another one than before, or after no answer.

        HAProxy may have started from the new file, or a killed hapsync may have left a reload half done.
        """
        if is_another:
            is_half = is_half_done(self._rollout.settings.config, process.pid)
            self.rollout = self._rollout.new_worker(time.monotonic(), is_half_reloaded=is_half)
        self.rollout = self._rollout.mended()
        if is_another and was_away and self._rollout.settings_due_seconds is not None:
            self.compare()

    def _due_if_not_applied(self, settings: Settings, wait_seconds: float = CATALOG_SECONDS) -> float | None:
        try:
            applied = is_applied(settings, read_text_or_none(settings.config.haproxy.config))
        except (HapsyncError, OSError, ValueError) as error:
            log.error("template not usable: %s", error)  # noqa: TRY400
            applied = False
        return None if applied and not self._rollout.is_doubted else time.monotonic() + wait_seconds

    def due_seconds(self, wanted: Desired, *, is_told: bool) -> float | None:
        """Return the time of the next `step`, on the monotonic clock, or None; `is_told`: all services were read."""
        if self._permit is not None and self._permit.is_come.is_set():
            self.rollout = self._rollout.permit_came()
        if self._check is None or self._check.verdict.done():
            self.rollout = self._rollout.check_ended()
        gap_seconds = self._rollout.settings.config.haproxy.reload_gap_seconds
        attempt = self._rollout.attempt(wanted)
        return self._rollout.due_seconds(time.monotonic(), attempt, gap_seconds, is_told=is_told)

    def step(
        self, reconciler: Reconciler, process: HAProxyProcess | None, made_live: Callable[[Difference], None]
    ) -> HAProxyProcess | Difference | NotMade | None:
        """Go a step towards a HAProxy with the current settings; return the result, None while the work goes on.

        `reconciler` makes the candidate. A Difference was made live in the worker `process`, without a reload, and
        `made_live` has made a pass over it. The rollout's settings may be other ones then: refused settings without
        some options, or those before.

        Raises RuntimeAPIError where HAProxy does not answer.
        """
        wanted = reconciler.desired()
        try:
            return self._step(reconciler, process, made_live)
        except RuntimeAPIError:
            raise
        except (HapsyncError, OSError) as error:
            return self._failed(error, wanted)
        except Exception:
            self.rollout = self._rollout.away()  # a defect: begin again
            raise

    def _step(
        self, reconciler: Reconciler, process: HAProxyProcess | None, made_live: Callable[[Difference], None]
    ) -> HAProxyProcess | Difference | None:
        check = self._check if self._rollout.state is State.CHECKED else None
        self._check = None
        settings = self._rollout.settings
        candidate = reconciler.candidate(self._rollout.short)
        live = self._difference(candidate, process)
        if live is None:
            refuse(candidate.lost)
        if self._permit is not None and self._permit.is_lost:
            self.release_permit()
        is_checked = check is not None and (check.settings, check.candidate.text) == (settings, candidate.text)
        if check is not None and is_checked and (refused := value_of(check.verdict)) is not None:
            raise refused
        self.rollout, action = self._rollout.advanced(
            is_live=live is not None, needs_permit=settings.config.fleet is not None, is_checked=is_checked
        )
        match action:
            case Do.ASK_PERMIT:
                self._permit = self._ask_permit(settings)
            case Do.CHECK:
                verdict = self._executor.submit("check", lambda: check_text(settings.config.haproxy, candidate.text))
                self._check = _Check(candidate, settings, verdict)
            case Do.MAKE_LIVE if live is not None:
                if not is_checked:
                    check_text(settings.config.haproxy, candidate.text)
                return self._make_live(settings, live, made_live)
            case Do.RELOAD:
                return self._reload(settings, candidate, process.pid if process else 0, is_checked=is_checked)
            case _:
                pass
        return None

    def _ask_permit(self, settings: Settings) -> PermitRequest | None:
        fleet = settings.config.fleet
        if fleet is None:
            return None
        asked = PermitRequest(
            settings.config.consul,
            fleet,
            value=f"{socket.gethostname()} pid {os.getpid()}: {self._rollout.why}",
            when_come=self._wake,
        )
        asked.start()
        return asked

    def _difference(self, candidate: Candidate, process: HAProxyProcess | None) -> Difference | None:
        """Return the backends to add and delete live; None where only a reload brings the candidate."""
        now = self._rollout
        if now.is_live_refused or now.is_doubted:
            return None
        live = difference(read_text_or_none(now.settings.config.haproxy.config) or "", candidate.text)
        if live is None or not now.short <= {one.name for one in live.new}:
            return None
        return live if can_have(process) or live == Difference() else None

    def _make_live(
        self, settings: Settings, live: Difference, made_live: Callable[[Difference], None]
    ) -> Difference | None:
        begin, why = time.monotonic(), self._rollout.why
        refused = self.whole.make(settings.config, live, made_live)
        if refused is not None:
            log.warning("backends not added or deleted live: %s; HAProxy is reloaded", refused)
            self.rollout = self._rollout.live_refused()
            return None
        log.info("no reload needed ms=%.1f why: %s", (time.monotonic() - begin) * 1000, why)
        self.rollout = self._rollout.made(time.monotonic(), is_reload=False)
        return live

    def _reload(self, settings: Settings, candidate: Candidate, pid: int, *, is_checked: bool) -> HAProxyProcess:
        made = reload(settings, candidate, pid, is_checked=is_checked)
        for loss in candidate.lost:
            log.warning("the reload took out foreign servers: %s", ", ".join(loss.lines))
        self.rollout = self._rollout.made(time.monotonic(), is_reload=True)
        return made

    def _failed(self, error: HapsyncError | OSError, wanted: Desired) -> NotMade | None:
        before = self._rollout
        without = quarantined(before.settings, error)
        if without is not None:
            self.rollout = before.partly(without.settings, without.why, self._due_if_not_applied(without.settings))
            return None
        losing = error.names if isinstance(error, WouldLose) else {}
        event = Event.WOULD_LOSE if losing else Event.REFUSED
        event = Event.UNAVAILABLE if isinstance(error, ReloadUnavailable | OSError) else event
        self.rollout = now = before.failed(event, str(error), before.attempt(wanted), time.monotonic(), losing)
        if now.settings is not before.settings:
            log.error("settings not taken, the old ones stay")
        return NotMade(
            str(error),
            is_tried_again=now.state is State.DUE,
            is_about_file=before.settings_due_seconds is not None or isinstance(error, BrokenPromise),
        )


def quarantined(settings: Settings, refused: Exception) -> Quarantine | None:
    """Return how to go on where HAProxy `refused` only server lines of hapsync's; None for any other refusal.

    The backends at fault keep their options in the present file, which HAProxy accepted. The file must have other
    options for them than `settings`, or nothing would be gained. A new backend is therefore never quarantined. With
    other options its servers might get requests in a form they must not get (no TLS, no PROXY header). Without
    servers the backend would fail requests that go elsewhere now.
    """
    if not isinstance(refused, ConfigRefused):
        return None
    haproxy = settings.config.haproxy
    try:
        accepted = server_options_in(parse_sections(read_text_or_none(haproxy.config) or ""))
    except (OSError, ValueError):
        return None
    backends = dict(settings.config.backends)
    why = {}
    for name, said in sorted(backends_at_fault(refused.said, refused.text, haproxy.config).items()):
        old = accepted.get(name)
        if name not in backends or old is None or old == " ".join(backends[name].server_options.split()):
            return None
        kept = _with_options(backends[name], old)
        if kept is None:
            return None
        backends[name] = kept
        why[name] = f'backend {name} is quarantined: its server_options stay "{old}", HAProxy says {one_line(said)}'
    if not why:
        return None
    for one in why.values():
        log.error("settings taken, but %s", one)
    config = attrs.evolve(settings.config, backends=backends)
    return Quarantine(attrs.evolve(settings, config=config), why)


def _with_options(config: BackendConfig, options: str) -> BackendConfig | None:
    try:
        return attrs.evolve(config, server_options=options)
    except ValueError:
        return None  # another key needs the new options


def reload(settings: Settings, candidate: Candidate, pid: int, *, is_checked: bool = False) -> HAProxyProcess:
    """Reload the worker `pid` into `candidate`, with a note about it on disk meanwhile; return the new worker.

    The note stays where the reload fails and leaves the new text in place. A full disk prevents no reload.

    Raises ReloadError.
    """
    config, text = settings.config, candidate.text
    with contextlib.suppress(OSError):
        write_in_folder(config.agent.state_dir, _NOTE_FILE, f"{pid} {_digest(text)}\n", durable=False)
    try:
        made = reload_into(
            config.haproxy, text, candidate.target, is_checked=is_checked, next_socket=settings.next_socket
        )
    except BaseException:
        if not is_half_done(config, pid):
            _forget(config)
        raise
    _forget(config)
    return made


def is_half_done(config: Config, pid: int) -> bool:
    """Return whether the worker `pid` was to be reloaded into the present file, and was not.

    A note about another worker is removed, so only the holder of the lock may call this function.
    """
    try:
        note = read_text_or_none(str(Path(config.agent.state_dir, _NOTE_FILE)))
        if note is None:
            return False
        words = note.split()
        if words[:1] == [str(pid)]:
            return words[1:] == [_digest(read_text_or_none(config.haproxy.config) or "")]
    except OSError:
        return False
    _forget(config)
    return False


def _forget(config: Config) -> None:
    with contextlib.suppress(OSError):
        Path(config.agent.state_dir, _NOTE_FILE).unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
