"""One pass: read HAProxy, decide, act, read again; the last decision should be to do nothing.

Only `Reconciler` puts a pass, an assessment, the file's text and a reload's candidate together: the agent and every
command ask it.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager

import attrs

from hapsync.agent.carry_out import carry_out
from hapsync.agent.consumer import Left
from hapsync.agent.file_text import (
    Candidate,
    Seen,
    candidate_grown,
    judged,
    new_text,
    on_file,
    seen_on_file,
    with_filed,
)
from hapsync.agent.guard_state import GuardState
from hapsync.agent.settings import Settings
from hapsync.errors import WouldEmpty, WouldLose
from hapsync.haproxy.commands import SHOW_STAT_SERVERS, Refusal
from hapsync.haproxy.foreign import refuse
from hapsync.haproxy.probe import Probe
from hapsync.haproxy.reload import install
from hapsync.haproxy.show import Health, parse_stat, with_first_checks, with_loads
from hapsync.haproxy.socket import RuntimeSession, open_session
from hapsync.haproxy.uncounted import with_all_loads
from hapsync.model.catalog import Catalog
from hapsync.model.changes import Change, Defect, Delete, Entry, Reason
from hapsync.model.server import HAProxyProcess, Observed
from hapsync.plan.assessment import Assessment, Rules, assess
from hapsync.plan.desired import Desired, DesiredCache
from hapsync.plan.diff import Diff, diff, needs_loads, needs_sessions
from hapsync.plan.guard import needs_first_checks, unread_first_checks
from hapsync.plan.plan import Plan

RELEASED_BY_TIME = frozenset({Reason.MIN_READY, Reason.MAX_LOSS, Reason.CHECKED_FIRST})


@attrs.frozen
class Outcome:
    """The result of a pass over `backends`: the first assessment, the changes made, and the last assessment.

    A pass that let an instance in may have deletions in `done` that are not in `first`: they are planned after the
    entries. `unsent` are the promises that unsent commands would have broken.
    """

    first: Assessment
    last: Assessment
    done: tuple[Change, ...] = ()
    refused: tuple[Refusal, ...] = ()
    backends: tuple[str, ...] = ()
    unsent: tuple[Defect, ...] = ()

    @property
    def defects(self) -> tuple[Defect, ...]:
        """The promises that the pass would have broken, each once."""
        return tuple(dict.fromkeys((*self.first.plan.defects, *self.last.plan.defects, *self.unsent)))


class Reconciler:
    """HAProxy's backends as a consumer of the catalog.

    The reconciler holds the guard state and HAProxy's capabilities; HAProxy's servers are read anew each time.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        guard_state: GuardState,
        catalog: Callable[[], Catalog] = lambda: Catalog({}),
    ) -> None:
        """Take functions for the current settings and readings; without readings only overrides count."""
        self.guard_state = guard_state
        self.probe = Probe(settings().config)
        self._settings_now = settings
        self._catalog = catalog
        self._cache = DesiredCache()

    @property
    def settings(self) -> Settings:
        """The current settings; after a change of them `forget` is to be called."""
        return self._settings_now()

    def forget(self) -> None:
        """Find out anew which servers are in use, and what HAProxy is capable of: the settings are other ones."""
        self.guard_state.use(self.settings.config)
        self.probe.use(self.settings.config)
        self._cache = DesiredCache()

    def desired(self, catalog: Catalog | None = None) -> Desired:
        """Return the servers that Consul and operators ask for now, or with an earlier `catalog`."""
        catalog = self._catalog() if catalog is None else catalog
        return self._cache.desired(catalog, self.settings.config, self.guard_state.overrides())

    def serves(self, backend: str) -> bool:
        """Return whether HAProxy sends to any server of `backend`, by the last reading; true without a reading."""
        return self._cache.serves(backend)

    def parts(self, services: Collection[str] | None = None) -> Collection[str]:
        """Return the backends of `services`, or all."""
        backends = self.settings.config.backends.items()
        return [name for name, one in backends if services is None or one.service in services]

    def assess(self, parts: Collection[str] | None = None, *, is_full: bool = False) -> Assessment:
        """Read the backends in `parts`, or all, and return the changes due there; nothing is changed.

        States are read first, and loads after them, only where they decide something, so "idle" is newer than "in
        maint".

        Raises RuntimeAPIError.
        """
        names = self._names if parts is None else tuple(parts)
        desired = self._desired_now()
        rules = self.guard_state.rules(desired, names, is_full=is_full)
        with self._session() as session:
            process, observed = session.read_all(names)
            return _View(session, process, desired, names, rules, self.probe).assess(observed)

    def assess_all(self) -> tuple[Assessment, Mapping[tuple[str, str], Health]]:
        """Read the states, loads and checks of all servers; return their assessment, and the health of each server.

        Loads are read also where they decide nothing.

        Raises RuntimeAPIError.
        """
        names, desired = self._names, self._desired_now()
        with self._session() as session:
            process, observed = session.read_all(names)
            observed = self.probe.attach(session, process, observed)
            stat = parse_stat(session.ask((SHOW_STAT_SERVERS,)), names)
        observed = with_loads(observed, stat.loads)
        observed = with_all_loads(observed, process, self.settings.config.haproxy.socket, desired)
        observed = with_first_checks(observed, stat.first_checks)
        observed = attrs.evolve(observed, unread={**stat.unread, **observed.unread})
        return assess(process, observed, desired, self.guard_state.rules(desired, names)), stat.health

    def apply(
        self,
        parts: Collection[str],
        *,
        is_full: bool = False,
        before_acting: Callable[[], None] = lambda: None,
    ) -> Outcome | None:
        """Make a pass over the backends in `parts`; None where nothing is asked of any of them.

        `before_acting` is called just before the first command that changes anything; an error it raises ends the
        pass.

        Raises RuntimeAPIError; changes made until then show in the next reading.
        """
        haproxy, desired = self.settings.config.haproxy, self._desired_now()
        names = tuple(sorted({*parts} & {*desired.backends, *desired.overrides} & {*self._names}))
        if not names:
            return None
        outcome = run_pass(
            haproxy.socket,
            haproxy.timeout_seconds,
            desired,
            names,
            self.guard_state.rules(desired, names, is_full=is_full),
            lambda observed: self.guard_state.before_leaving(desired, observed),
            self.probe,
            before_acting,
        )
        self.guard_state.note(desired, outcome.last.observed, pid=outcome.last.process.pid)
        self._cache.note(outcome.last.observed)
        return outcome

    def verify(self, done: Outcome) -> Left:
        """Return the changes left undone by `done`; one without a slot waits for a reload, not for another try."""
        last = done.last
        short = {one.backend for one in last.plan.shortages}
        ends_with_time = {one.change.backend for one in last.plan.deferred if one.reason in RELEASED_BY_TIME}
        ends_with_time |= {name for name, one in last.rules.cautions.items() if one.damped or one.is_refilling}
        return Left(
            frozenset(done.backends),
            frozenset({change.backend for change in last.plan.changes} - short),
            frozenset(ends_with_time | last.observed.unread.keys()),
            has_done=bool(done.done),
        )

    def target(self, *, is_down: bool = False) -> Seen:
        """Return the basis of the file: a reading of all backends, and the due changes that are deferred.

        `is_down`: the reading is of a HAProxy started with the present file. An unreadable backend has the servers of
        the file, with all changes there deferred: its part of the file has to stay.

        Raises RuntimeAPIError, OSError.
        """
        if is_down:
            observed = on_file(self.settings)
            self._cache.note(observed)
            return seen_on_file(observed, self.desired(), self.guard_state.cautions())
        names, rules, desired = self._names, Rules(self.guard_state.cautions()), self._desired_now()
        with self._session() as session:
            process, observed = session.read_process(), session.read_servers(names)
            found = _View(session, process, desired, names, rules, None).assess(observed)
        seen = Seen(found.observed, found.plan.deferred, desired, self.guard_state.target_rules())
        return with_filed(self.settings, seen)

    def target_to_write(self, *, is_down: bool) -> Seen:
        """Return `target` for a write of the file; where no HAProxy runs, the guard watches the servers of the file.

        Raises RuntimeAPIError, OSError.
        """
        seen = self.target(is_down=is_down)
        if not is_down:
            return seen
        self.guard_state.note(seen.desired, seen.observed)
        return seen_on_file(seen.observed, seen.desired, self.guard_state.cautions())

    def candidate(self, short: Collection[str] = ()) -> Candidate:
        """Return the candidate of a reload: the current settings, and more slots where a backend is `short`.

        Raises RuntimeAPIError, ConfigError, BrokenPromise, and WouldEmpty where it would leave a backend without a
        server.
        """
        seen = self.target()
        candidate = candidate_grown(self.settings, seen, short)
        judged(candidate.target, seen)
        return candidate

    def lost_by_reload(self, short: Collection[str] = ()) -> tuple[tuple[str, ...], str | None]:
        """Return the foreign servers that a reload would take out, a line each, and why it is refused for them.

        Raises RuntimeAPIError, ConfigError.
        """
        try:
            candidate = candidate_grown(self.settings, self.target(), short)
        except WouldEmpty as error:
            return (), str(error)
        lines = tuple(line for loss in candidate.lost for line in loss.lines)
        try:
            refuse(candidate.lost)
        except WouldLose as error:
            return lines, str(error)
        return lines, None

    def write(self, *, is_down: bool = False) -> bool:
        """Write the file for a HAProxy that would start now; return whether a write was needed.

        `is_down`: no HAProxy runs.

        Raises RuntimeAPIError, ConfigError (the template), ReloadError (the check or the disk; WouldLose: see
        `new_text`).
        """
        seen = self.target_to_write(is_down=is_down)
        text = new_text(self.settings, seen, is_down=is_down)
        if text is not None:
            install(self.settings.config.haproxy, text)
        if not is_down:
            self.guard_state.forget_released(seen.observed)
        return text is not None

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.settings.config.backends)

    def _session(self) -> AbstractContextManager[RuntimeSession]:
        haproxy = self.settings.config.haproxy
        return open_session(haproxy.socket, haproxy.timeout_seconds)

    def _desired_now(self) -> Desired:
        """Return the desired state, after a reading of servers where these decide it; raises RuntimeAPIError."""
        catalog = self._catalog()
        crowded = self._cache.unread(catalog, self.settings.config)
        if crowded:
            with self._session() as session:
                session.read_process()
                self._cache.note(session.read_servers(crowded))
        return self.desired(catalog)


