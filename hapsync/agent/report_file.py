"""The agent's published files, to and from JSON.

The *report* says how the agent fares, and the *snapshot* is the agent's catalog.
"""

from collections.abc import Mapping

import attrs

from hapsync.haproxy.old_workers import NOT_LOOKED, OldWorkers
from hapsync.model.catalog import Catalog, Doubt, Reading
from hapsync.model.changes import Defect
from hapsync.model.json_file import from_file, from_open_file, to_file, to_open_file
from hapsync.model.overrides import Freeze, Lost, Override
from hapsync.model.server import HAProxyProcess, Scaling
from hapsync.plan.guard import Caution

VERSION = 2
"""The version of the report; it changes when a field changes its meaning or goes."""
SNAPSHOT_VERSION = 2
"""The version of the snapshot; it changes in the same cases."""


REPORT_FILE = "status.json"
"""The name of the report's file in `runtime_dir`."""
SNAPSHOT_FILE = "catalog.json"
"""The name of the snapshot's file in `state_dir`."""


@attrs.frozen
class ServiceReport:
    """How the watch of one service fares; times are seconds of the wall clock.

    `doubt` says in words why the service's reading may remove no servers; None while the reading is trusted.
    """

    index: int = 0
    confirmed_at: float | None = None
    error: str | None = None
    is_cached: bool = False
    doubt: str | None = None


@attrs.frozen
class Event:
    """An act of the agent: its time (seconds of the wall clock), and the act with its reason in words."""

    at: float
    what: str


@attrs.frozen
class ReloadReport:
    """One reload: its time, its reason, its length, and why it failed, if it did."""

    at: float
    why: str
    seconds: float
    error: str | None = None


@attrs.frozen
class Counters:
    """The agent's counts since its start.

    `drift`: changes that neither Consul nor an operator asked for anew; another program or person had changed
    HAProxy.
    """

    passes: int = 0
    changes: int = 0
    refused: int = 0
    reloads: int = 0
    failed_reloads: int = 0
    workers_seen: int = 0
    drift: int = 0


@attrs.frozen
class Report:
    """How the agent fares, as of `written_at`."""

    pid: int
    started_at: float
    written_at: float
    hapsync_version: str
    in_sync: bool
    haproxy: HAProxyProcess | None = None
    haproxy_error: str | None = None
    file_error: str | None = None
    settings_error: str | None = None
    snapshot_error: str | None = None
    services: Mapping[str, ServiceReport] = attrs.field(factory=dict)
    counters: Counters = Counters()
    changes: tuple[Event, ...] = ()
    reloads: tuple[ReloadReport, ...] = ()
    refusals: tuple[Event, ...] = ()
    mode: str = "active"
    freeze: Freeze | None = None
    overrides: tuple[Override, ...] = ()
    lost: Lost | None = None
    unread_version: str | None = None
    cautions: Mapping[str, Caution] = attrs.field(factory=dict)
    state_file_error: str | None = None
    scaling: Mapping[str, Scaling] = attrs.field(factory=dict)
    reload_waits_for: str | None = None
    discovery_error: str | None = None
    leaving: tuple[str, ...] = ()
    old_workers: OldWorkers = NOT_LOOKED
    defects: tuple[Defect, ...] = ()


@attrs.frozen
class Snapshot:
    """The catalog as the agent last read it; `trusted` has the last trusted reading of each service now in doubt."""

    readings: Mapping[str, Reading]
    trusted: Mapping[str, Reading] = attrs.field(factory=dict)

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.readings)

    @property
    def last_good(self) -> Mapping[str, Reading]:
        """The readings for a start without Consul: of each service the last trusted one, else any.

        A doubted empty reading is left out. A fallback is left out, too: it is for a start without any better
        reading.
        """
        found = {**{name: one for name, one in self.readings.items() if _is_worth_keeping(one)}, **self.trusted}
        return {name: attrs.evolve(one, doubt=None, is_backwards=False) for name, one in sorted(found.items())}


def _is_worth_keeping(reading: Reading) -> bool:
    if reading.doubt in {None, Doubt.AWAY, Doubt.SNAPSHOT}:  # such a reading was trusted once
        return True
    return reading.doubt is not Doubt.FALLBACK and bool(reading.instances)


def report_to_json(report: Report) -> str:
    """Return the text of the report's file."""
    return to_open_file(report, VERSION)


def report_from_json(text: str) -> Report | None:
    """Return the report in `text`; None when it is damaged or of another version."""
    return from_open_file(text, VERSION, Report)


def snapshot_to_json(snapshot: Snapshot) -> str:
    """Return the text of the snapshot's file."""
    return to_file(snapshot, SNAPSHOT_VERSION, "catalog")


def snapshot_from_json(text: str) -> Snapshot | None:
    """Return the snapshot in `text`; None when it is damaged, even by a single bit, or of another version."""
    return from_file(text, SNAPSHOT_VERSION, "catalog", Snapshot)
