"""What the agent publishes, to and from JSON.

Two files carry it: the *report* (how the agent fares) and the *snapshot* (the catalog as it last read it).
"""

import json
from collections.abc import Mapping
from typing import Any

import attrs
import cattrs

from hapsync.catalog import Catalog, Reading
from hapsync.model import HAProxyProcess

VERSION = 1
"""Of both files; it changes when a field changes its meaning or goes."""


@attrs.frozen
class ServiceReport:
    """How the watch of one service fares; times are seconds of the wall clock."""

    index: int = 0
    confirmed_at: float | None = None
    error: str | None = None
    is_cached: bool = False


@attrs.frozen
class Event:
    """Something the agent did, when (seconds of the wall clock), and why."""

    at: float
    what: str


@attrs.frozen
class ReloadReport:
    """One reload: when, why, how long it took, and why it failed, if it did."""

    at: float
    why: str
    seconds: float
    error: str | None = None


@attrs.frozen
class Counters:
    """What the agent has done since it started."""

    passes: int = 0
    changes: int = 0
    refused: int = 0
    reloads: int = 0
    failed_reloads: int = 0
    workers_seen: int = 0


@attrs.frozen
class Report:
    """How the agent fares, as of `written_at`."""

    pid: int
    started_at: float
    written_at: float
    hapsync_version: str
    in_step: bool
    haproxy: HAProxyProcess | None = None
    haproxy_error: str | None = None
    file_error: str | None = None
    settings_error: str | None = None
    services: Mapping[str, ServiceReport] = attrs.field(factory=dict)
    counters: Counters = Counters()
    changes: tuple[Event, ...] = ()
    reloads: tuple[ReloadReport, ...] = ()
    refusals: tuple[Event, ...] = ()


@attrs.frozen
class Snapshot:
    """The catalog as the agent last read it."""

    readings: Mapping[str, Reading]

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.readings)


_CONVERTER = cattrs.Converter(forbid_extra_keys=False)


def report_to_json(report: Report) -> str:
    """Return the text of the report's file."""
    return json.dumps({"version": VERSION, **_CONVERTER.unstructure(report)})


def report_from_json(text: str) -> Report | None:
    """Return the report in `text`; None when it is damaged or of another version."""
    found = _from_json(text, Report)
    return found if isinstance(found, Report) else None


def snapshot_to_json(snapshot: Snapshot) -> str:
    """Return the text of the snapshot's file."""
    return json.dumps({"version": VERSION, **_CONVERTER.unstructure(snapshot)})


def snapshot_from_json(text: str) -> Snapshot | None:
    """Return the snapshot in `text`; None when it is damaged or of another version."""
    found = _from_json(text, Snapshot)
    return found if isinstance(found, Snapshot) else None


def _from_json(text: str, kind: type[Any]) -> object:
    try:
        tree = json.loads(text)
        if tree.pop("version") != VERSION:
            return None
        return _CONVERTER.structure(tree, kind)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, cattrs.BaseValidationError):
        return None
