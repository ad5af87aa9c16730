"""The agent's passes over HAProxy's backends, and what each of them tells about HAProxy."""

import logging
import time
from collections.abc import Callable, Collection, Mapping

from hapsync.agent.catalog import Following
from hapsync.agent.consumer import Consumer
from hapsync.agent.old_workers import OldWorkersWatch
from hapsync.agent.reconcile import Outcome, Reconciler
from hapsync.agent.report import Reporter
from hapsync.agent.rollout import Reloads
from hapsync.agent.schedule import Finding, Schedule
from hapsync.errors import RuntimeAPIError, Withdrawn
from hapsync.model.server import HAProxyProcess, Observed
from hapsync.plan.assessment import Assessment
from hapsync.plan.desired import Desired

log = logging.getLogger(__name__)


ALIVE_SECONDS = 0.4
"""The pause between two `show info`: the agent notices a restart or a reload of HAProxy within half a second."""


class Liveness:
    """The worker that answered last; while none answers, `process` is None, and `error` gives the reason.

    `is_down`: no HAProxy runs, and the next one starts with the file. A silent worker may live, and keep its servers.
    """

    def __init__(self) -> None:
        self.process: HAProxyProcess | None = None
        self.error: str | None = None
        self.is_down = False
        self._last_pid = 0

    def answered(self, process: HAProxyProcess) -> bool:
        """Record that `process` answered; return whether it is another worker than the one that answered last."""
        is_another = process.pid != self._last_pid
        if self.error is not None and not is_another:
            log.info("haproxy pid=%d answers again", process.pid)
        self.process, self.error, self.is_down, self._last_pid = process, None, False, process.pid
        return is_another

    def lost(self, error: RuntimeAPIError) -> bool:
        """Record that no worker answers; return whether that is news."""
        is_news = self.error is None or self.is_down != error.is_down
        if is_news:
            log.warning("haproxy %s (asked again every %g s)", error, ALIVE_SECONDS)
        self.process, self.error, self.is_down = None, str(error), error.is_down
        return is_news


class Coverage:
    """The backends whose state is not known, or not the desired one, by their last passes.

    `unread` were in no pass yet, for their service has no reading. `unreadable` has the reason why HAProxy's last
    answer about a backend could not be read. `withheld` have changes that were not made because changes are stopped.
    """

    def __init__(self, backends: Collection[str]) -> None:
        self.unread = set(backends)
        self.unreadable: Mapping[str, str] = {}
        self.withheld: set[str] = set()
        self._live: object = None

    @property
    def is_whole(self) -> bool:
        """Whether the state of all backends is known, and nothing was withheld."""
        return not (self.unread or self.unreadable or self.withheld)

    def use(self, backends: set[str], desired: Desired) -> None:
        """Forget all but the `backends` of other settings; those without a reading in `desired` count as unread."""
        self.unread = backends - desired.backends.keys()
        self.unreadable = {name: why for name, why in self.unreadable.items() if name in backends}
        self.withheld &= backends

    def note(self, outcome: Outcome) -> bool:
        """Record a pass; return whether the file may be behind: by changes, of others too, or by a first reading."""
        backends, last = set(outcome.backends), outcome.last
        self._note_unreadable(last.observed, backends)
        self.withheld -= backends
        self.withheld |= {one.change.backend for one in last.plan.deferred if one.reason is last.rules.stopped}
        was_unread = bool(self.unread & backends)
        self.unread -= backends & last.desired.backends.keys()
        changed_by_others = len(backends) == len(last.desired.backends) and self._is_new(last.observed)
        return bool(outcome.done) or changed_by_others or was_unread

    def _is_new(self, observed: Observed) -> bool:
        """Return whether the live HAProxy's servers differ from those of the last whole reading."""
        live = tuple(
            (backend.name, tuple((slot.name, slot.address, slot.admin, slot.weight) for slot in backend.slots))
            for backend in observed.backends.values()
        )
        is_new, self._live = live != self._live, live
        return is_new

    def _note_unreadable(self, observed: Observed, backends: Collection[str]) -> None:
        """Record the unreadable of `backends`; log each reason that is new, and each that is gone."""
        before = self.unreadable
        self.unreadable = {**{name: why for name, why in before.items() if name not in backends}, **observed.unread}
        for name, why in self.unreadable.items():
            if name not in before:
                log.error("backend %s cannot be read, the others are followed: %s", name, why)
        for name in before:
            if name not in self.unreadable:
                log.info("backend %s can be read again", name)


