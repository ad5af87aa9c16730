"""Everything `hapsync status` needs to read, with whatever does not answer said instead of raised."""

import time
from collections.abc import Mapping
from pathlib import Path

import attrs

from hapsync.agent.guard_state import GuardState, operator_overrides
from hapsync.agent.lock import lock_owners
from hapsync.agent.reconcile import Rules
from hapsync.agent.report_file import (
    REPORT_FILE,
    SNAPSHOT_FILE,
    VERSION as REPORT_VERSION,
    Report,
    report_from_json,
    snapshot_from_json,
)
from hapsync.agent.state_file import peek_state, state_path, unreadable_words
from hapsync.config.schema import Config
from hapsync.errors import CatalogError, HapsyncError, RuntimeAPIError
from hapsync.haproxy.ask_old_workers import read_old_workers
from hapsync.haproxy.commands import SHOW_STAT_SERVERS
from hapsync.haproxy.old_workers import NOT_LOOKED, OldWorkers
from hapsync.haproxy.probe import Probe
from hapsync.haproxy.show import (
    Health,
    parse_first_checks,
    parse_health,
    parse_loads,
    unread_counters,
    with_first_checks,
    with_loads,
    with_scaling,
)
from hapsync.haproxy.socket import open_session
from hapsync.haproxy.uncounted import with_all_loads
from hapsync.inspect.status import View, make_view
from hapsync.model.catalog import Catalog
from hapsync.model.changes import Reason
from hapsync.model.json_file import other_version
from hapsync.model.overrides import SavedState
from hapsync.model.server import HAProxyProcess, ListenQueue, Observed
from hapsync.plan.desired import Desired, desired, served_in
from hapsync.system.files import read_text_or_none
from hapsync.system.sockdiag import has_waiting, read_listen_queues

STALE_FACTOR = 3
"""A report older than this many resyncs comes from an agent that hangs."""


def collect(config: Config) -> View:
    """Read HAProxy, the file, and the catalog: the running agent's, else Consul's own."""
    problems: list[str] = []
    report = read_report(config, problems)
    catalog, catalog_from, age = read_catalog_known(config, report, problems)
    process, observed, health = _read_haproxy(config, report, problems)
    try:
        file_text = read_text_or_none(config.haproxy.config)
        file_is_readable = True
    except OSError as error:
        problems.append(f"{config.haproxy.config} cannot be read: {error.strerror}")
        file_text, file_is_readable = None, False
    rules, saved = read_rules(config, report, problems)
    served = served_in(observed) if observed is not None else None
    wanted = desired(catalog, config, served) if catalog is not None else None
    if wanted is not None:
        wanted = attrs.evolve(wanted, overrides=operator_overrides(saved))
    view = make_view(
        config=config,
        wanted=wanted,
        cautions=rules.cautions,
        stopped=rules.stopped,
        saved=saved,
        catalog_from=catalog_from,
        catalog_age_seconds=age,
        process=process,
        observed=observed,
        health=health,
        file_text=file_text,
        file_is_readable=file_is_readable,
        report=report,
        problems=tuple(problems),
    )
    return attrs.evolve(view, old_workers=_read_old_workers(config, report, process, wanted, observed))


def read_queues(
    process: HAProxyProcess | None, *, all_of_them: bool
) -> tuple[tuple[ListenQueue, ...] | None, str | None]:
    """Return the accept queues of the live worker, the fullest first, and why they could not be read.

    Without `all_of_them` those in which something waits, which takes a millisecond while nothing does, and no word
    where this user may not look.
    """
    if process is None:
        return None, None
    try:
        if not all_of_them and not has_waiting(process.pid):
            return (), None
        queues = read_listen_queues(process.pid)
    except HapsyncError as error:
        return None, str(error) if all_of_them else None
    return tuple(one for one in queues if all_of_them or one.waiting), None


def _read_old_workers(
    config: Config,
    report: Report | None,
    process: HAProxyProcess | None,
    wanted: Desired | None,
    observed: Observed | None,
) -> OldWorkers:
    """Return what the agent saw last; the master is only asked where none runs, for a reload may go on."""
    if report is not None:
        return report.old_workers
    if config.haproxy.master is None or process is None or observed is None:
        return NOT_LOOKED
    live = observed.backends
    return read_old_workers(config.haproxy.master, process.pid, wanted or Desired({}), live, lambda: True)