def run_pass(
    socket: str,
    timeout_seconds: float,
    desired: Desired,
    backends: Collection[str],
    rules: Rules,
    before_leaving: Callable[[Observed], None] = lambda _observed: None,
    probe: Probe | None = None,
    before_acting: Callable[[], None] = lambda: None,
) -> Outcome:
    """Bring `backends` of the HAProxy behind `socket` to the `desired` state, as far as scaling and the guard allow.

    The whole pass is on one connection, so with one worker. `before_leaving` is called with the reading before any
    server leaves. `probe` finds out which backends take dynamic servers; without it they have slots only.
    `before_acting` is called just before the first command that changes anything; an error it raises ends the pass.

    Raises RuntimeAPIError; changes made until then show in the next reading.
    """
    with open_session(socket, timeout_seconds) as session:
        process, observed = session.read_all(backends)
        view = _View(session, process, desired, backends, rules, probe)

        def do(plan: Plan, observed: Observed, before: Callable[[], None]) -> Outcome:
            """Carry out the plan for `observed`, and read its backends again."""
            seen = Assessment(process, observed, plan, desired, rules)
            if not plan.changes:
                return Outcome(seen, seen, backends=tuple(backends))
            if plan.outgoing:
                before_leaving(observed)
            done, refused, unsent = carry_out(session, seen, before)
            if probe is not None:
                probe.note(refused)
            touched = {change.backend for change in plan.changes}
            again = session.read_servers(tuple(name for name in backends if name in touched))
            left = view.assess(observed.updated(again))
            return Outcome(seen, left, tuple(done), tuple(refused), tuple(backends), tuple(unsent))

        first = view.assess(observed, entries_first=True)
        lets_in = any(isinstance(change, Entry) for change in first.plan.changes)
        if not lets_in and first.plan.deferred and needs_loads(Diff(), desired, first.observed):
            first = view.assess(first.observed)  # no instance comes in after all, so loads for deletions are read now
        outcome = do(first.plan, first.observed, before_acting)
        left = outcome.last
        deletions = tuple(change for change in left.plan.changes if isinstance(change, Delete))
        if not lets_in or not deletions:
            return outcome
        rest = do(Plan(outgoing=deletions), left.observed, lambda: None)  # a begun pass goes on to its end
        refused, unsent = (*outcome.refused, *rest.refused), (*outcome.unsent, *rest.unsent)
        return Outcome(first, rest.last, (*outcome.done, *rest.done), refused, outcome.backends, unsent)


