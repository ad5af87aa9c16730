"""What the agent did and how it fares, kept for people: the report, the snapshot, the log lines."""

import logging
import os
import time
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path

import attrs

from hapsync import __version__
from hapsync.catalog import Reading
from hapsync.config import AgentConfig
from hapsync.edge.files import write_atomically
from hapsync.edge.watch import WatchState
from hapsync.model import HAProxyProcess
from hapsync.plan import Plan, describe
from hapsync.report import (
    Counters,
    Event,
    ReloadReport,
    Report,
    ServiceReport,
    Snapshot,
    report_to_json,
    snapshot_to_json,
)
from hapsync.runtime import explained
from hapsync.text import plural
from hapsync.worker.one_pass import Outcome

log = logging.getLogger(__name__)

RECENT = 20
REPORT_FILE = "status.json"
SNAPSHOT_FILE = "catalog.json"


class Journal:
    """Remembers the last events, counts all of them, and writes both for `hapsync status`."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._started_at = time.time()
        self._counters = Counters()
        self._changes: deque[Event] = deque(maxlen=RECENT)
        self._refusals: deque[Event] = deque(maxlen=RECENT)
        self._reloads: deque[ReloadReport] = deque(maxlen=RECENT)
        self._readings: Mapping[str, Reading] | None = None
        self._publish_error: str | None = None
        self._refused: set[str] = set()
        self._held: dict[str, str] = {}
        self._reload_error: str | None = None

    def note_worker(self, process: HAProxyProcess) -> None:
        """A worker answers that was not seen before."""
        self._counters = attrs.evolve(self._counters, workers_seen=self._counters.workers_seen + 1)
        log.info("haproxy pid=%d version=%s answers", process.pid, process.version)

    def note_pass(self, outcome: Outcome, seconds: float) -> None:
        """A pass ended; one line for each change, and one for the pass if it did anything."""
        counters = self._counters
        self._counters = attrs.evolve(
            counters,
            passes=counters.passes + 1,
            changes=counters.changes + len(outcome.done),
            refused=counters.refused + len(outcome.refused),
        )
        now = time.time()
        for change in outcome.done:
            what = " ".join(describe(change).split())
            self._changes.append(Event(now, what))
            log.info("change %s", what)
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

    def note_held(self, plan: Plan, backends: Collection[str]) -> None:
        """What is held now in `backends`; each beginning and end of it is logged once."""
        now = {held.change.backend: held.reason.value for held in plan.held}
        for name in backends:
            before = self._held.pop(name, None)
            if name in now:
                self._held[name] = now[name]
            if before is None and name in now:
                count = sum(held.change.backend == name for held in plan.held)
                log.warning("held backend %s: %s kept, %s", name, plural(count, "server"), now[name])
            elif before is not None and name not in now:
                log.info("held backend %s: no more", name)

    def note_reload(self, why: str, seconds: float, error: str | None, *, is_tried_again: bool = False) -> None:
        """A reload ended, well or not; `is_tried_again`: by itself, before anything changes."""
        self._reloads.append(ReloadReport(time.time(), why, round(seconds, 3), error))
        counters = self._counters
        if error is None:
            self._counters = attrs.evolve(counters, reloads=counters.reloads + 1)
            log.info("reload done ms=%.0f why: %s", seconds * 1000, why)
        else:
            self._counters = attrs.evolve(counters, failed_reloads=counters.failed_reloads + 1)
            if error != self._reload_error:
                next_try = "again soon" if is_tried_again else "once something changes, or on SIGHUP"
                log.error("reload not made why: %s; %s; tried %s", why, error, next_try)
        self._reload_error = error

    def publish(
        self,
        *,
        in_step: bool,
        process: HAProxyProcess | None,
        haproxy_error: str | None,
        file_error: str | None,
        settings_error: str | None,
        watches: Mapping[str, WatchState],
    ) -> None:
        """Write the report, and the snapshot where the catalog changed; a full disk is logged, no more."""
        report = Report(
            pid=os.getpid(),
            started_at=self._started_at,
            written_at=time.time(),
            hapsync_version=__version__,
            in_step=in_step,
            haproxy=process,
            haproxy_error=haproxy_error,
            file_error=file_error,
            settings_error=settings_error,
            services={
                service: ServiceReport(state.index, state.confirmed_at, state.error, state.is_cached)
                for service, state in watches.items()
            },
            counters=self._counters,
            changes=tuple(self._changes),
            reloads=tuple(self._reloads),
            refusals=tuple(self._refusals),
        )
        readings = {service: state.reading for service, state in watches.items() if state.reading is not None}
        try:
            if self._readings is None or any(
                readings.get(service) is not self._readings.get(service) for service in {*readings, *self._readings}
            ):
                snapshot = snapshot_to_json(Snapshot(readings))
                write_atomically(str(Path(self._config.state_dir, SNAPSHOT_FILE)), snapshot, durable=False)
                self._readings = readings
            write_atomically(str(Path(self._config.runtime_dir, REPORT_FILE)), report_to_json(report), durable=False)
            self._publish_error = None
        except OSError as error:
            if self._publish_error is None:
                log.error("status not written: %s; HAProxy is kept in step all the same", error)  # noqa: TRY400
            self._publish_error = str(error)
