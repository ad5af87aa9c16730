"""Everything `hapsync status` needs to read, with whatever does not answer said instead of raised."""

import time
from collections.abc import Mapping
from pathlib import Path

from hapsync.catalog import Catalog
from hapsync.config import Config
from hapsync.edge.files import lock_owner, read_text_or_none
from hapsync.edge.runtime_socket import open_session
from hapsync.errors import CatalogError, RuntimeAPIError
from hapsync.model import HAProxyProcess, Observed
from hapsync.observed import Health, parse_health, parse_loads, with_loads
from hapsync.report import Report, report_from_json, snapshot_from_json
from hapsync.runtime import SHOW_STAT_SERVERS
from hapsync.status import View, make_view
from hapsync.worker.journal import REPORT_FILE, SNAPSHOT_FILE

STALE_FACTOR = 3
"""A report older than this many resyncs comes from an agent that hangs."""


def look_around(config: Config) -> View:
    """Read HAProxy, the file, and the catalog: the running agent's, else Consul's own."""
    problems: list[str] = []
    report = _read_report(config, problems)
    catalog, catalog_from, age = _read_catalog(config, report, problems)
    process, observed, health = _read_haproxy(config, problems)
    try:
        file_text = read_text_or_none(config.haproxy.config)
        file_is_readable = True
    except OSError as error:
        problems.append(f"{config.haproxy.config} cannot be read: {error.strerror}")
        file_text, file_is_readable = None, False
    return make_view(
        config=config,
        catalog=catalog,
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


def _read_report(config: Config, problems: list[str]) -> Report | None:
    owner = lock_owner(str(Path(config.agent.state_dir, "lock")))
    if owner is None:
        return None
    try:
        text = read_text_or_none(str(Path(config.agent.runtime_dir, REPORT_FILE)))
    except (OSError, ValueError) as error:
        problems.append(f"the agent's report cannot be read: {error}")
        return None
    report = report_from_json(text) if text is not None else None
    if report is None or f"agent, pid {report.pid}," not in owner:  # `apply`, or an agent that has only just started
        return None
    age = time.time() - report.written_at
    if age > STALE_FACTOR * config.agent.resync_seconds:
        problems.append(f"the agent, pid {report.pid}, has not reported for {age:.0f} s; it hangs")
    if report.file_error:
        problems.append(f"the file is not written: {report.file_error}")
    return report


def _read_catalog(
    config: Config, report: Report | None, problems: list[str]
) -> tuple[Catalog | None, str, float | None]:
    if report is not None:
        try:
            text = read_text_or_none(str(Path(config.agent.state_dir, SNAPSHOT_FILE)))
        except (OSError, ValueError) as error:
            problems.append(f"the agent's snapshot cannot be read: {error}")
            text = None
        snapshot = snapshot_from_json(text) if text is not None else None
        if snapshot is not None:
            confirmed = [one.confirmed_at for one in report.services.values() if one.confirmed_at is not None]
            return snapshot.catalog, "agent", time.time() - min(confirmed) if confirmed else None
    from hapsync.edge.sweep import read_catalog  # noqa: PLC0415  (only here does status speak to Consul)

    try:
        catalog, errors = read_catalog(config.consul, config.services)
    except CatalogError as error:
        problems.append(str(error))
        return None, "nowhere", None
    problems += errors.values()
    return (catalog, "consul", 0.0) if catalog.readings else (None, "nowhere", None)


def _read_haproxy(
    config: Config, problems: list[str]
) -> tuple[HAProxyProcess | None, Observed | None, Mapping[tuple[str, str], Health]]:
    try:
        with open_session(config.haproxy.socket, config.haproxy.timeout_seconds) as session:
            process = session.read_process()
            observed = session.read_servers(tuple(config.backends))
            (dump,) = session.ask((SHOW_STAT_SERVERS,))
        return process, with_loads(observed, parse_loads(dump)), parse_health(dump)
    except RuntimeAPIError as error:
        problems.append(str(error))
        return None, None, {}
