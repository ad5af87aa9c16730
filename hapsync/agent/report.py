"""The agent's account of its work, for operators: the report, the snapshot, the log lines."""

import logging
import os
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import attrs

from hapsync import __version__
from hapsync.agent.guard_state import GuardState
from hapsync.agent.reconcile import Outcome
from hapsync.agent.report_file import (
    REPORT_FILE,
    SNAPSHOT_FILE,
    Counters,
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
from hapsync.haproxy.cfg_diff import Difference
from hapsync.haproxy.commands import explained
from hapsync.haproxy.old_workers import OldWorkers
from hapsync.model.catalog import Reading
from hapsync.model.changes import ClearOverride, Defect, Delete, EndSessions, SetAgent, SetOverride
from hapsync.model.server import HAProxyProcess, Scaling
from hapsync.plan.assessment import defect_line
from hapsync.plan.desired import Desired, DesiredBackend
from hapsync.plan.growth import is_filling as is_filling_up
from hapsync.plan.plan import Plan, describe
from hapsync.system.files import signature, write_in_folder
from hapsync.text import plural

log = logging.getLogger(__name__)

RECENT = 20
_NO_DRIFT = Delete | EndSessions | SetAgent | SetOverride | ClearOverride
"""Changes for which time or an operator is the reason, not the catalog."""


class Reporter:
    """Remembers the last events, counts all events, and writes both for `hapsync status`."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._started_at = time.time()
        self._counters = Counters()
        self._changes: deque[Event] = deque(maxlen=RECENT)
        self._refusals: deque[Event] = deque(maxlen=RECENT)
        self._reloads: deque[ReloadReport] = deque(maxlen=RECENT)
        self._readings: Mapping[str, Reading] | None = None
        self._unwritten: set[str] = set()
        self._refused: set[str] = set()
        self._deferred: dict[str, frozenset[str]] = {}
        self._reload_error: str | None = None
        self._settled: dict[str, DesiredBackend] = {}
        self._filling: set[str] = set()
        self._defects: dict[str, tuple[Defect, ...]] = {}

    @property
    def defective(self) -> Collection[str]:
        """The backends with changes not made because they would have broken a promise."""
        return self._defects.keys()

    def only(self, backends: Collection[str]) -> None:
        """Forget the defects of all but `backends`."""
        self._defects = {name: some for name, some in self._defects.items() if name in backends}

    def note_worker(self, process: HAProxyProcess) -> None:
        """Record a worker that answers for the first time."""
        self._counters = attrs.evolve(self._counters, workers_seen=self._counters.workers_seen + 1)
        log.info("haproxy pid=%d version=%s answers", process.pid, process.version)

    def note_pass(self, wanted: Desired, backends: Collection[str], outcome: Outcome, seconds: float) -> None:
        """Record a pass over `backends`; log one line for each change, and one for the pass if it did anything."""
        self._note_drift(wanted, outcome)
        self._note_slots(wanted, outcome)
        self._note_deferred(outcome.last.plan, backends)
        self._note_defects(outcome.defects, backends)
        counters = self._counters
        self._counters = attrs.evolve(
            counters,
            passes=counters.passes + 1,
            refused=counters.refused + len(outcome.refused),
        )
        now = time.time()
        self._note([" ".join(describe(change).split()) for change in outcome.done])
        refused = {explained(refusal) for refusal in outcome.refused}
        for what in sorted(refused):
            self._refusals.append(Event(now, what))
            if what not in self._refused:
                log.warning("refused %s", what)
        is_news = bool(outcome.done) or not refused <= self._refused
        self._refused = refused
        if is_news:
            left = outcome.last.plan
            log.info(
                "pass done=%d refused=%d left=%d short=%d ms=%.1f",
                len(outcome.done),
                len(outcome.refused),
                len(left.changes) + len(left.waiting),
                sum(len(shortage.addresses) for shortage in left.shortages),
                seconds * 1000,
            )

    def _note_drift(self, wanted: Desired, outcome: Outcome) -> None:
        """Count the drift: changes in backends that were in sync with the same catalog before."""
        drifted = 0
        for change in outcome.done:
            want = wanted.backends.get(change.backend)
            is_asked_for = isinstance(change, _NO_DRIFT) or wanted.overrides.get(change.backend)
            if want is not None and self._settled.get(change.backend) is want and not is_asked_for:
                drifted += 1
                log.warning(
                    "drift %s: HAProxy was changed outside of hapsync, or restarted",
                    " ".join(describe(change).split()),
                )
        self._counters = attrs.evolve(self._counters, drift=self._counters.drift + drifted)
        plan = outcome.last.plan
        unsettled = {one.backend for one in (*plan.changes, *plan.shortages)}
        unsettled |= {one.change.backend for one in (*plan.deferred, *plan.waiting)}
        for name in outcome.last.observed.backends:
            if name in wanted.backends and name not in unsettled:
                self._settled[name] = wanted.backends[name]
            else:
                self._settled.pop(name, None)

    def _note_slots(self, wanted: Desired, outcome: Outcome) -> None:
        """Log once that the slots of a backend run out, and once that enough are free again."""
        for name, have in outcome.last.observed.backends.items():
            want = wanted.backends.get(name)
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
        before = {one for name in backends for one in self._defects.pop(name, ())}
        for defect in defects:
            self._defects[defect.backend] = (*self._defects.get(defect.backend, ()), defect)
            if defect not in before:
                log.error("%s", defect_line(defect))

    def note_live(self, made: Difference) -> None:
        """Record whole backends that were added to the running HAProxy, or get no new traffic any more."""
        lines = [f"new backend {one.name} from {one.defaults}" for one in made.new]
        self._note([*lines, *(f"backend {one.name} is leaving: no new traffic any more" for one in made.gone)])

    def note_deleted(self, backends: Iterable[str]) -> None:
        """Record whole `backends` that HAProxy deleted, because nothing was left on them."""
        self._note([f"backend {name} is deleted" for name in backends])

    def _note(self, changes: Collection[str]) -> None:
        for what in changes:
            self._changes.append(Event(time.time(), what))
            log.info("change %s", what)
        self._counters = attrs.evolve(self._counters, changes=self._counters.changes + len(changes))

    def note_reload(self, why: str, seconds: float, error: str | None, *, is_tried_again: bool = False) -> None:
        """Record the end of a reload, good or bad; `is_tried_again`: the next try comes without any change."""
        self._reloads.append(ReloadReport(time.time(), why, round(seconds, 3), error))
        counters = self._counters
        if error is None:
            self._counters = attrs.evolve(counters, reloads=counters.reloads + 1)
            log.info("reload done ms=%.0f why: %s", seconds * 1000, why)
        else:
            self._counters = attrs.evolve(counters, failed_reloads=counters.failed_reloads + 1)
            if error != self._reload_error:
                next_try = "soon" if is_tried_again else "on a change or SIGHUP"
                log.error("not reloaded (%s): %s; next try %s", why, error, next_try)
        self._reload_error = error

    def publish(
        self,
        *,
        in_sync: bool,
        process: HAProxyProcess | None,
        haproxy_error: str | None,
        file_error: str | None,
        settings_error: str | None,
        reload_waits_for: str | None,
        discovery_error: str | None,
        leaving: tuple[str, ...],
        watches: Mapping[str, WatchState],
        guard_state: GuardState,
        scaling: Mapping[str, Scaling],
        old_workers: OldWorkers,
    ) -> None:
        """Write the report, and the snapshot where the catalog changed; a full disk is only logged."""
        readings = {service: state.reading for service, state in watches.items() if state.reading is not None}
        trusted = {
            service: state.trusted
            for service, state in watches.items()
            if state.trusted is not None and state.trusted is not state.reading
        }
        snapshot_error = self._write_snapshot(readings, trusted)
        report = Report(
            pid=os.getpid(),
            started_at=self._started_at,
            written_at=time.time(),
            hapsync_version=__version__,
            in_sync=in_sync,
            haproxy=process,
            haproxy_error=haproxy_error,
            file_error=file_error,
            settings_error=settings_error,
            reload_waits_for=reload_waits_for,
            discovery_error=discovery_error,
            leaving=leaving,
            snapshot_error=snapshot_error,
            services={
                service: ServiceReport(
                    state.index,
                    state.confirmed_at,
                    state.error,
                    state.is_cached,
                    state.reading.doubt.value if state.reading is not None and state.reading.doubt else None,
                )
                for service, state in watches.items()
            },
            counters=self._counters,
            changes=tuple(self._changes),
            reloads=tuple(self._reloads),
            refusals=tuple(self._refusals),
            mode=guard_state.mode,
            freeze=guard_state.saved.freeze,
            overrides=guard_state.saved.holds,
            lost=guard_state.saved.lost,
            unread_version=guard_state.saved.unread_version,
            cautions=guard_state.cautions(),
            state_file_error=guard_state.error,
            scaling=scaling,
            old_workers=old_workers,
            defects=tuple(one for _, some in sorted(self._defects.items()) for one in some),
        )
        try:
            self._write(self._config.runtime_dir, REPORT_FILE, report_to_json(report))
        except OSError as error:
            self._note_write_error(REPORT_FILE, error)
        else:
            self._note_write_error(REPORT_FILE, None)

    def _write_snapshot(self, readings: Mapping[str, Reading], trusted: Mapping[str, Reading]) -> str | None:
        """Write the snapshot where the catalog changed or the file is gone; return why it could not be written."""
        known = self._readings
        if signature(str(Path(self._config.state_dir, SNAPSHOT_FILE))) is None:
            known = None
        if known is None or any(readings.get(one) is not known.get(one) for one in {*readings, *known}):
            try:
                self._write(self._config.state_dir, SNAPSHOT_FILE, snapshot_to_json(Snapshot(readings, trusted)))
            except OSError as error:
                self._note_write_error(SNAPSHOT_FILE, error)
                return str(error)
            self._readings = readings
        self._note_write_error(SNAPSHOT_FILE, None)
        return None

    def _write(self, folder: str, name: str, text: str) -> None:
        write_in_folder(folder, name, text, durable=False)

    def _note_write_error(self, name: str, error: OSError | None) -> None:
        """Log once that a file cannot be written, and once that it can be written again."""
        if error is not None and name not in self._unwritten:
            self._unwritten.add(name)
            log.error("%s not written: %s; HAProxy is kept in sync nevertheless", name, error)
        elif error is None and name in self._unwritten:
            self._unwritten.discard(name)
            log.info("%s written again", name)