@attrs.frozen
class _View:
    """One worker by one connection, and the state that some of its backends should have by `rules`."""

    session: RuntimeSession
    process: HAProxyProcess
    desired: Desired
    backends: Collection[str]
    rules: Rules
    probe: Probe | None

    def assess(self, observed: Observed, *, entries_first: bool = False) -> Assessment:
        """Complete the reading `observed` with the loads and first checks that decide a change, and assess it.

        `entries_first`: loads that decide only deletions are not read while any instance is to come in; the next
        assessment reads them.

        Raises RuntimeAPIError.
        """
        process, rules, wanted = self.process, self.rules, self.desired.only(self.backends)
        if self.probe is not None and wanted.backends:
            observed = self.probe.attach(self.session, process, observed)
        found = diff(wanted, observed)
        short = needs_loads(found, wanted, observed, entries_first=entries_first)
        if rules.reads_first_checks:
            short = (*short, *needs_sessions(wanted, observed))
            unchecked = unread_first_checks(observed)
        else:
            unchecked = needs_first_checks(found, observed, rules.cautions)
        if short or unchecked:
            stat = self.session.read_stats([observed.backends[name] for name in {*short, *unchecked}])
            if short:
                observed = with_all_loads(with_loads(observed, stat.loads), process, self.session.path, wanted)
            observed = with_first_checks(observed, stat.first_checks)
            observed = attrs.evolve(observed, unread={**observed.unread, **stat.unread})
            found = diff(wanted, observed)
        return assess(process, observed, self.desired, rules, found)
