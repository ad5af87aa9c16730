"""The agent's account of its work, for operators: the report, the snapshot, the log lines."""

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Set as AbstractSet
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import attrs

from hapsync import __version__
from hapsync.agent.executor import Executor, value_of
from hapsync.agent.guard_state import GuardState
from hapsync.agent.reconcile import Outcome
from hapsync.agent.report_file import (
    REPORT_FILE,
    SNAPSHOT_FILE,
    Event,
    ReloadReport,
    Report,
    ServiceReport,
    Snapshot,
    report_to_json,
    snapshot_to_json,
)
from hapsync.config.schema import AgentConfig
from hapsync.consul.watch import WatchState
from hapsync.errors import HapsyncError
from hapsync.haproxy.cfg_diff import Difference
from hapsync.haproxy.commands import explained
from hapsync.model.changes import ClearOverride, Defect, Delete, EndSessions, SetAgent, SetOverride
from hapsync.model.server import HAProxyProcess
from hapsync.plan.assessment import defect_line
from hapsync.plan.desired import DesiredBackend
from hapsync.plan.growth import is_filling as is_filling_up
from hapsync.plan.plan import Plan, describe
from hapsync.system.files import signature, write_in_folder
from hapsync.text import plural

log = logging.getLogger(__name__)

RECENT = 20
"""The most changes, reloads and refusals in the report."""
PUBLISH_SECONDS = 1.0
"""The shortest pause between two reports: a status that is a second old is good enough for an operator."""
_NO_DRIFT = Delete | EndSessions | SetAgent | SetOverride | ClearOverride
"""Changes for which time or an operator is the reason, not the catalog."""


