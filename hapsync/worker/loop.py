"""The agent: decides when to make a pass, when to reload, when to write the file.

One thread does all of it, so HAProxy is only ever spoken to by one. The watches of Consul run beside it and only wake
it. What it remembers is when to act next, never what HAProxy has: killed at any moment, its next pass is right.
"""

import contextlib
import logging
import queue
import time
from collections.abc import Callable

from hapsync.desired import Desired
from hapsync.edge.files import read_text_or_none
from hapsync.edge.watch import Watches
from hapsync.errors import ConfigError, HapsyncError, ReloadUnavailable, RuntimeAPIError
from hapsync.growth import Need, needed
from hapsync.model import HAProxyProcess
from hapsync.plan import describe_shortage
from hapsync.worker.file_keeper import FileKeeper
from hapsync.worker.journal import Journal
from hapsync.worker.one_pass import Outcome, check_alive, run_pass
from hapsync.worker.paper import is_applied, observe_all, reload_grown
from hapsync.worker.settings import Settings
from hapsync.worker.wanted import Wanted

log = logging.getLogger(__name__)

ALIVE_SECONDS = 0.4
"""How often HAProxy is asked who it is: a restart or reload is noticed within half a second."""
RETRY_FIRST_SECONDS = 0.25
CATALOG_SECONDS = 3.0
"""How long a reload into changed settings waits at the start for the catalog, which may ask for one as well."""
UNAVAILABLE_SECONDS = 2.0
"""A reload that could not be begun is tried again after this long, or after the gap if that is longer."""
PUBLISH_SECONDS = 1.0
"""The report is written at most this often; a status that is a second old is good enough for a person."""


