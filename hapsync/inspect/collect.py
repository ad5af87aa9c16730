"""The readings of `hapsync status`; a missing answer is a problem in words, and raises nothing."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path

import attrs

from hapsync.agent.guard_state import GuardState
from hapsync.agent.lock import lock_owners
from hapsync.agent.reconcile import Reconciler
from hapsync.agent.report_file import (
    REPORT_FILE,
    SNAPSHOT_FILE,
    VERSION as REPORT_VERSION,
    Report,
    report_from_json,
    snapshot_from_json,
)
from hapsync.agent.settings import Settings
from hapsync.agent.state_file import peek_state, state_path, unreadable_words
from hapsync.config.schema import Config, Template
from hapsync.errors import CatalogError, HapsyncError, RuntimeAPIError
from hapsync.haproxy.ask_old_workers import read_old_workers
from hapsync.haproxy.old_workers import NOT_LOOKED, OldWorkers
from hapsync.haproxy.show import Health
from hapsync.inspect.status import View
from hapsync.model.catalog import Catalog
from hapsync.model.json_file import other_version
from hapsync.model.overrides import SavedState
from hapsync.model.server import ListenQueue
from hapsync.plan.assessment import Assessment
from hapsync.system.files import read_text_or_none
from hapsync.system.sockdiag import has_waiting, read_listen_queues

STALE_FACTOR = 3
"""A report older than this many resyncs comes from an agent that hangs."""


@attrs.frozen
class Known:
    """The basis of a command: the running agent's report and catalog, else the state file and Consul's own answers.

    `catalog` is None where there is none; `catalog_from` names its source. `problems` name the sources that could not
    be read.
    """

    reconciler: Reconciler
    report: Report | None
    catalog: Catalog | None
    catalog_from: str
    catalog_age_seconds: float | None
    problems: list[str]


def read_known(settings: Settings, catalog: Catalog | None = None) -> Known:
    """Return the basis of a command that changes nothing; `catalog` where Consul was asked already.

    A missing answer is a problem, and raises nothing.
    """
    config, problems = settings.config, list[str]()
    report = read_report(config, problems)
    source, age = "consul", None
    if catalog is None:
        catalog, source, age = _read_catalog_known(config, report, problems)
    known = catalog if catalog is not None else Catalog({})
    reconciler = Reconciler(lambda: settings, _read_guard_state(config, report, problems), lambda: known)
    if report is not None and report.haproxy is not None:
        reconciler.probe.know(report.haproxy.pid, report.scaling)
    return Known(reconciler, report, catalog, source, age, problems)


def collect(config: Config, names: Collection[str] = (), *, all_queues: bool = False) -> View:
    """Read HAProxy, the file, and the catalog: the running agent's, else Consul's own.

    Only the backends in `names` are shown; all are where it is empty. `all_queues`: of the accept queues the empty
    ones are shown, too.
    """
    known = read_known(Settings(config, Template(config.haproxy.template, "")))  # nothing is rendered
    reconciler, problems = known.reconciler, known.problems
    seen: Assessment | None = None
    health: Mapping[tuple[str, str], Health] = {}
    try:
        seen, health = reconciler.assess_all()
    except RuntimeAPIError as error:
        problems.append(str(error))
    file_text, file_is_readable = None, True
    try:
        file_text = read_text_or_none(config.haproxy.config)
    except OSError as error:
        problems.append(f"{config.haproxy.config} cannot be read: {error.strerror}")
        file_is_readable = False
    desired = seen.desired if seen is not None else reconciler.desired()
    queues, queues_error = (
        _read_queues(seen.process.pid, all_of_them=all_queues) if seen is not None else (None, None)
    )
    return View(
        config=config,
        desired=desired,
        rules=seen.rules if seen is not None else reconciler.guard_state.rules(desired, config.backends),
        seen=seen,
        health=health,
        file_text=file_text,
        file_is_readable=file_is_readable,
        has_catalog=known.catalog is not None,
        catalog_from=known.catalog_from,
        catalog_age_seconds=known.catalog_age_seconds,
        report=known.report,
        problems=problems,
        old_workers=_read_old_workers(config, known.report, seen),
        queues=queues,
        queues_error=queues_error,
        names=names,
    )


def _read_queues(pid: int, *, all_of_them: bool) -> tuple[tuple[ListenQueue, ...] | None, str | None]:
    """Return the accept queues of the worker `pid`, the fullest first, and why they could not be read.

    Without `all_of_them` the result has only queues with waiting connections, and no error is returned; while there
    are none, the reading takes a millisecond.
    """
    try:
        if not all_of_them and not has_waiting(pid):
            return (), None
        queues = read_listen_queues(pid)
    except HapsyncError as error:
        return None, str(error) if all_of_them else None
    return tuple(one for one in queues if all_of_them or one.waiting), None


def _read_old_workers(config: Config, report: Report | None, seen: Assessment | None) -> OldWorkers:
    """Return the agent's last reading of old workers; the master is asked only where no agent runs.

    The agent may be reloading HAProxy through the master.
    """
    if report is not None:
        return report.old_workers
    if config.haproxy.master is None or seen is None:
        return NOT_LOOKED
    live = seen.observed.backends
    return read_old_workers(config.haproxy.master, seen.process.pid, seen.desired, live, lambda: True)


def _read_guard_state(config: Config, report: Report | None, problems: list[str]) -> GuardState:
    """Return the guard state of a pass now, by the running agent's report, else by the state file."""
    if report is not None:
        saved = SavedState(
            freeze=report.freeze, holds=report.overrides, lost=report.lost, unread_version=report.unread_version
        )
        if report.mode == "observe":
            config = attrs.evolve(config, agent=attrs.evolve(config.agent, mode="observe"))
        return GuardState(config, saved, report.cautions)
    try:
        saved = peek_state(config)
    except OSError as error:
        problems.append(f"state file {unreadable_words(state_path(config), error)}")
        saved = SavedState()
    return GuardState(config, saved)