class Reporter:
    """Counts and logs the agent's work; `report` has its last events and counts, and nothing of the agent's state."""

    def __init__(self) -> None:
        now = time.time()
        self.report = Report(os.getpid(), started_at=now, written_at=now, hapsync_version=__version__, in_sync=False)
        self._refused: set[str] = set()
        self._deferred: dict[str, frozenset[str]] = {}
        self._settled: dict[str, DesiredBackend] = {}
        self._filling: set[str] = set()

    def only(self, backends: Collection[str]) -> None:
        """Forget the defects of all but `backends`."""
        defects = tuple(one for one in self.report.defects if one.backend in backends)
        self.report = attrs.evolve(self.report, defects=defects)

    def note_worker(self, process: HAProxyProcess) -> None:
        """Record a worker that answers for the first time."""
        self._count(workers_seen=1)
        log.info("haproxy pid=%d version=%s answers", process.pid, process.version)

    def note_pass(self, outcome: Outcome, seconds: float) -> None:
        """Record a pass; log one line for each change, and one for the pass if it did anything."""
        self._note_drift(outcome)
        self._note_slots(outcome)
        self._note_deferred(outcome.last.plan, outcome.backends)
        self._note_defects(outcome.defects, outcome.backends)
        self._note([" ".join(describe(change).split()) for change in outcome.done])
        refused = {explained(refusal) for refusal in outcome.refused}
        for what in sorted(refused - self._refused):
            log.warning("refused %s", what)
        events = (Event(time.time(), what) for what in sorted(refused))
        refusals = (*self.report.refusals, *events)[-RECENT:]
        self.report = attrs.evolve(self.report, refusals=refusals)
        self._count(passes=1, refused=len(outcome.refused))
        if outcome.done or not refused <= self._refused:
            left = outcome.last.plan
            log.info(
                "pass done=%d refused=%d left=%d short=%d ms=%.1f",
                len(outcome.done),
                len(outcome.refused),
                len(left.changes) + len(left.waiting),
                sum(len(shortage.addresses) for shortage in left.shortages),
                seconds * 1000,
            )
        self._refused = refused

    def _note_drift(self, outcome: Outcome) -> None:
        """Count the drift: changes in backends that were in sync with the same catalog before."""
        wanted, plan = outcome.last.desired, outcome.last.plan
        for change in outcome.done:
            want = wanted.backends.get(change.backend)
            is_asked_for = isinstance(change, _NO_DRIFT) or wanted.overrides.get(change.backend)
            if want is not None and self._settled.get(change.backend) is want and not is_asked_for:
                self._count(drift=1)
                log.warning(
                    "drift %s: HAProxy was changed outside of hapsync, or restarted",
                    " ".join(describe(change).split()),
                )
        unsettled = {one.backend for one in (*plan.changes, *plan.shortages)}
        unsettled |= {one.change.backend for one in (*plan.deferred, *plan.waiting)}
        for name in outcome.last.observed.backends:
            if name in wanted.backends and name not in unsettled:
                self._settled[name] = wanted.backends[name]
            else:
                self._settled.pop(name, None)

    def _note_slots(self, outcome: Outcome) -> None:
        """Log once that the slots of a backend run out, and once that enough are free again."""
        for name, have in outcome.last.observed.backends.items():
            want = outcome.last.desired.backends.get(name)
            is_filling = want is not None and is_filling_up(want, have)
            if is_filling and name not in self._filling:
                self._filling.add(name)
                log.warning(
                    "slots of backend %s run out: the next growth needs a reload; see `slots` and `scaling`", name
                )
            elif not is_filling and name in self._filling:
                self._filling.discard(name)
                log.info("slots backend %s: enough are free again", name)

    def _note_deferred(self, plan: Plan, backends: Collection[str]) -> None:
        """Record the deferred changes of `backends`; each reason is logged when it begins and when it ends."""
        now: dict[str, dict[str, int]] = {}
        for deferred in plan.deferred:
            counts = now.setdefault(deferred.change.backend, {})
            counts[deferred.reason.value] = counts.get(deferred.reason.value, 0) + 1
        for name in backends:
            before, reasons = self._deferred.pop(name, frozenset()), now.get(name, {})
            if reasons:
                self._deferred[name] = frozenset(reasons)
            for reason in sorted(set(reasons) - before):
                log.warning("deferred backend %s: %s, %s", name, plural(reasons[reason], "change"), reason)
            for reason in sorted(before - set(reasons)):
                log.info("deferred backend %s: no more, %s", name, reason)

    def _note_defects(self, defects: Collection[Defect], backends: Collection[str]) -> None:
        """Record the promises that a pass over `backends` would have broken; each is logged when it begins."""
        before = self.report.defects
        for defect in defects:
            if defect not in before:
                log.error("%s", defect_line(defect))
        others = (one for one in before if one.backend not in backends)
        now = tuple(sorted((*others, *defects), key=lambda one: one.backend))
        self.report = attrs.evolve(self.report, defects=now)

    def note_live(self, made: Difference) -> None:
        """Record whole backends that were added to the running HAProxy, or get no new traffic any more."""
        lines = [f"new backend {one.name} from {one.defaults}" for one in made.new]
        self._note([*lines, *(f"backend {one.name} is leaving: no new traffic any more" for one in made.gone)])

    def note_deleted(self, backends: Iterable[str]) -> None:
        """Record whole `backends` that HAProxy deleted, because nothing was left on them."""
        self._note([f"backend {name} is deleted" for name in backends])

    def _note(self, changes: Collection[str]) -> None:
        for what in changes:
            log.info("change %s", what)
        events = (Event(time.time(), what) for what in changes)
        self.report = attrs.evolve(self.report, changes=(*self.report.changes, *events)[-RECENT:])
        self._count(changes=len(changes))

    def note_reload(self, why: str, seconds: float, error: str | None, *, is_tried_again: bool = False) -> None:
        """Record the end of a reload, good or bad; `is_tried_again`: the next try comes without any change."""
        before = self.report.reloads
        reloads = (*before, ReloadReport(time.time(), why, round(seconds, 3), error))[-RECENT:]
        self.report = attrs.evolve(self.report, reloads=reloads)
        if error is None:
            self._count(reloads=1)
            log.info("reload done ms=%.0f why: %s", seconds * 1000, why)
            return
        self._count(failed_reloads=1)
        if not before or error != before[-1].error:
            next_try = "soon" if is_tried_again else "on a change or SIGHUP"
            log.error("not reloaded (%s): %s; next try %s", why, error, next_try)

    def _count(self, **more: int) -> None:
        counters = self.report.counters
        now = {name: getattr(counters, name) + count for name, count in more.items()}
        self.report = attrs.evolve(self.report, counters=attrs.evolve(counters, **now))


def completed(report: Report, guard_state: GuardState, watches: Mapping[str, WatchState]) -> Report:
    """Return `report` with the operators' requests, the guard's records and the state of each service's watch."""
    services = {
        service: ServiceReport(
            state.index,
            state.confirmed_at,
            state.error,
            state.is_cached,
            state.reading.doubt.value if state.reading is not None and state.reading.doubt else None,
        )
        for service, state in watches.items()
    }
    return attrs.evolve(
        report,
        services=services,
        mode=guard_state.mode,
        freeze=guard_state.saved.freeze,
        overrides=guard_state.saved.holds,
        lost=guard_state.saved.lost,
        unread_version=guard_state.saved.unread_version,
        cautions=guard_state.cautions(),
        state_file_error=guard_state.error,
    )


def snapshot_of(watches: Mapping[str, WatchState]) -> Snapshot:
    """Return the catalog as the watches read it last."""
    found = watches.items()
    return Snapshot(
        {name: one.reading for name, one in found if one.reading is not None},
        {name: one.trusted for name, one in found if one.trusted is not None and one.trusted is not one.reading},
    )