def read_rules(config: Config, report: Report | None, problems: list[str]) -> tuple[Rules, SavedState]:
    """Return what a pass would heed now, by the running agent's report, else by the memory's file."""
    if report is not None:
        saved = SavedState(
            freeze=report.freeze, holds=report.holds, lost=report.lost, unread_version=report.unread_version
        )
        stopped = GuardState(config, saved).stopped
        if report.mode == "observe":
            stopped = Reason.OBSERVING
        return Rules(report.cautions, stopped), saved
    try:
        saved = peek_state(config)
    except OSError as error:
        problems.append(f"state file {unreadable_words(state_path(config), error)}")
        saved = SavedState()
    guard_state = GuardState(config, saved)
    return Rules(guard_state.cautions(), guard_state.stopped), saved


def read_report(config: Config, problems: list[str]) -> Report | None:
    """Return what the running agent reports; None where none runs."""
    try:
        owner = next(lock_owners(config), None)
    except PermissionError:
        problems.append(f"this user may not read {config.agent.state_dir}; run this as root or as the agent's user")
        return None
    if owner is None:
        return None
    try:
        text = read_text_or_none(str(Path(config.agent.runtime_dir, REPORT_FILE)))
    except (OSError, ValueError) as error:
        problems.append(f"the agent's report cannot be read: {error}")
        return None
    report = report_from_json(text) if text is not None else None
    version = other_version(text, REPORT_VERSION) if text is not None else None
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
    if report.state_error:
        problems.append(f"the catalog's snapshot is not written: {report.state_error}")
    return report


def read_catalog_known(
    config: Config, report: Report | None, problems: list[str]
) -> tuple[Catalog | None, str, float | None]:
    """Return the running agent's catalog, else Consul's own; None where there is none; where from, and its age."""
    if report is not None:
        try:
            text = read_text_or_none(str(Path(config.agent.state_dir, SNAPSHOT_FILE)))
        except (OSError, ValueError) as error:
            problems.append(f"the agent's snapshot cannot be read: {error}")
            text = None
        snapshot = snapshot_from_json(text) if text is not None else None
        if snapshot is not None:
            confirmed = [one.confirmed_at for one in report.services.values() if one.confirmed_at is not None]
            # A clock that was set back would make it negative.
            return snapshot.catalog, "agent", max(0.0, time.time() - min(confirmed)) if confirmed else None
    from hapsync.consul.read_once import read_catalog  # noqa: PLC0415  (only here does status speak to Consul)

    try:
        catalog, errors = read_catalog(config.consul, config.services, config.max_servers)
    except CatalogError as error:
        problems.append(str(error))
        return None, "nowhere", None
    problems += errors.values()
    return (catalog, "consul", 0.0) if catalog.readings else (None, "nowhere", None)


def _read_haproxy(
    config: Config, report: Report | None, problems: list[str]
) -> tuple[HAProxyProcess | None, Observed | None, Mapping[tuple[str, str], Health]]:
    try:
        with open_session(config.haproxy.socket, config.haproxy.timeout_seconds) as session:
            process = session.read_process()
            observed = session.read_servers(tuple(config.backends))
            if report is not None and report.haproxy is not None and report.haproxy.pid == process.pid:
                observed = with_scaling(observed, report.scaling)  # the agent knows what was refused, too
            else:
                observed = Probe(config).attach(session, process, observed)
            (dump,) = session.ask((SHOW_STAT_SERVERS,))
        observed = with_loads(observed, parse_loads(dump))
        observed = with_all_loads(observed, process, config.haproxy.socket, Desired({}))
        observed = with_first_checks(observed, parse_first_checks(dump))
        unread = unread_counters(dump, config.backends)
        observed = attrs.evolve(observed, unread={**unread, **observed.unread})
        return process, observed, parse_health(dump)
    except RuntimeAPIError as error:
        problems.append(str(error))
        return None, None, {}
