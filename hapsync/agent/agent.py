"""The agent: decides when a pass, a reload, the file, other settings and the answer to an operator are due.

One thread owns all state of the agent, and it alone speaks to the live HAProxy's socket. The thread sleeps on one
queue (`Inbox`). Three kinds of threads run beside it, and none of them writes into the agent's state:

- the watches of Consul and the request for a permit: each owns its data, and puts a name on the queue;
- the threads of the agent's own socket: each puts an operator's request on the queue, and waits for the answer;
- work that takes longer than a change may wait (`Executor`): the check of a candidate, the file, the report,
  questions about old workers. Each is a function of values. Its result is a future, and the agent's thread finds it
  done when the queue wakes it.

The agent remembers its schedule and its guard state, and never HAProxy's servers. An agent killed at any moment
therefore makes a right pass after its restart.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from hapsync.agent.catalog import Following
from hapsync.agent.config_file import FileKeeper
from hapsync.agent.consumer import Consumer
from hapsync.agent.discovery import WHY as DISCOVERED, Discovering
from hapsync.agent.executor import Executor
from hapsync.agent.guard_state import GuardState
from hapsync.agent.inbox import Inbox
from hapsync.agent.live_backends import can_have
from hapsync.agent.old_workers import OldWorkersWatch
from hapsync.agent.operator import AgentAnswers
from hapsync.agent.passes import ALIVE_SECONDS, Passes
from hapsync.agent.reachable import tried, where_haproxy_is
from hapsync.agent.reconcile import Reconciler
from hapsync.agent.report import Publisher, Reporter, completed, snapshot_of
from hapsync.agent.rollout import CATALOG_SECONDS, NotMade, Reloads
from hapsync.agent.schedule import DUE, RETRY_SECONDS, Finding, Follower, Schedule
from hapsync.agent.settings import Settings
from hapsync.api.server import Pending
from hapsync.errors import CatalogError, HapsyncError, RuntimeAPIError
from hapsync.haproxy.cfg_diff import Difference
from hapsync.haproxy.socket import check_alive
from hapsync.model.catalog import Catalog
from hapsync.model.overrides import SavedState
from hapsync.model.server import HAProxyProcess
from hapsync.plan.assessment import untold
from hapsync.plan.rollout import EDITED

log = logging.getLogger(__name__)


class Agent:
    """The agent's one thread; other threads and signals reach it by its `inbox`."""

    def __init__(
        self,
        settings: Settings,
        read_again: Callable[[], Settings],
        saved: SavedState,
        keep_locks: Callable[[], None] = lambda: None,
        others: Iterable[Callable[[Callable[[], Catalog]], Consumer[Any, Any]]] = (),
    ) -> None:
        """Take the settings and the saved state; `read_again` reads the settings afresh.

        `keep_locks` is called now and then, and makes removed lock files again. Each of `others` is called with a
        function for the current catalog, and makes one more consumer beside HAProxy's backends.

        Raises CatalogError when Consul's certificates cannot be used.
        """
        self._read_again = read_again
        self._keep_locks = keep_locks
        self._alive_at = self._full_at = 0.0
        self.inbox = inbox = Inbox()
        executor = Executor(inbox.wake)
        self._guard_state = guard_state = GuardState(settings.config, saved)
        self._stopped = guard_state.stopped
        self._following = following = Following(settings.config, inbox.put)
        self._discovering = Discovering(settings.config, inbox.wake)
        self._reporter = Reporter()
        self._publisher = Publisher(settings.config.agent, executor)
        self._old = OldWorkersWatch(executor, lambda: guard_state.stopped is None)
        self._reloads = reloads = Reloads(settings, guard_state, executor, inbox.wake)
        self._reconciler = Reconciler(lambda: reloads.rollout.settings, guard_state, following.catalog)
        self._file = FileKeeper(self._reconciler, executor)
        self._passes = Passes(self._reconciler, following, reloads, self._old, self._reporter, self._found)
        self._others = [Follower(make(following.catalog)) for make in others]
        self._answers = AgentAnswers(self._reconciler, reloads, following, self._passes, self._take_new_settings)

    @property
    def _settings(self) -> Settings:
        return self._reloads.rollout.settings

    # The schedule

    def run(self) -> None:
        """Follow Consul until the inbox is asked to stop."""
        self._following.use(self._settings.config)
        self._discovering.start()
        self._find_haproxy()
        self._reloads.compare(CATALOG_SECONDS)
        self._found(Finding.STARTED)
        try:
            while not self.inbox.has_to_stop:
                self._wait()
                if not self.inbox.has_to_stop:
                    self._step_safely()
        finally:
            self._reloads.release_permit()
            self._following.stop()
            self._discovering.stop()
            self._old.pause()
            self._file.finish(wait=True)
            if self._file.is_behind and self._passes.haproxy.process is not None:
                self._write_file()  # HAProxy may restart before hapsync does
                self._file.finish(wait=True)
            self._guard_state.save()
            self._publish()
            self._publisher.finish(wait=True)

    def _wait(self) -> None:
        """Sleep until a wake-up comes or work falls due."""
        woken = self.inbox.wait(max(0.0, self._next_at() - time.monotonic()))
        backends = self._reconciler.parts(woken)
        self._passes.schedule.add(backends)
        for one in self._others:
            one.schedule.add(one.consumer.parts(woken))
        if backends and self._passes.haproxy.is_down:
            self._found(Finding.SERVERS_CHANGED)

    def _next_at(self) -> float:
        times = [
            self._alive_at,
            self._full_at,
            self._grow_at(),
            self._file.due_seconds,
            self._publisher.due_seconds,
            *(one.retry_at for one in self._schedules),
        ]
        return min(at for at in times if at is not None)

    @property
    def _schedules(self) -> Sequence[Schedule]:
        return [self._passes.schedule, *(one.schedule for one in self._others)]

    def _found(self, what: Finding) -> None:
        """Make the backends, the file and the report due as the table `DUE` says for the finding `what`."""
        due = DUE[what]
        if due.backends:
            self._passes.schedule.add(self._settings.config.backends)
        if due.file is not None:
            self._file.make_due(due.file)
        if due.report:
            self._publisher.soon()

    def _step_safely(self) -> None:
        """Make a step; a defect in it is logged, and everything is read afresh a moment later."""
        try:
            self._step()
        except Exception:
            log.exception("a defect of hapsync, please report it; HAProxy keeps what it has")
            self._found(Finding.DEFECT)
            time.sleep(RETRY_SECONDS)

    def _step(self) -> None:
        if self.inbox.has_to_reread:
            self.inbox.has_to_reread = False
            self._take_new_settings()
        while self.inbox.requests:
            self._answer(self.inbox.requests.popleft())
        self._discover()
        schedule = self._passes.schedule
        is_full = _has_come(self._full_at)
        if is_full:
            self._resync()
        schedule.look()
        if _has_come(self._alive_at):
            self._look_around()
        if _has_come(self._grow_at()):
            schedule.add(self._reloads.rollout.short)
        if schedule.now and self._passes.haproxy.process is not None:
            self._passes.make(is_full=is_full)
        if _has_come(self._grow_at()):
            self._grow()
        if self._file.finish():
            if self._file.was_late:
                self._reloads.rollout = self._reloads.rollout.doubted(time.monotonic())
            self._found(Finding.NEWS)
        if _has_come(self._file.due_seconds):
            self._write_file()
        for one in self._others:
            one.step(self._settings.config.agent.resync_seconds, is_full=is_full, may_act=not self._stopped)
        self._publisher.finish()
        if _has_come(self._publisher.due_seconds):
            self._publish()

    def _resync(self) -> None:
        self._full_at = time.monotonic() + self._settings.config.agent.resync_seconds
        self._found(Finding.RESYNC)
        if self._passes.haproxy.is_down:
            self._find_haproxy()
        if self._file.is_suspect():
            self._found(Finding.FILE_CHANGED)

    def _look_around(self) -> None:
        """Look at everything that changes without waking the agent."""
        self._alive_at = time.monotonic() + ALIVE_SECONDS
        self._keep_locks()
        self._look_whether_alive()
        self._passes.schedule.look_at_waiting()
        self._passes.schedule.add(self._reloads.rollout.short)  # a slot may have fallen idle
        self._look_whether_stopped()
        if self._old.step(self._settings.config, self._reconciler.desired()):
            self._found(Finding.NEWS)

    def _look_whether_alive(self) -> None:
        haproxy = self._settings.config.haproxy
        try:
            self._passes.answered(check_alive(haproxy.socket, haproxy.timeout_seconds))
            if not self._stopped:
                is_settled = not self._reloads.rollout.is_due and not self._file.is_behind
                deleted = self._reloads.whole.step(self._settings.config, is_settled=is_settled)
                if deleted:
                    self._reporter.note_deleted(deleted)
                    self._found(Finding.NEWS)
        except RuntimeAPIError as error:
            self._passes.lost(error)
            if error.is_down and self._settings.next_socket is not None:
                self._find_haproxy()  # an operator may have started HAProxy from the new file
        except OSError as error:  # haproxy.cfg or the state file; the cause may pass
            self._file.cannot(error)

    def _look_whether_stopped(self) -> None:
        stopped = self._guard_state.stopped
        if stopped is not self._stopped:
            self._stopped = stopped
            log.warning("changes are %s", f"stopped: {stopped.value}" if stopped else "made again")
            self._found(Finding.STOPPED_OR_NOT)
            if stopped:
                self._file.stop()
                self._reloads.release_permit()

    def _answer(self, pending: Pending) -> None:
        """Carry out an operator's request, unless its client has left: a hanging HAProxy may have taken minutes."""
        if not pending.is_wanted:
            log.warning("not done, %s has withdrawn it: %s", pending.request.who, type(pending.request).__name__)
            return
        reply = self._answers.answer_always(pending)
        self._look_whether_stopped()  # a freeze counts from its answer on, also for a reload that is due
        self._publish(lambda: pending.respond(reply))  # the next `hapsync status` should show the result

    # The settings

    def _take_new_settings(self) -> None:
        self._reloads.rollout = self._reloads.rollout.read_again()
        self._discovering.try_again()
        self._found(Finding.SETTINGS_READ)
        try:
            settings = self._read_again().with_agent_of(self._settings).with_discovered_of(self._settings)
            settings = tried(settings, self._settings, self._following.serving())
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

    def _discover(self) -> None:
        problem = self._discovering.problem
        settings = self._discovering.step(
            self._settings,
            self._reconciler.desired(),
            self._reconciler.serves,
            is_cheap=can_have(self._passes.haproxy.process),
            is_reload_due=self._reloads.rollout.is_due,
        )
        if self._discovering.problem != problem:
            self._found(Finding.NEWS)
        if settings is not None:
            self._use(settings, DISCOVERED)

    def _use(self, settings: Settings, why: str | None = None) -> None:
        """Switch to `settings`; the docstring of `Reloads.use` explains `why`. Raises CatalogError."""
        self._following.use(settings.config)
        self._reloads.use(settings, why)
        self._fit()

    def _fit(self) -> None:
        """Fit everything that goes by the settings to the rollout's."""
        self._discovering.use(self._settings.config)
        self._reconciler.forget()
        names = set(self._settings.config.backends)
        self._passes.schedule.only(names)
        self._reporter.only(names)
        self._passes.coverage.use(names, self._reconciler.desired())
        self._found(Finding.OTHER_SETTINGS)

    def _find_haproxy(self) -> None:
        """Switch to the running HAProxy's own socket where no HAProxy listens at `haproxy.socket`."""
        found, problem = where_haproxy_is(self._settings)
        if found != self._settings:
            self._use(found)
            log.warning("HAProxy's socket is %s", found.config.haproxy.socket)
        if problem is not None:
            log.error("settings not taken: %s", problem)
            self._reloads.rollout = self._reloads.rollout.not_accepted(problem)

    # A reload

    def _grow_at(self) -> float | None:
        """Return the time of a reload's next step, on the monotonic clock; None where none is due or allowed now."""
        # The guard state is asked afresh: settings taken a moment ago may stop all changes, a due reload included.
        is_stopped = self._passes.haproxy.process is None or self._guard_state.stopped is not None
        if is_stopped or self._file.is_working or not self._reloads.rollout.is_due:
            return None  # a file job could replace the reload's file by an older one
        is_told = not self._passes.coverage.unread and self._discovering.has_looked
        return self._reloads.due_seconds(self._reconciler.desired(), is_told=is_told)

    def _grow(self) -> None:
        why, is_discovered = self._reloads.rollout.why, self._reloads.rollout.is_for_settings_because(DISCOVERED)
        begin, before = time.monotonic(), self._settings
        self._old.pause()
        try:
            made = self._reloads.step(self._reconciler, self._passes.haproxy.process, self._made_live)
        except RuntimeAPIError as lost:
            self._passes.lost(lost)
            return
        if self._settings is not before:  # the rollout gave up the settings, or a part of them
            try:
                self._following.use(self._settings.config)
            except CatalogError as unfit:  # a certificate has become unfit since
                log.error("Consul is watched by the settings that were given up: %s", unfit)  # noqa: TRY400
            self._fit()
        elif made is not None and not isinstance(made, NotMade) and before.next_socket is not None:
            self._use(before.moved)
        error, is_tried_again = None, False
        match made:
            case None:
                return  # the check of the candidate or the request for a permit goes on
            case Difference():
                self._found(Finding.BACKENDS_ADDED)
                return
            case NotMade():
                error, is_tried_again = made.error, made.is_tried_again
                self._found(Finding.NOT_RELOADED)
                if made.is_about_file:
                    self._file.error = error
            case HAProxyProcess():
                self._file.forget(is_current=True)
                self._guard_state.forget_let_go()
                if self._guard_state.has_released:
                    self._found(Finding.RELEASED)
                self._passes.answered(made)
        if is_discovered:
            self._discovering.reloaded()
        self._reporter.note_reload(why, time.monotonic() - begin, error, is_tried_again=is_tried_again)
        self._file.look()
        self._found(Finding.NEWS)

    def _made_live(self, made: Difference) -> None:
        self._reporter.note_live(made)
        self._passes.schedule.add(one.name for one in made.new)
        self._passes.make()

    # The file and the report

    def _write_file(self) -> None:
        is_down = self._passes.haproxy.is_down
        is_settings_live = self._reloads.rollout.settings_due_seconds is None
        if self._guard_state.stopped or not (is_down or (self._passes.haproxy.process and is_settings_live)):
            # The file stays while changes are stopped. A hanging HAProxy may live, and the file is made of its
            # servers once it answers. Settings that are not live yet reach the file by their reload.
            self._file.forget()
            return
        try:
            self._file.write(is_down=is_down)
        except RuntimeAPIError as error:
            self._passes.lost(error)
        else:
            self._found(Finding.NEWS)

    @property
    def _is_in_sync(self) -> bool:
        """Whether HAProxy and its file are known to match the desired state, and no other consumer is behind.

        In sync also means: every backend was assessed and readable, no change was deferred because changes are
        stopped, and no promise would have been broken.
        """
        is_whole = self._passes.coverage.is_whole and not self._reporter.report.defects
        is_told = self._passes.haproxy.process is not None and not untold(
            self._settings.config, self._reconciler.desired()
        )
        is_unfinished = any(one.is_unfinished for one in self._schedules)
        return is_whole and is_told and not (self._reloads.rollout.is_due or is_unfinished or self._file.is_behind)

    def _publish(self, *then: Callable[[], None]) -> None:
        """Begin to write the report and the snapshot; each of `then` is called once they are written."""
        watches, rollout = self._following.states(), self._reloads.rollout
        report = attrs.evolve(
            self._reporter.report,
            in_sync=self._is_in_sync,
            haproxy=self._passes.haproxy.process,
            haproxy_error=self._passes.haproxy.error,
            file_error=self._file.error,
            settings_error=rollout.problem,
            reload_waits_for=self._reloads.waits_for,
            discovery_error=self._discovering.problem,
            leaving=self._reloads.whole.leaving(rollout.settings.config),
            scaling=dict(self._reconciler.probe.scaling),
            old_workers=self._old.seen,
        )
        self._publisher.publish(completed(report, self._guard_state, watches), snapshot_of(watches), then)


def _has_come(at_seconds: float | None) -> bool:
    return at_seconds is not None and time.monotonic() >= at_seconds
