"""The work of `hapsync apply` from beginning to end: the passes, the reload if slots run out, the file."""

import time

import attrs

from hapsync.agent.config_file import Candidate, is_applied
from hapsync.agent.guard_state import GuardState
from hapsync.agent.reachable import where_haproxy_is
from hapsync.agent.reconcile import Reconciler
from hapsync.agent.rollout import is_half_done, noted, quarantined
from hapsync.agent.settings import Settings
from hapsync.agent.state_file import load_state
from hapsync.errors import ConfigError, ReloadError, RuntimeAPIError
from hapsync.haproxy.commands import explained
from hapsync.haproxy.foreign import refuse
from hapsync.haproxy.reload import reload_into
from hapsync.model.catalog import Catalog
from hapsync.model.changes import Reason
from hapsync.model.overrides import stopped_words
from hapsync.plan.assessment import Assessment, Verdict, judge
from hapsync.plan.growth import NEED_LIMIT_SECONDS
from hapsync.plan.guard import CHECK_SECONDS
from hapsync.plan.plan import describe
from hapsync.plan.rollout import EDITED
from hapsync.system.files import read_text_or_none

_POLL_SECONDS = 0.1
_ROUNDS = 4
"""The most passes: removals that wait for replacements need a second one, and more than a few mean a refusal."""


@attrs.frozen
class Applied:
    """The result of `hapsync apply`: its lines, and whether HAProxy is in sync now."""

    lines: tuple[str, ...]
    verdict: Verdict

    @property
    def in_sync(self) -> bool:
        return self.verdict is Verdict.IN_SYNC


def apply_once(settings: Settings, catalog: Catalog, *, force: bool = False) -> Applied:
    """Bring HAProxy and its file in sync with `catalog`; `force`: make the changes that only the guard defers, too.

    The guard state lasts from run to run, like the agent's. The catalog does not change here, so a shortage needs no
    time to settle. Only slots that may fall idle, and the first checks of newcomers, are waited for. Where HAProxy
    refuses the servers of some backends, their new options are left out, and HAProxy does not count as in sync.

    Raises RuntimeAPIError, ConfigError, ReloadError.
    """
    settings, problem = where_haproxy_is(settings)
    if problem is not None:
        raise ConfigError("hapsync.toml", (problem,))
    guard_state = GuardState(settings.config, load_state(settings.config))
    try:
        return _apply(Reconciler(settings, guard_state, lambda: catalog), [], force=force)
    finally:
        guard_state.save()


def _apply(reconciler: Reconciler, lines: list[str], *, force: bool) -> Applied:
    settings, guard_state = reconciler.settings, reconciler.guard_state
    try:
        with guard_state.releasing(settings.config.backends if force and not guard_state.stopped else ()):
            last = _passes(reconciler, lines)
    except RuntimeAPIError as error:
        # HAProxy's next start should be with the present catalog.
        current = read_text_or_none(settings.config.haproxy.config)
        may_write = error.is_down and reconciler.desired().backends and not guard_state.stopped
        may_write = may_write and (current is None or is_applied(settings, current))
        if may_write and reconciler.write(is_down=True):
            raise RuntimeAPIError(f"{error}\nwrote {settings.config.haproxy.config} for its next start") from error
        raise
    if guard_state.stopped is not None:
        lines.append(f"nothing is done: {stopped_words(guard_state.stopped, guard_state.saved)}")
        return _applied(settings, lines, last)
    deadline = time.monotonic() + NEED_LIMIT_SECONDS
    while any(short.addresses for short in last.plan.shortages) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        last = _passes(reconciler, lines)
    current = read_text_or_none(settings.config.haproxy.config)
    is_behind = not is_applied(settings, current) or is_half_done(settings.config, last.process.pid)
    if last.plan.shortages or is_behind:
        short = [shortage.backend for shortage in last.plan.shortages]
        try:
            candidate = reconciler.candidate(short)
            if not force:
                refuse(candidate.lost)
            why = f"more slots for {', '.join(short)}" if short else EDITED
            lines += _reload(settings, candidate, last.process.pid, why)
            reconciler.use(settings.moved)
        except (ReloadError, ConfigError) as error:
            without = quarantined(settings, error)
            if without is None:
                return Applied((*lines, f"not reloaded: {error}"), Verdict.OUT_OF_SYNC)
            lines += [f"settings taken, but {why}" for why in without.why.values()]
            reconciler.use(without.settings)
            applied = _apply(reconciler, lines, force=force)
            return attrs.evolve(applied, verdict=Verdict.OUT_OF_SYNC) if applied.in_sync else applied
        last = _passes(reconciler, lines)
    deadline = time.monotonic() + CHECK_SECONDS + 1
    while any(one.reason is Reason.CHECKED_FIRST for one in last.plan.deferred) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        last = _passes(reconciler, lines)
    if last.desired.backends and reconciler.write():
        lines.append(f"wrote {settings.config.haproxy.config}")
    return _applied(settings, lines, last)


def _applied(settings: Settings, lines: list[str], last: Assessment) -> Applied:
    found = judge(settings.config, last)
    said = [line for line in str(last.plan).splitlines() if line]
    return Applied((*lines, *said, *found.worrying, *found.unknown), found.verdict)


def _reload(settings: Settings, candidate: Candidate, pid: int, why: str) -> list[str]:
    """Reload the worker `pid` into `candidate`; return the lines about it. Raises ReloadError."""
    haproxy = settings.config.haproxy
    with noted(settings.config, pid, candidate.text):
        process = reload_into(haproxy, candidate.text, candidate.target, next_socket=settings.next_socket)
    lost = (f"taken out with the reload: {line} (foreign)" for loss in candidate.lost for line in loss.lines)
    return [f"reloaded HAProxy: {why}; its worker is {process.pid}", *lost]


def _passes(reconciler: Reconciler, lines: list[str]) -> Assessment:
    """Make passes until no further change follows; return the last assessment."""
    last: Assessment | None = None
    for _ in range(_ROUNDS):
        outcome = reconciler.apply(reconciler.settings.config.backends, is_full=True)
        if outcome is None:
            break
        last = outcome.last
        lines += [describe(change) for change in outcome.done]
        lines += [f"refused {explained(one)}" for one in outcome.refused]
        has_refused = any(one.is_of_change for one in outcome.refused)
        if has_refused or not last.plan.changes or not outcome.done:
            break
    return reconciler.assess() if last is None else last