class Worker:
    """The agent's one thread; `run` returns after `stop`."""

    def __init__(self, settings: Settings, read_again: Callable[[], Settings]) -> None:
        """Take what to follow; `read_again` reads the settings afresh for `reload`.

        Raises CatalogError when Consul's certificates cannot be used.
        """
        self._settings = settings
        self._read_again = read_again
        self._wakes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._watches = Watches(settings.config.consul, self._wakes.put)
        self._journal = Journal(settings.config.agent)
        self._is_stopping = False
        self._is_asked_to_reload = False
        self._wanted = Wanted()

        self._process: HAProxyProcess | None = None
        self._last_pid = 0
        self._haproxy_error: str | None = None
        self._due: set[str] = set()
        self._unfinished: set[str] = set()
        self._unread: set[str] = set(settings.config.backends)
        self._alive_at = self._full_at = 0.0
        self._retry_at: float | None = None
        self._retry_seconds = RETRY_FIRST_SECONDS

        self._need: Need | None = None
        self._new_settings_at: float | None = None
        self._previous: Settings | None = None
        self._settings_error: str | None = None
        self._reloaded_at: float | None = None
        self._grow_after = 0.0
        self._refused: tuple[Desired, Settings] | None = None

        self._file = FileKeeper(lambda: self._wakes.put(""))

        self._publish_at: float | None = None
        self._published_at = 0.0

    def stop(self) -> None:
        """End `run` soon; safe in a signal handler."""
        self._is_stopping = True
        self._wakes.put("")

    def reload(self) -> None:
        """Read configuration and template again, soon; safe in a signal handler."""
        self._is_asked_to_reload = True
        self._wakes.put("")

    def run(self) -> None:
        """Follow Consul until `stop`."""
        self._watches.follow(self._settings.config.services)
        self._look_whether_applied(time.monotonic() + CATALOG_SECONDS)
        self._file.touch()
        try:
            while not self._is_stopping:
                self._wait()
                if not self._is_stopping:
                    self._step_safely()
        finally:
            self._watches.stop()
            self._file.finish(wait=True)
            if self._file.is_behind and self._process is not None:
                self._write_file()  # HAProxy may be restarted before hapsync is
                self._file.finish(wait=True)
            self._publish()

    def _wait(self) -> None:
        """Sleep until something wakes the worker or falls due; several wake-ups become one."""
        woken: set[str] = set()
        with contextlib.suppress(queue.Empty):
            woken.add(self._wakes.get(timeout=max(0.0, self._next_at() - time.monotonic())))
            while True:
                woken.add(self._wakes.get_nowait())
        backends = {name for name, one in self._settings.config.backends.items() if one.service in woken}
        self._due |= backends
        if backends and self._process is None:
            self._file.touch()  # what HAProxy is started with should be what the catalog says by then

    def _next_at(self) -> float:
        times = (
            self._alive_at,
            self._full_at,
            self._retry_at,
            self._grow_at(),
            self._file.due_seconds,
            self._publish_at,
        )
        return min(at for at in times if at is not None)

    def _step_safely(self) -> None:
        """Make a step; a defect in it is logged, and everything is read afresh a moment later."""
        try:
            self._step()
        except Exception:
            log.exception("a defect of hapsync, please report it; HAProxy keeps what it has")
            self._due = set(self._settings.config.backends)
            time.sleep(RETRY_FIRST_SECONDS)

    def _step(self) -> None:
        if self._is_asked_to_reload:
            self._is_asked_to_reload = False
            self._take_new_settings()
        now = time.monotonic()
        if now >= self._full_at:
            self._full_at = now + self._settings.config.agent.resync_seconds
            self._due = set(self._settings.config.backends)
            if self._file.is_suspect(self._settings):
                self._file.touch()
            self._publish_soon()
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._due |= self._unfinished
        if now >= self._alive_at:
            self._alive_at = now + ALIVE_SECONDS
            self._look_whether_alive()
        grow_at = self._grow_at()
        if grow_at is not None and now >= grow_at and self._need is not None:
            self._due |= {shortage.backend for shortage in self._need.shortages}
        if self._due and self._process is not None:
            self._pass()
        grow_at = self._grow_at()
        if grow_at is not None and time.monotonic() >= grow_at:
            self._grow()
        if self._file.finish():
            self._publish_soon()
        file_at = self._file.due_seconds
        if file_at is not None and time.monotonic() >= file_at:
            self._write_file()
        if self._publish_at is not None and time.monotonic() >= self._publish_at:
            self._publish()

    def _take_new_settings(self) -> None:
        self._refused = None  # whatever refused may have been mended
        self._file.touch(anew=True)
        try:
            settings = self._read_again()
        except ConfigError as error:
            log.error("settings not taken, the old ones stay: %s", error)  # noqa: TRY400
            self._settings_error = str(error)
            return
        self._settings_error = None
        if settings == self._settings:
            log.info("settings unchanged")
            return
        if self._new_settings_at is None:  # else the last ones that were live stay the ones to go back to
            self._previous = self._settings
        if settings.config.agent != self._settings.config.agent:
            log.warning("settings [agent] changed: that needs a restart of hapsync")
        try:
            self._use(settings)
        except HapsyncError as error:
            log.error("settings not taken, the old ones stay: %s", error)  # noqa: TRY400
            self._settings_error = str(error)
            return
        log.info("settings taken: %d backends", len(settings.config.backends))

    def _use(self, settings: Settings) -> None:
        old = self._settings
        if settings.config.consul != old.config.consul:
            watches = Watches(settings.config.consul, self._wakes.put)
            self._watches.stop()
            self._watches = watches
        self._settings = settings
        self._watches.follow(settings.config.services)
        self._wanted = Wanted()
        self._due = set(settings.config.backends)
        self._unread = set(settings.config.backends) - set(self._desired().backends)
        self._need = None
        self._unfinished &= set(settings.config.backends)
        self._look_whether_applied(time.monotonic() + CATALOG_SECONDS)
        self._file.touch()

    def _look_whether_applied(self, reload_at: float) -> None:
        """Ask for a reload at `reload_at` if the running HAProxy was not made from the settings at hand."""
        try:
            current = read_text_or_none(self._settings.config.haproxy.config)
            applied = is_applied(self._settings, current)
        except (HapsyncError, OSError, ValueError) as error:
            log.error("template not usable: %s", error)  # noqa: TRY400
            applied = False
        self._new_settings_at = None if applied else reload_at

    # -- passes ---------------------------------------------------------------------------------------------

    def _desired(self) -> Desired:
        return self._wanted.desired(self._watches.catalog(), self._settings.config)

    def _look_whether_alive(self) -> None:
        haproxy = self._settings.config.haproxy
        try:
            self._answered(check_alive(haproxy.socket, haproxy.timeout_seconds))
        except RuntimeAPIError as error:
            self._lost(error)
        if self._need is not None:  # a slot may have fallen idle
            self._due |= {shortage.backend for shortage in self._need.shortages}

    def _answered(self, process: HAProxyProcess) -> None:
        if self._process is None or self._process.pid != process.pid:
            is_another = process.pid != self._last_pid
            if is_another:
                self._journal.note_worker(process)
            elif self._haproxy_error is not None:
                log.info("haproxy pid=%d answers again", process.pid)
            self._last_pid = process.pid
            self._due = set(self._settings.config.backends)
            self._refused = None
            self._file.touch()
            if is_another and self._haproxy_error is not None and self._new_settings_at is not None:
                self._look_whether_applied(time.monotonic())  # it may have been started from the new file
        self._process, self._haproxy_error = process, None

    def _lost(self, error: RuntimeAPIError) -> None:
        if self._haproxy_error is None:
            log.warning("haproxy %s; asked again every %g s", error, ALIVE_SECONDS)
            self._file.touch()
            self._publish_soon()
        self._process, self._haproxy_error, self._need = None, str(error), None

    def _pass(self) -> None:
        wanted = self._desired()
        backends = tuple(sorted(self._due & set(wanted.backends)))
        self._due = set()
        if not backends:
            return
        haproxy = self._settings.config.haproxy
        begin = time.monotonic()
        try:
            outcome = run_pass(haproxy.socket, haproxy.timeout_seconds, wanted, backends)
        except RuntimeAPIError as error:
            self._lost(error)
            return
        self._answered(outcome.last.process)
        self._take(outcome, set(backends))
        self._journal.note_held(outcome.last.plan, backends)
        self._journal.note_pass(outcome, time.monotonic() - begin)
        is_full = len(backends) == len(wanted.backends)
        changed_by_others = is_full and self._file.is_new_to(outcome.last.observed)
        if outcome.done or changed_by_others or self._unread & set(backends):
            self._file.touch()
        self._unread -= set(backends)
        self._publish_soon()

    def _take(self, outcome: Outcome, backends: set[str]) -> None:
        """Note what is still to be done in `backends`: now short of slots, or to be tried again."""
        left = outcome.last.plan
        now = time.monotonic()
        others = [one for one in (self._need.shortages if self._need else ()) if one.backend not in backends]
        shortages = sorted((*others, *left.shortages), key=lambda shortage: shortage.backend)
        self._need = needed(self._need, shortages, now)
        short = {shortage.backend for shortage in shortages}
        self._unfinished -= backends
        self._unfinished |= {change.backend for change in left.changes} - short
        if not self._unfinished:
            self._retry_at, self._retry_seconds = None, RETRY_FIRST_SECONDS
        elif self._retry_at is None:
            self._retry_at = now + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, self._settings.config.agent.resync_seconds)

    # -- the reload -----------------------------------------------------------------------------------------

    def _grow_at(self) -> float | None:
        """Return when to reload: once the need has settled, and not sooner after another than the gap allows."""
        if self._process is None:
            return None
        new_settings_at = time.monotonic() if self._new_settings_at and not self._unread else self._new_settings_at
        causes = (new_settings_at, self._need.due_seconds if self._need else None)
        if causes == (None, None) or self._refused == self._attempt():
            return None
        at = max(self._grow_after, min(cause for cause in causes if cause is not None))
        if self._reloaded_at is not None:
            at = max(at, self._reloaded_at + self._settings.config.haproxy.reload_gap_seconds)
        return at

    def _attempt(self) -> tuple[Desired, Settings]:
        """Return what a reload would be made for: the same again is not worth another try."""
        wanted = self._desired()
        if self._new_settings_at is not None or self._need is None:
            return wanted, self._settings
        return wanted.only([shortage.backend for shortage in self._need.shortages]), self._settings

    def _grow(self) -> None:
        self._file.finish(wait=True)  # or it would put an older file over the reload's
        wanted = self._desired()
        shortages = self._need.shortages if self._need else ()
        whys = [" ".join(describe_shortage(shortage).split()) for shortage in shortages]
        if self._new_settings_at is not None:
            whys.insert(0, "the template or hapsync.toml changed")
        why = "; ".join(whys)
        begin = time.monotonic()
        error: str | None = None
        is_tried_again = False
        try:
            process = reload_grown(self._settings, wanted, [shortage.backend for shortage in shortages])
        except RuntimeAPIError as lost:
            self._lost(lost)
            return
        except (HapsyncError, OSError) as refused:
            error = str(refused)
            self._file.touch()
            is_tried_again = isinstance(refused, ReloadUnavailable)
            if is_tried_again:
                self._grow_after = time.monotonic() + UNAVAILABLE_SECONDS
            else:
                self._refused = self._attempt()
            if self._new_settings_at is not None:
                self._file.error = error
                self._settings_error = error
                if self._previous is not None:
                    log.error("settings not taken, the old ones stay")  # noqa: TRY400
                    self._use(self._previous)
        else:
            self._previous = self._settings_error = None
            self._need = self._new_settings_at = None
            self._file.forget(is_current=True)
            self._answered(process)
        self._reloaded_at = time.monotonic()
        self._journal.note_reload(why, time.monotonic() - begin, error, is_tried_again=is_tried_again)
        self._file.look(self._settings)
        self._publish_soon()

    # -- the file -------------------------------------------------------------------------------------------

    def _write_file(self) -> None:
        if self._process is not None and self._new_settings_at is not None:
            self._file.forget()  # the reload that makes the new settings live writes the file
            return
        try:
            observed = observe_all(self._settings) if self._process is not None else None
        except RuntimeAPIError as error:
            self._lost(error)
            return
        self._file.write(self._settings, self._desired(), observed)
        self._publish_soon()

    # -- telling --------------------------------------------------------------------------------------------

    def _publish_soon(self) -> None:
        if self._publish_at is None:
            self._publish_at = max(time.monotonic(), self._published_at + PUBLISH_SECONDS)

    def _publish(self) -> None:
        self._publish_at, self._published_at = None, time.monotonic()
        self._journal.publish(
            in_step=self._is_in_step,
            process=self._process,
            haproxy_error=self._haproxy_error,
            file_error=self._file.error,
            settings_error=self._settings_error,
            watches=self._watches.states(),
        )

    @property
    def _is_in_step(self) -> bool:
        is_told = self._process is not None and not self._unread
        is_done = not (self._need or self._unfinished or self._file.is_behind or self._new_settings_at)
        return is_told and is_done