@attrs.frozen
class _Publication:
    """A report and a snapshot to write; each of `then` is called once both are written, or cannot be."""

    report: Report
    snapshot: Snapshot
    then: tuple[Callable[[], None], ...]


class Publisher:
    """Writes reports and snapshots beside the passes, one pair after the other; the newest pair is written last.

    The agent's thread calls all public methods. What comes during a write is taken by the thread that writes: an
    operator's reply does not wait until the agent's thread, maybe in a reload, has time.
    """

    def __init__(self, config: AgentConfig, executor: Executor) -> None:
        self.due_seconds: float | None = None
        self._done_seconds = 0.0
        self._config = config
        self._executor = executor
        self._lock = threading.Lock()
        self._next: _Publication | None = None
        self._job: Future[_Written | HapsyncError] | None = None
        self._on_disk: Snapshot | None = None
        self._unwritten: AbstractSet[str] = frozenset()

    def soon(self) -> None:
        """Ask for a report, `PUBLISH_SECONDS` after the last at the earliest: `due_seconds` is its time."""
        if self.due_seconds is None:
            self.due_seconds = max(time.monotonic(), self._done_seconds + PUBLISH_SECONDS)

    def publish(self, report: Report, snapshot: Snapshot, then: Iterable[Callable[[], None]] = ()) -> None:
        """Begin to write `report` and `snapshot`, after those being written now, and in the place of older ones.

        Each of `then` is called in another thread once both are written, or cannot be.
        """
        self.due_seconds, self._done_seconds = None, time.monotonic()
        report = attrs.evolve(report, written_at=time.time())
        with self._lock:
            earlier = self._next.then if self._next is not None else ()
            self._next = _Publication(report, snapshot, (*earlier, *then))
        self.finish()
        self._begin()

    def finish(self, *, wait: bool = False) -> None:
        """Take the result of a write that has ended, and begin the next; `wait`: until nothing is left to write."""
        while self._job is not None and (wait or self._job.done()):
            written, self._job = value_of(self._job), None
            self._on_disk, errors = _Written(None, {}) if isinstance(written, HapsyncError) else written
            for name in sorted(errors.keys() - self._unwritten):
                log.error("%s not written: %s; HAProxy is kept in sync nevertheless", name, errors[name])
            for name in sorted(self._unwritten - errors.keys()):
                log.info("%s written again", name)
            self._unwritten = errors.keys()
            self._begin()

    def _begin(self) -> None:
        if self._job is None and (first := self._take()) is not None:
            config, on_disk = self._config, self._on_disk
            self._job = self._executor.submit("report", lambda: _write_all(config, first, self._take, on_disk))

    def _take(self) -> _Publication | None:
        """Return the publication to write next, in any thread."""
        with self._lock:
            taken, self._next = self._next, None
        return taken


class _Written(NamedTuple):
    """The snapshot that is on disk after a write, and by file the error of the write."""

    on_disk: Snapshot | None
    errors: Mapping[str, OSError]


def _write_all(
    config: AgentConfig, first: _Publication, take: Callable[[], _Publication | None], on_disk: Snapshot | None
) -> _Written:
    """Write `first`, then what `take` returns, until it returns None; return the result of the last write."""
    written = _write(config, first, on_disk)
    while (publication := take()) is not None:
        written = _write(config, publication, written.on_disk)
    return written


def _write(config: AgentConfig, publication: _Publication, on_disk: Snapshot | None) -> _Written:
    """Write the report, and the snapshot where it differs from the one `on_disk`."""
    report, snapshot, errors = publication.report, publication.snapshot, dict[str, OSError]()
    try:
        if _is_behind(on_disk, snapshot) or signature(str(Path(config.state_dir, SNAPSHOT_FILE))) is None:
            try:
                write_in_folder(config.state_dir, SNAPSHOT_FILE, snapshot_to_json(snapshot), durable=False)
                on_disk = snapshot
            except OSError as error:
                errors[SNAPSHOT_FILE] = error
                report = attrs.evolve(report, snapshot_error=str(error))
        try:
            write_in_folder(config.runtime_dir, REPORT_FILE, report_to_json(report), durable=False)
        except OSError as error:
            errors[REPORT_FILE] = error
    finally:
        for one in publication.then:
            one()
    return _Written(on_disk, errors)


def _is_behind(on_disk: Snapshot | None, snapshot: Snapshot) -> bool:
    """Return whether the catalog changed since the snapshot `on_disk`."""
    if on_disk is None:
        return True
    now, known = snapshot.readings, on_disk.readings
    return any(now.get(one) is not known.get(one) for one in {*now, *known})
