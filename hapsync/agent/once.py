"""One pass from beginning to end, for `hapsync apply`: the changes, the reload if slots run out, the file."""

import time

import attrs

from hapsync.agent.config_file import (
    Candidate,
    candidate_grown,
    is_applied,
    observe_all,
    on_file,
    served_now,
    write_file,
)
from hapsync.agent.guard_state import GuardState
from hapsync.agent.half_reload import is_half_done, noted
from hapsync.agent.quarantine import quarantined
from hapsync.agent.reachable import where_haproxy_is
from hapsync.agent.reconcile import check_alive, run_pass
from hapsync.agent.rollout import EDITED
from hapsync.agent.settings import Settings
from hapsync.agent.state_file import load_state
from hapsync.errors import ConfigError, ReloadError, RuntimeAPIError
from hapsync.haproxy.commands import explained
from hapsync.haproxy.foreign import refuse
from hapsync.haproxy.probe import Probe
from hapsync.haproxy.reload import reload_into
from hapsync.model.catalog import Catalog
from hapsync.model.changes import Reason
from hapsync.model.overrides import stopped_words
from hapsync.plan.desired import Desired, desired
from hapsync.plan.growth import NEED_LIMIT_SECONDS
from hapsync.plan.guard import CHECK_SECONDS
from hapsync.plan.plan import Plan, alarms, describe
from hapsync.plan.problems import unread_lines, unserved
from hapsync.system.files import read_text_or_none

_POLL_SECONDS = 0.1
_ROUNDS = 4
"""Removals that wait for their replacements need a second pass; more than a few mean that something refuses."""


@attrs.frozen
class Applied:
    """What was done, a line each; whether all services were read, and whether HAProxy is in sync now."""

    lines: tuple[str, ...]
    is_whole: bool
    in_sync: bool


def apply_once(settings: Settings, catalog: Catalog, *, force: bool = False) -> Applied:
    """Bring HAProxy and its file to what `catalog` says; `force`: also what only the guard holds back.

    The guard remembers from run to run, like the agent. A catalog does not change here, so the need is settled at
    once; only slots that may fall idle, and the first checks of newcomers, are waited for. Where HAProxy refuses the
    servers of some backends, it is done without their new options, and HAProxy does not count as in sync.

    Raises RuntimeAPIError, ConfigError, ReloadError.
    """
    settings, problem = where_haproxy_is(settings)
    if problem is not None:
        raise ConfigError("hapsync.toml", (problem,))
    guard_state = GuardState(settings.config, load_state(settings.config))
    try:
        return _apply(settings, catalog, guard_state, [], force=force)
    finally:
        guard_state.save()


def _apply(
    settings: Settings, catalog: Catalog, guard_state: GuardState, lines: list[str], *, force: bool
) -> Applied:
    wanted = attrs.evolve(desired(catalog, settings.config, served_now(settings)), overrides=guard_state.overrides())
    is_whole = len(wanted.backends) == len(settings.config.backends)
    try:
        with guard_state.releasing(settings.config.backends if force and not guard_state.stopped else ()):
            plan = _passes(settings, wanted, guard_state, lines)
    except RuntimeAPIError as error:
        # What HAProxy is started with later should be what the catalog says now.
        current = read_text_or_none(settings.config.haproxy.config)
        may_write = error.is_down and wanted.backends and not guard_state.stopped
        may_write = may_write and (current is None or is_applied(settings, current))
        if may_write:
            guard_state.note(wanted, on_file(settings))  # the file is all there is to be guarded
        if may_write and write_file(settings, wanted, guard_state.cautions(), None):
            raise RuntimeAPIError(f"{error}\nwrote {settings.config.haproxy.config} for its next start") from error
        raise
    if guard_state.stopped is not None:
        lines.append(f"nothing is done: {stopped_words(guard_state.stopped, guard_state.saved)}")
        return Applied((*lines, *str(plan).splitlines()), is_whole, in_sync=False)
    deadline = time.monotonic() + NEED_LIMIT_SECONDS
    while plan.shortages and any(short.addresses for short in plan.shortages) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        plan = _passes(settings, wanted, guard_state, lines)
    pid = check_alive(settings.config.haproxy.socket, settings.config.haproxy.timeout_seconds).pid
    current = read_text_or_none(settings.config.haproxy.config)
    is_behind = not is_applied(settings, current) or is_half_done(settings.config, pid)
    if plan.shortages or is_behind:
        short = [shortage.backend for shortage in plan.shortages]
        try:
            candidate = candidate_grown(settings, wanted, guard_state.cautions(), short)
            if not force:
                refuse(candidate.lost)
            why = f"more slots for {', '.join(short)}" if short else EDITED
            lines += _reload(settings, candidate, pid, why)
            settings = settings.moved
        except (ReloadError, ConfigError) as error:
            without = quarantined(settings, error)
            if without is None:
                return Applied((*lines, f"not reloaded: {error}"), is_whole=True, in_sync=False)
            lines += [f"settings taken, but {why}" for why in without.why.values()]
            return attrs.evolve(_apply(without.settings, catalog, guard_state, lines, force=force), in_sync=False)
        plan = _passes(settings, wanted, guard_state, lines)
    deadline = time.monotonic() + CHECK_SECONDS + 1
    while any(one.reason is Reason.CHECKED_FIRST for one in plan.deferred) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        plan = _passes(settings, wanted, guard_state, lines)
    cautions = guard_state.cautions()
    seen = observe_all(settings, wanted, cautions)
    if wanted.backends and write_file(settings, wanted, cautions, seen):
        lines.append(f"wrote {settings.config.haproxy.config}")
    if wanted.backends:
        guard_state.forget_released(seen.observed)
    lines += [line for line in str(plan).splitlines() if line]
    worrying = [*alarms(plan), *(unread := unread_lines(seen.observed)), *unserved(wanted, seen.observed)]
    return Applied((*lines, *worrying), is_whole and not unread, plan.is_empty and not worrying)


def _reload(settings: Settings, candidate: Candidate, pid: int, why: str) -> list[str]:
    """Reload the worker `pid` into `candidate`; return what to say of it. Raises ReloadError."""
    haproxy = settings.config.haproxy
    with noted(settings.config, pid, candidate.text):
        process = reload_into(haproxy, candidate.text, candidate.target, next_socket=settings.next_socket)
    lost = (f"taken out with the reload: {line} (foreign)" for loss in candidate.lost for line in loss.lines)
    return [f"reloaded HAProxy: {why}; its worker is {process.pid}", *lost]


def _passes(settings: Settings, wanted: Desired, guard_state: GuardState, lines: list[str]) -> Plan:
    haproxy = settings.config.haproxy
    backends = tuple(sorted({*wanted.backends, *wanted.overrides} & set(settings.config.backends)))
    plan = Plan()
    probe = Probe(settings.config)
    for _ in range(_ROUNDS):
        outcome = run_pass(
            haproxy.socket,
            haproxy.timeout_seconds,
            wanted,
            backends,
            guard_state.rules(wanted, backends, is_full=True),
            lambda observed: guard_state.before_leaving(wanted, observed),
            probe,
        )
        guard_state.note(wanted, outcome.last.observed)
        lines += [describe(change) for change in outcome.done]
        lines += [f"refused {explained(one)}" for one in outcome.refused]
        plan = outcome.last.plan
        has_refused = any(one.is_of_change for one in outcome.refused)
        if has_refused or not plan.changes or not outcome.done:
            break
    return plan
