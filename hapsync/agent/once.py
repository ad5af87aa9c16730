"""The work of `hapsync apply` from beginning to end: the passes, the reload if slots run out, the file."""

import time
from collections.abc import Callable

import attrs

from hapsync.agent.file_text import is_applied
from hapsync.agent.guard_state import GuardState
from hapsync.agent.reachable import where_haproxy_is
from hapsync.agent.reconcile import Reconciler
from hapsync.agent.rollout import is_half_done, quarantined, reload
from hapsync.agent.settings import Settings
from hapsync.agent.state_file import load_state
from hapsync.errors import ConfigError, ReloadError, RuntimeAPIError
from hapsync.haproxy.commands import explained
from hapsync.haproxy.foreign import refuse
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
        return _Application(settings, guard_state, catalog, is_forced=force).apply()
    finally:
        guard_state.save()


class _Application:
    """One run of `hapsync apply`: the settings, which change on the way, and the lines so far."""

    def __init__(self, settings: Settings, guard_state: GuardState, catalog: Catalog, *, is_forced: bool) -> None:
        self._settings = settings
        self._guard_state = guard_state
        self._reconciler = Reconciler(lambda: self._settings, guard_state, lambda: catalog)
        self._is_forced = is_forced
        self._lines: list[str] = []

    def apply(self) -> Applied:
        """Make the passes, the reload and the file; raises RuntimeAPIError, ConfigError, ReloadError."""
        settings, guard_state = self._settings, self._guard_state
        try:
            with guard_state.releasing(
                settings.config.backends if self._is_forced and not guard_state.stopped else ()
            ):
                last = self._passes()
        except RuntimeAPIError as error:
            # HAProxy's next start should be with the present catalog.
            current = read_text_or_none(settings.config.haproxy.config)
            may_write = error.is_down and self._reconciler.desired().backends and not guard_state.stopped
            may_write = may_write and (current is None or is_applied(settings, current))
            if may_write and self._reconciler.write(is_down=True):
                raise RuntimeAPIError(
                    f"{error}\nwrote {settings.config.haproxy.config} for its next start"
                ) from error
            raise
        if guard_state.stopped is not None:
            self._lines.append(f"nothing is done: {stopped_words(guard_state.stopped, guard_state.saved)}")
            return self._applied(last)
        last = self._passes_while(
            last, lambda last: any(short.addresses for short in last.plan.shortages), NEED_LIMIT_SECONDS
        )
        current = read_text_or_none(settings.config.haproxy.config)
        is_behind = not is_applied(settings, current) or is_half_done(settings.config, last.process.pid)
        if last.plan.shortages or is_behind:
            try:
                self._reload(last)
            except (ReloadError, ConfigError) as error:
                without = quarantined(settings, error)
                if without is None:
                    return Applied((*self._lines, f"not reloaded: {error}"), Verdict.OUT_OF_SYNC)
                self._lines += [f"settings taken, but {why}" for why in without.why.values()]
                self._use(without.settings)
                applied = self.apply()
                return attrs.evolve(applied, verdict=Verdict.OUT_OF_SYNC) if applied.in_sync else applied
            last = self._passes()
        last = self._passes_while(
            last,
            lambda last: any(one.reason is Reason.CHECKED_FIRST for one in last.plan.deferred),
            CHECK_SECONDS + 1,
        )
        if last.desired.backends and self._reconciler.write():
            self._lines.append(f"wrote {settings.config.haproxy.config}")
        return self._applied(last)

    def _use(self, settings: Settings) -> None:
        self._settings = settings
        self._reconciler.forget()

    def _applied(self, last: Assessment) -> Applied:
        found = judge(self._settings.config, last)
        said = [line for line in str(last.plan).splitlines() if line]
        return Applied((*self._lines, *said, *found.worrying, *found.unknown), found.verdict)

    def _reload(self, last: Assessment) -> None:
        """Reload HAProxy for more slots, or into the settings; raises RuntimeAPIError, ConfigError, ReloadError."""
        settings = self._settings
        short = [shortage.backend for shortage in last.plan.shortages]
        candidate = self._reconciler.candidate(short)
        if not self._is_forced:
            refuse(candidate.lost)
        process = reload(settings, candidate, last.process.pid)
        why = f"more slots for {', '.join(short)}" if short else EDITED
        self._lines.append(f"reloaded HAProxy: {why}; its worker is {process.pid}")
        lost = (line for loss in candidate.lost for line in loss.lines)
        self._lines += [f"taken out with the reload: {line} (foreign)" for line in lost]
        self._use(settings.moved)

    def _passes_while(self, last: Assessment, is_due: Callable[[Assessment], bool], seconds: float) -> Assessment:
        """Make passes while they are due by the last assessment, for `seconds` at most; return the last one."""
        deadline = time.monotonic() + seconds
        while is_due(last) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            last = self._passes()
        return last

    def _passes(self) -> Assessment:
        """Make passes until no further change follows; return the last assessment."""
        last: Assessment | None = None
        for _ in range(_ROUNDS):
            outcome = self._reconciler.apply(self._settings.config.backends, is_full=True)
            if outcome is None:
                break
            last = outcome.last
            self._lines += [describe(change) for change in outcome.done]
            self._lines += [f"refused {explained(one)}" for one in outcome.refused]
            has_refused = any(one.is_of_change for one in outcome.refused)
            if has_refused or not last.plan.changes or not outcome.done:
                break
        return self._reconciler.assess() if last is None else last
