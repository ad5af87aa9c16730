"""The agent's actions: a pass, a reload, other settings, the file, the report; `agent` decides when each is due.

The agent remembers its schedule and its guard state, and never HAProxy's servers. An agent killed at any moment
therefore makes a right pass after its restart.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hapsync.agent.catalog import Following
from hapsync.agent.config_file import FileKeeper
from hapsync.agent.discovery import WHY as DISCOVERED, Discovering
from hapsync.agent.executor import Executor
from hapsync.agent.guard_state import GuardState
from hapsync.agent.live_backends import WholeBackends, can_have
from hapsync.agent.liveness import Liveness, Unread
from hapsync.agent.old_workers import OldWorkersWatch
from hapsync.agent.reachable import tried, where_haproxy_is
from hapsync.agent.reconcile import Outcome, Reconciler
from hapsync.agent.report import Reporter
from hapsync.agent.rollout import NotMade, Quarantine, Reloads, is_half_done
from hapsync.agent.schedule import DUE, FileDue, Finding, Follower, Soon
from hapsync.agent.settings import Settings
from hapsync.errors import HapsyncError, RuntimeAPIError
from hapsync.haproxy.cfg_diff import Difference
from hapsync.haproxy.socket import check_alive
from hapsync.model.overrides import SavedState
from hapsync.model.server import HAProxyProcess
from hapsync.plan.assessment import untold
from hapsync.plan.desired import Desired
from hapsync.plan.rollout import EDITED

log = logging.getLogger(__name__)

ALIVE_SECONDS = 0.4
"""The pause between two `show info`: the agent notices a restart or a reload of HAProxy within half a second."""
CATALOG_SECONDS = 3.0
"""The longest wait for the catalog at the start, before a reload into changed settings: one reload may serve both."""
PUBLISH_SECONDS = 1.0
"""The shortest pause between two reports: a status that is a second old is good enough for an operator."""


class Acts:
    """All actions of the agent's one thread, and the state they need."""

    def __init__(
        self,
        settings: Settings,
        read_again: Callable[[], Settings],
        saved: SavedState,
        wake: Callable[[str], None],
    ) -> None:
        self._read_again = read_again
        self._following = Following(settings.config, wake)
        self._guard_state = GuardState(settings.config, saved)
        self._reconciler = Reconciler(settings, self._guard_state, self._following.catalog)
        self._discovering = Discovering(settings.config, lambda: wake(""))
        self._reporter = Reporter(settings.config.agent)

        self._haproxy = Liveness()
        self._follower = Follower(self._reconciler)
        self._schedule = self._follower.schedule
        self._others: list[Follower[Any]] = []
        self._stopped = self._guard_state.stopped
        self._withheld: set[str] = set()
        self._unreadable = Unread()
        self._unread: set[str] = set(settings.config.backends)

        self._whole = WholeBackends(self._guard_state)
        self._executor = Executor(lambda: wake(""))
        self._reloads = Reloads(settings, self._executor, lambda: wake(""), self._whole)
        self._file = FileKeeper(self._executor)
        self._old = OldWorkersWatch(self._executor, lambda: self._guard_state.stopped is None)

        self._publishing = Soon(PUBLISH_SECONDS)

    @property
    def _settings(self) -> Settings:
        return self._reconciler.settings

    def _found(self, what: Finding) -> None:
        """Make the backends, the file and the report due as the table `DUE` says for the finding `what`."""
        due = DUE[what]
        if due.backends:
            self._schedule.add(self._settings.config.backends)
        if due.file is FileDue.NOW:
            self._file.hurry()
        elif due.file is not None:
            self._file.touch(anew=due.file is FileDue.ANEW)
        if due.report:
            self._publishing.soon()

    def _made_live(self, made: Difference) -> None:
        self._reporter.note_live(made)
        self._schedule.add(one.name for one in made.new)
        self._pass(is_full=False)

    def _take_new_settings(self) -> None:
        self._reloads.rollout = self._reloads.rollout.read_again()
        self._discovering.try_again()
        self._found(Finding.SETTINGS_READ)
        try:
            settings = self._read_again().with_agent_of(self._settings).with_discovered_of(self._settings)
            settings = tried(settings, self._settings, self._serving_services())
            if settings == self._settings:
                log.info("settings unchanged")
                return
            self._use(settings, EDITED)
        except HapsyncError as error:
            log.error("settings not taken, the old ones stay: %s", error)  # noqa: TRY400
            self._reloads.rollout = self._reloads.rollout.not_accepted(str(error))
            self._found(Finding.NEWS)
        else:
            log.info("settings taken: %d backends", len(settings.config.backends))

    def _serving_services(self) -> Collection[str]:
        """Return the services that have instances in their last reading."""
        states = self._following.states().items()
        return [name for name, state in states if state.reading is not None and state.reading.instances]

    def _discover(self) -> None:
        problem = self._discovering.problem
        settings = self._discovering.step(
            self._settings,
            self._desired(),
            self._reconciler.serves,
            is_cheap=can_have(self._haproxy.process),
            is_reload_due=self._reloads.rollout.is_due,
        )
        if self._discovering.problem != problem:
            self._found(Finding.NEWS)
        if settings is not None:
            self._use(settings, DISCOVERED)

    def _use(self, settings: Settings, why: str | None = None, quarantined: Mapping[str, str] | None = None) -> None:
        """Switch to `settings`; the docstring of `Reloads.use` explains `why` and `quarantined`."""
        self._following.use(settings.config)
        self._discovering.use(settings.config)
        self._reconciler.use(settings)
        self._reloads.use(settings, time.monotonic() + CATALOG_SECONDS, why, quarantined)
        names = set(settings.config.backends)
        self._schedule.only(names)
        self._unreadable.only(names)
        self._reporter.only(names)
        self._withheld &= names
        self._unread = names - set(self._desired().backends)
        self._found(Finding.OTHER_SETTINGS)

    def _desired(self) -> Desired:
        return self._reconciler.desired()

    def _look_whether_alive(self) -> None:
        haproxy = self._settings.config.haproxy
        try:
            self._answered(check_alive(haproxy.socket, haproxy.timeout_seconds))
            if not self._stopped:
                is_settled = not self._reloads.rollout.is_due and not self._file.is_behind
                deleted = self._whole.step(self._settings.config, is_settled=is_settled)
                if deleted:
                    self._reporter.note_deleted(deleted)
                    self._found(Finding.NEWS)
        except RuntimeAPIError as error:
            self._lost(error)
            if error.is_down and self._settings.next_socket is not None:
                self._find_haproxy()  # an operator may have started HAProxy from the new file
        except OSError as error:  # haproxy.cfg or the state file; the cause may pass
            self._file.cannot(error, self._settings)

    def _find_haproxy(self) -> None:
        """Switch to the running HAProxy's own socket where no HAProxy listens at `haproxy.socket`."""
        found, problem = where_haproxy_is(self._settings)
        if found != self._settings:
            self._use(found)
            log.warning("HAProxy's socket is %s", found.config.haproxy.socket)
        if problem is not None:
            log.error("settings not taken: %s", problem)
            self._reloads.rollout = self._reloads.rollout.not_accepted(problem)

    def _answered(self, process: HAProxyProcess) -> None:
        arrival = self._haproxy.answered(process)
        if arrival is None:
            return
        if arrival.is_another:
            self._reporter.note_worker(process)
            is_half = is_half_done(self._settings.config, process.pid)
            self._reloads.rollout = self._reloads.rollout.new_worker(time.monotonic(), is_half_reloaded=is_half)
        self._reloads.rollout = self._reloads.rollout.mended()
        self._file.stop_for_start()
        self._found(Finding.HAPROXY_ANSWERS)
        if arrival.is_another and arrival.was_away and self._reloads.rollout.settings_due_seconds is not None:
            self._reloads.compare(time.monotonic())  # HAProxy may have started from the new file

    def _lost(self, error: RuntimeAPIError) -> None:
        if self._haproxy.lost(error, ALIVE_SECONDS):
            self._found(Finding.NO_HAPROXY)
        self._reloads.rollout = self._reloads.rollout.away()

    def _pass(self, *, is_full: bool, before_acting: Callable[[], None] = lambda: None) -> Outcome | None:
        """Make a pass over the due backends; None where none was due, or HAProxy did not answer.

        Raises every error of `before_acting`. Nothing was done then, and the backends are not due any more.
        """
        begin = time.monotonic()
        try:
            resync_seconds = self._settings.config.agent.resync_seconds
            outcome = self._follower.step(resync_seconds, is_full=is_full, before_acting=before_acting)
        except RuntimeAPIError as error:
            self._lost(error)
            return None
        if outcome is None:
            return None
        backends, wanted, rules = outcome.backends, outcome.last.desired, outcome.last.rules
        # The guard did not see a backend that could not be read: a mark on its reading stays until a pass reads it.
        self._following.acknowledge(wanted.readings, set(backends) & outcome.last.observed.backends.keys())
        self._answered(outcome.last.process)
        self._old.note(outcome.last.process, outcome.last.observed)
        self._unreadable.note(outcome.last.observed, backends)
        shortages = outcome.last.plan.shortages
        self._reloads.rollout = self._reloads.rollout.short_of(shortages, set(backends), time.monotonic())
        self._withheld -= set(backends)
        self._withheld |= {one.change.backend for one in outcome.last.plan.deferred if one.reason is rules.stopped}
        self._reporter.note_pass(wanted, backends, outcome, time.monotonic() - begin)
        has_all = len(backends) == len(wanted.backends)
        changed_by_others = has_all and self._file.is_new_to(outcome.last.observed)
        if outcome.done or changed_by_others or self._unread & set(backends):
            self._found(Finding.SERVERS_CHANGED)
        self._unread -= set(backends) & set(wanted.backends)
        self._found(Finding.NEWS)
        return outcome

    def _grow_at(self) -> float | None:
        """Return the time of a reload's next step, on the monotonic clock; None where none is due or allowed now."""
        # The guard state is asked afresh: settings taken a moment ago may stop all changes, a due reload included.
        is_stopped = self._haproxy.process is None or self._guard_state.stopped is not None
        if is_stopped or self._file.is_working or not self._reloads.rollout.is_due:
            return None  # a file job could replace the reload's file by an older one
        return self._reloads.due_seconds(self._desired(), is_told=not self._unread and self._discovering.has_looked)

    def _grow(self) -> None:
        wanted, why = self._desired(), self._reloads.rollout.why
        begin = time.monotonic()
        is_discovered = self._reloads.rollout.is_for_settings_because(DISCOVERED)
        self._old.pause()
        try:
            made = self._reloads.step(wanted, self._reconciler.candidate, self._haproxy.process, self._made_live)
        except RuntimeAPIError as lost:
            self._lost(lost)
            return
        if made is None:
            return  # the check of the candidate or the request for a permit goes on
        if isinstance(made, Quarantine):
            self._use(made.settings, quarantined=made.why)
            return
        if isinstance(made, NotMade):
            self._found(Finding.NOT_RELOADED)
            if made.is_settings or made.is_defect:
                self._file.error = made.error
            if made.previous is not None:
                self._use(made.previous)
        elif self._settings.next_socket is not None:
            self._use(self._settings.moved)
        if isinstance(made, Difference):
            self._found(Finding.BACKENDS_ADDED)
            return
        if isinstance(made, HAProxyProcess):
            self._file.forget(is_current=True)
            self._guard_state.forget_let_go()
            if self._guard_state.has_released:
                self._found(Finding.RELEASED)
            self._answered(made)
        if is_discovered:
            self._discovering.reloaded()
        error, is_tried_again = (made.error, made.is_tried_again) if isinstance(made, NotMade) else (None, False)
        self._reporter.note_reload(why, time.monotonic() - begin, error, is_tried_again=is_tried_again)
        self._file.look(self._settings)
        self._found(Finding.NEWS)

    def _write_file(self) -> None:
        is_down = self._haproxy.is_down
        is_settings_live = self._reloads.rollout.settings_due_seconds is None
        if self._guard_state.stopped or not (is_down or (self._haproxy.process and is_settings_live)):
            # The file stays while changes are stopped. A hanging HAProxy may live, and the file is made of its
            # servers once it answers. Settings that are not live yet reach the file by their reload.
            self._file.forget()
            return
        try:
            seen = self._reconciler.target(is_down=is_down)
            if is_down:
                self._guard_state.note(seen.desired, seen.observed)  # the guard watches the file's servers instead
        except RuntimeAPIError as error:
            self._lost(error)
            return
        except OSError as error:
            self._file.cannot(error, self._settings)
            return
        self._file.write(self._settings, seen.desired, self._guard_state.cautions(), None if is_down else seen)
        self._file_is_written()
        self._found(Finding.NEWS)

    def _file_is_written(self) -> None:
        """Forget the released overrides that the written file no longer shows."""
        if self._file.was_late:
            self._file.was_late = False
            self._reloads.rollout = self._reloads.rollout.doubted(time.monotonic())
        if self._file.made_of is not None and not self._file.is_behind:
            self._guard_state.forget_released(self._file.made_of)

    @property
    def _is_in_sync(self) -> bool:
        """Whether HAProxy and its file are known to match the desired state, and no other consumer is behind.

        In sync also means: every backend was assessed and readable, no change was deferred because changes are
        stopped, and no promise would have been broken.
        """
        is_whole = not (self._unread or self._withheld or self._unreadable.why or self._reporter.defective)
        is_told = self._haproxy.process is not None and not untold(self._settings.config, self._desired())
        is_unfinished = any(one.schedule.is_unfinished for one in (self._follower, *self._others))
        return is_whole and is_told and not (self._reloads.rollout.is_due or is_unfinished or self._file.is_behind)

    def _publish(self) -> None:
        self._publishing.done()
        self._reporter.publish(
            in_sync=self._is_in_sync,
            process=self._haproxy.process,
            haproxy_error=self._haproxy.error,
            file_error=self._file.error,
            settings_error=self._reloads.rollout.problem,
            reload_waits_for=self._reloads.waits_for,
            discovery_error=self._discovering.problem,
            leaving=self._whole.leaving(self._settings.config),
            watches=self._following.states(),
            guard_state=self._guard_state,
            scaling=self._reconciler.probe.scaling,
            old_workers=self._old.seen,
        )