def read_report(config: Config, problems: list[str]) -> Report | None:
    """Return the running agent's report; None where no agent runs."""
    try:
        owner = next(lock_owners(config), None)
    except PermissionError:
        problems.append(f"this user may not read {config.agent.state_dir}; run this as root or as the agent's user")
        return None
    if owner is None:
        return None
    text = _read(Path(config.agent.runtime_dir, REPORT_FILE), "the agent's report", problems)
    report, version = report_from_json(text), other_version(text, REPORT_VERSION)
    if version is not None and owner.startswith("hapsync agent,"):
        problems.append(f"{owner.rstrip(',')} runs, but its report is of version {version}: restart hapsync")
    if report is None or f", pid {report.pid}," not in owner:  # `apply`, or an agent that has only just started
        return None
    age = time.time() - report.written_at
    if age > STALE_FACTOR * config.agent.resync_seconds:
        problems.append(
            f"the agent, pid {report.pid}, has not reported for {age:.0f} s; "
            f"it hangs, or cannot write to {config.agent.runtime_dir} (is the disk full?)"
        )
    if report.file_error:
        problems.append(f"the file is not written: {report.file_error}")
    if report.snapshot_error:
        problems.append(f"the catalog's snapshot is not written: {report.snapshot_error}")
    return report


def _read(path: Path, what: str, problems: list[str]) -> str:
    """Return the text of the agent's file; empty where it does not exist, or cannot be read, which is a problem."""
    try:
        return read_text_or_none(str(path)) or ""
    except (OSError, ValueError) as error:
        problems.append(f"{what} cannot be read: {error}")
        return ""


def _read_catalog_known(
    config: Config, report: Report | None, problems: list[str]
) -> tuple[Catalog | None, str, float | None]:
    """Return the running agent's catalog, else Consul's own, None where there is none; its source; and its age."""
    if report is not None:
        snapshot = snapshot_from_json(
            _read(Path(config.agent.state_dir, SNAPSHOT_FILE), "the agent's snapshot", problems)
        )
        if snapshot is not None:
            confirmed = [one.confirmed_at for one in report.services.values() if one.confirmed_at is not None]
            # A clock that was set back would make the age negative.
            return snapshot.catalog, "agent", max(0.0, time.time() - min(confirmed)) if confirmed else None
    from hapsync.consul.read_once import read_catalog  # noqa: PLC0415  (status speaks to Consul only here)

    try:
        catalog, errors = read_catalog(config.consul, config.services, config.max_servers)
    except CatalogError as error:
        problems.append(str(error))
        return None, "nowhere", None
    problems += errors.values()
    return (catalog, "consul", 0.0) if catalog.readings else (None, "nowhere", None)
