"""One pass from beginning to end, for `hapsync apply`: the changes, the reload if slots run out, the file."""

import time

import attrs

from hapsync.catalog import Catalog
from hapsync.desired import Desired, desired
from hapsync.edge.files import read_text_or_none
from hapsync.errors import ConfigError, ReloadError, RuntimeAPIError
from hapsync.growth import NEED_LIMIT_SECONDS
from hapsync.plan import Plan, describe
from hapsync.runtime import explained
from hapsync.worker.one_pass import run_pass
from hapsync.worker.paper import is_applied, observe_all, reload_grown, write_file
from hapsync.worker.settings import Settings

_POLL_SECONDS = 0.1
_ROUNDS = 4
"""Removals that wait for their replacements need a second pass; more than a few mean that something refuses."""


@attrs.frozen
class Applied:
    """What was done, a line each; whether all services were read, and whether HAProxy is in step now."""

    lines: tuple[str, ...]
    is_whole: bool
    in_step: bool


def apply_once(settings: Settings, catalog: Catalog) -> Applied:
    """Bring HAProxy and its file to what `catalog` says.

    A catalog does not change here, so the need is settled at once; only slots that may fall idle are waited for.

    Raises RuntimeAPIError, ConfigError, ReloadError.
    """
    wanted = desired(catalog, settings.config)
    lines: list[str] = []
    try:
        plan = _passes(settings, wanted, lines)
    except RuntimeAPIError as error:
        # What HAProxy is started with later should be what the catalog says now.
        current = read_text_or_none(settings.config.haproxy.config)
        may_write = wanted.backends and (current is None or is_applied(settings, current))
        if may_write and write_file(settings, wanted, None):
            raise RuntimeAPIError(f"{error}\nwrote {settings.config.haproxy.config} for its next start") from error
        raise
    deadline = time.monotonic() + NEED_LIMIT_SECONDS
    while plan.shortages and any(short.addresses for short in plan.shortages) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        plan = _passes(settings, wanted, lines)
    is_behind = not is_applied(settings, read_text_or_none(settings.config.haproxy.config))
    if plan.shortages or is_behind:
        short = [shortage.backend for shortage in plan.shortages]
        try:
            process = reload_grown(settings, wanted, short)
        except (ReloadError, ConfigError) as error:
            return Applied((*lines, f"not reloaded: {error}"), is_whole=True, in_step=False)
        why = f"more slots for {', '.join(short)}" if short else "the template or hapsync.toml changed"
        lines.append(f"reloaded HAProxy: {why}; its worker is {process.pid}")
        plan = _passes(settings, wanted, lines)
    if wanted.backends and write_file(settings, wanted, observe_all(settings)):
        lines.append(f"wrote {settings.config.haproxy.config}")
    lines += [line for line in str(plan).splitlines() if line]
    is_whole = len(wanted.backends) == len(settings.config.backends)
    return Applied(tuple(lines), is_whole, plan.is_empty)


def _passes(settings: Settings, wanted: Desired, lines: list[str]) -> Plan:
    haproxy = settings.config.haproxy
    plan = Plan()
    for _ in range(_ROUNDS):
        outcome = run_pass(haproxy.socket, haproxy.timeout_seconds, wanted, tuple(wanted.backends))
        lines += [describe(change) for change in outcome.done]
        lines += [f"refused {explained(one)}" for one in outcome.refused]
        plan = outcome.last.plan
        if outcome.refused or not plan.changes or not outcome.done:
            break
    return plan
