"""Performs the rollout's actions: checks candidates beside the passes, asks for permits, reloads HAProxy."""

import contextlib
import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import attrs

from hapsync.agent.config_file import Candidate, is_applied
from hapsync.agent.executor import Executor, value_of
from hapsync.agent.live_backends import WholeBackends, can_have
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

_NOTE_FILE = "reload-under-way"


@attrs.frozen
class Quarantine:
    """Settings to go on with, and the backends in them that keep their old `server_options`, each with the reason."""

    settings: Settings
    why: Mapping[str, str]


@attrs.frozen
class NotMade:
    """A rollout step that failed: HAProxy was not brought to the current settings, and keeps its own.

    `is_tried_again`: the next try comes by itself. `is_settings`: the step was for settings, not only for slots.
    `previous`: the settings to go back to. `is_defect`: the step would have broken a promise.
    """

    error: str
    is_tried_again: bool
    is_settings: bool
    previous: Settings | None
    is_defect: bool = False


@attrs.frozen
class _Check:
    """A check of `candidate` beside the passes; its value is None where the check command accepted it."""

    candidate: Candidate
    settings: Settings
    verdict: Future[HapsyncError | None]


class Reloads:
    """Keeps the rollout, and performs its actions; the agent's one thread calls all methods."""

    def __init__(
        self, settings: Settings, executor: Executor, wake: Callable[[], None], whole: WholeBackends
    ) -> None:
        """Take `wake` for the thread of a permit to call once it comes, and `whole` for changes without a reload."""
        self._rollout = Rollout(settings)
        self._executor = executor
        self._wake = wake
        self._whole = whole
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

    def use(
        self,
        settings: Settings,
        due_seconds: float,
        why: str | None = None,
        quarantined: Mapping[str, str] | None = None,
    ) -> None:
        """Switch to `settings`; a reload is due at `due_seconds` where HAProxy was not made from them.

        `why`: the settings are other ones than before, for this reason. `quarantined`: the settings lack options that
        HAProxy refused. With neither, the settings are the same, adapted to the running HAProxy.
        """
        at, now = self._due_if_not_applied(settings, due_seconds), self._rollout
        if why is not None:
            self.rollout = now.taken(settings, why, at)
        else:
            self.rollout = now.partly(settings, quarantined, at) if quarantined else now.moved_to(settings, at)

    def compare(self, due_seconds: float) -> None:
        """Make a reload due at `due_seconds` if the running HAProxy was not made from the current settings."""
        self.rollout = self._rollout.compared(self._due_if_not_applied(self._rollout.settings, due_seconds))

    def _due_if_not_applied(self, settings: Settings, due_seconds: float) -> float | None:
        try:
            applied = is_applied(settings, read_text_or_none(settings.config.haproxy.config))
        except (HapsyncError, OSError, ValueError) as error:
            log.error("template not usable: %s", error)  # noqa: TRY400
            applied = False
        return None if applied and not self._rollout.is_doubted else due_seconds

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
        self,
        wanted: Desired,
        candidate_for: Callable[[Collection[str]], Candidate],
        process: HAProxyProcess | None,
        made_live: Callable[[Difference], None],
    ) -> HAProxyProcess | Difference | Quarantine | NotMade | None:
        """Go a step towards a HAProxy with the current settings; return the result, None while the work goes on.

        `candidate_for` returns the candidate with more slots for some backends. A Difference was made live in the
        worker `process`, without a reload, and `made_live` has made a pass over it. A Quarantine is to be used next.

        Raises RuntimeAPIError where HAProxy does not answer.
        """
        done: HAProxyProcess | Difference | HapsyncError | OSError | None
        try:
            done = self._step(candidate_for, process, made_live)
        except (HapsyncError, OSError) as error:
            if isinstance(error, RuntimeAPIError):
                raise
            done = error
        except Exception:
            self.rollout = self._rollout.away()  # a defect: begin again
            raise
        if not isinstance(done, HapsyncError | OSError):
            return done
        return quarantined(self._rollout.settings, done) or self._not_made(done, wanted)

    def _step(
        self,
        candidate_for: Callable[[Collection[str]], Candidate],
        process: HAProxyProcess | None,
        made_live: Callable[[Difference], None],
    ) -> HAProxyProcess | Difference | HapsyncError | None:
        check = self._check if self._rollout.state is State.CHECKED else None
        self._check = None
        settings = self._rollout.settings
        candidate = candidate_for(self._rollout.short)
        live = self._difference(candidate, process)
        if live is None:
            refuse(candidate.lost)
        if self._permit is not None and self._permit.is_lost:
            self.release_permit()
        is_checked = check is not None and (check.settings, check.candidate.text) == (settings, candidate.text)
        if check is not None and is_checked and (refused := value_of(check.verdict)) is not None:
            return refused
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
        refused = self._whole.make(settings.config, live, made_live)
        if refused is not None:
            log.warning("backends not added or deleted live: %s; HAProxy is reloaded", refused)
            self.rollout = self._rollout.live_refused()
            return None
        log.info("no reload needed ms=%.1f why: %s", (time.monotonic() - begin) * 1000, why)
        self.rollout = self._rollout.made(time.monotonic(), is_reload=False)
        return live

    def _reload(self, settings: Settings, candidate: Candidate, pid: int, *, is_checked: bool) -> HAProxyProcess:
        haproxy = settings.config.haproxy
        with noted(settings.config, pid, candidate.text):
            made = reload_into(
                haproxy, candidate.text, candidate.target, is_checked=is_checked, next_socket=settings.next_socket
            )
        for loss in candidate.lost:
            log.warning("the reload took out foreign servers: %s", ", ".join(loss.lines))
        self.rollout = self._rollout.made(time.monotonic(), is_reload=True)
        return made

    def _not_made(self, error: HapsyncError | OSError, wanted: Desired) -> NotMade:
        before = self._rollout
        losing = error.names if isinstance(error, WouldLose) else {}
        event = Event.WOULD_LOSE if losing else Event.REFUSED
        event = Event.UNAVAILABLE if isinstance(error, ReloadUnavailable | OSError) else event
        self.rollout = now = before.failed(event, str(error), before.attempt(wanted), time.monotonic(), losing)
        previous = now.settings if now.settings is not before.settings else None
        if previous is not None:
            log.error("settings not taken, the old ones stay")
        return NotMade(
            str(error),
            is_tried_again=now.state is State.DUE,
            is_settings=before.settings_due_seconds is not None,
            previous=previous,
            is_defect=isinstance(error, BrokenPromise),
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


@contextlib.contextmanager
def noted(config: Config, pid: int, text: str) -> Iterator[None]:
    """Keep a note on disk while the block runs: the worker `pid` is about to be reloaded into `text`.

    The note stays where the block fails and leaves the new text in place. A full disk prevents no reload.
    """
    with contextlib.suppress(OSError):
        write_in_folder(config.agent.state_dir, _NOTE_FILE, f"{pid} {_digest(text)}\n", durable=False)
    try:
        yield
    except BaseException:
        if not is_half_done(config, pid):
            _forget(config)
        raise
    _forget(config)


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
