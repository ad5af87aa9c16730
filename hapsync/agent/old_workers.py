"""The agent's readings of old workers, and the end of their sessions; beside the passes: the master may be slow."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future

import attrs

from hapsync.agent.executor import Executor, value_of
from hapsync.config.schema import Config
from hapsync.errors import HapsyncError, RuntimeAPIError
from hapsync.haproxy.ask_old_workers import TIMEOUT_SECONDS, end_sessions, read_old_workers
from hapsync.haproxy.old_workers import CUTS, Graces, OldWorkers, alarms
from hapsync.model.server import Backend, HAProxyProcess, Observed
from hapsync.plan.desired import Desired
from hapsync.text import plural

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""The pause between two readings of old workers; while there are none, one reading follows each change of worker."""


@attrs.frozen
class _Task:
    """The values for one reading; `before` and `graces` are the results of the last one."""

    master: str
    live_pid: int
    wanted: Desired
    live: Mapping[str, Backend]
    grace_seconds: float
    may_go_on: Callable[[], bool]
    may_cut: Callable[[], bool]
    before: OldWorkers
    graces: Graces


class OldWorkersWatch:
    """Reads old workers while there are any; `seen` is the last reading.

    Only the thread of a reading asks the master about them, and it gets its values from the agent's thread. The
    agent's one thread calls all methods.
    """

    def __init__(self, executor: Executor, may_cut: Callable[[], bool]) -> None:
        """Take the executor, and `may_cut`, which another thread asks whether anything may be changed now."""
        self._may_cut = may_cut
        self.seen = OldWorkers()
        self._told: frozenset[str] = frozenset()
        self._graces = Graces()
        self._live: dict[str, Backend] = {}
        self._live_pid = 0
        self._asked_pid = 0
        self._look_at = 0.0
        self._executor = executor
        self._job: Future[tuple[OldWorkers, Graces] | HapsyncError] | None = None
        self._is_halted = threading.Event()

    def note(self, process: HAProxyProcess, observed: Observed) -> None:
        """Record a pass's reading of the live worker; servers of another worker are forgotten."""
        if process.pid != self._live_pid:
            self._live_pid, self._live, self._look_at = process.pid, {}, 0.0
        self._live.update(observed.backends)

    def step(self, config: Config, wanted: Desired) -> bool:
        """Take the result of a reading, begin another where one is due; return whether there is news to publish."""
        is_news = self._take()
        master, now = config.haproxy.master, time.monotonic()
        if master is None or not self._live_pid or self._job is not None or now < self._look_at:
            return is_news
        self._look_at = now + LOOK_SECONDS
        live = {name: one for name, one in self._live.items() if name in config.backends}
        grace_seconds = config.haproxy.old_worker_grace_seconds
        task = _Task(
            master,
            self._live_pid,
            wanted,
            live,
            grace_seconds,
            lambda: not self._is_halted.is_set(),
            self._may_cut,
            self.seen,
            self._graces,
        )
        self._asked_pid = self._live_pid
        self._is_halted.clear()
        self._job = self._executor.submit("old-workers", lambda: _look(task))
        return is_news

    def pause(self) -> None:
        """Wait until no question to the master is open: the master is about to reload, or the agent stops."""
        self._is_halted.set()
        if self._job is not None:
            futures.wait([self._job], 3 * TIMEOUT_SECONDS)

    def _take(self) -> bool:
        if self._job is None or not self._job.done():
            return False
        found, self._job = value_of(self._job), None
        if isinstance(found, HapsyncError):
            return False
        before, (self.seen, self._graces) = self.seen, found
        if not self.seen.workers and self.seen.error is None and self._asked_pid == self._live_pid:
            self._look_at = float("inf")  # until another worker answers
        told = frozenset(alarms(self.seen.workers))
        for said in sorted(told - self._told):
            log.warning("%s; `hapsync status` shows what they hold, hard-stop-after ends them", said)
        self._told = told
        return bool(before.workers or self.seen.workers) or before.error != self.seen.error


def _look(task: _Task) -> tuple[OldWorkers, Graces]:
    seen = read_old_workers(task.master, task.live_pid, task.wanted, task.live, task.may_go_on)
    if seen.error is not None:
        return attrs.evolve(seen, workers=task.before.workers, ended=task.before.ended), task.graces
    now = time.monotonic()
    graces = task.graces.seen(seen.workers, now)
    ended = _end(task, seen, graces, now)
    return attrs.evolve(seen, ended=task.before.ended + ended), graces


def _end(task: _Task, seen: OldWorkers, graces: Graces, now: float) -> int:
    """End the sessions to servers over their grace; return the number of ended sessions."""
    left = CUTS
    for worker in seen.workers:
        for gone in worker.gone:
            if left <= 0 or not graces.is_over(worker, gone, now, task.grace_seconds):
                continue
            try:
                ended = end_sessions(
                    task.master, worker, gone, lambda: task.may_go_on() and task.may_cut(), at_most=left
                )
            except RuntimeAPIError as error:
                log.warning("old worker pid=%d: sessions not ended: %s", worker.pid, error)
                continue
            left -= ended
            if ended:
                what = plural(ended, "session")
                where = f"{gone.backend}/{gone.server} {gone.address}"
                log.warning(
                    "old worker pid=%d: ended %s to %s, gone for over %g s",
                    worker.pid,
                    what,
                    where,
                    task.grace_seconds,
                )
    return CUTS - left