class Passes:
    """Makes the passes, and hands on what they show; `found` makes work due.

    `haproxy` is the worker that answered last, and `coverage` the part of the backends that is known.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        following: Following,
        reloads: Reloads,
        old_workers: OldWorkersWatch,
        reporter: Reporter,
        found: Callable[[Finding], None],
    ) -> None:
        self.schedule = Schedule()
        self._consumer: Consumer[Assessment, Outcome] = reconciler
        self.haproxy = Liveness()
        self.coverage = Coverage(reconciler.parts())
        self._reconciler = reconciler
        self._following = following
        self._reloads = reloads
        self._old_workers = old_workers
        self._reporter = reporter
        self._found = found

    def make(self, *, is_full: bool = False, before_acting: Callable[[], None] = lambda: None) -> Outcome | None:
        """Make a pass over the due backends; None where none was due, or HAProxy did not answer.

        Raises every error of `before_acting`. Nothing was done then, and the backends are not due any more.
        """
        begin = time.monotonic()
        try:
            outcome = self._consumer.apply(self.schedule.take(), is_full=is_full, before_acting=before_acting)
        except RuntimeAPIError as error:
            self.lost(error)
            return None
        if outcome is None:
            return None
        resync_seconds = self._reconciler.settings.config.agent.resync_seconds
        self.schedule.note(self._consumer.verify(outcome), resync_seconds)
        last, backends = outcome.last, set(outcome.backends)
        # The guard did not see a backend that could not be read: a mark on its reading stays until a pass reads it.
        self._following.acknowledge(last.desired.readings, backends & last.observed.backends.keys())
        self.answered(last.process)
        self._old_workers.note(last.process, last.observed)
        self._reloads.rollout = self._reloads.rollout.short_of(last.plan.shortages, backends, time.monotonic())
        self._reporter.note_pass(outcome, time.monotonic() - begin)
        if self.coverage.note(outcome):
            self._found(Finding.SERVERS_CHANGED)
        self._found(Finding.NEWS)
        return outcome

    def make_now(self, backends: Collection[str], ensure_wanted: Callable[[], None]) -> Outcome | None:
        """Make a pass over `backends` for an operator, as `make` does; `ensure_wanted` is called before it acts.

        Raises Withdrawn, from `ensure_wanted`, where the client waits no more: nothing was done then.
        """
        self.schedule.add(backends)
        due = set(self.schedule.now)
        try:
            return self.make(before_acting=ensure_wanted)
        except Withdrawn:
            self.schedule.add(due)  # the agent's own next pass takes them
            raise

    def answered(self, process: HAProxyProcess) -> None:
        """Record that the worker `process` answered; a new one may have other servers, and an older file."""
        was_there, was_away = self.haproxy.process is not None, self.haproxy.error is not None
        is_another = self.haproxy.answered(process)
        if was_there and not is_another:
            return
        if is_another:
            self._reporter.note_worker(process)
        self._reloads.worker_came(process, is_another=is_another, was_away=was_away)
        self._found(Finding.HAPROXY_ANSWERS)

    def lost(self, error: RuntimeAPIError) -> None:
        """Record that HAProxy did not answer."""
        if self.haproxy.lost(error):
            self._found(Finding.NO_HAPROXY)
        self._reloads.rollout = self._reloads.rollout.away()
