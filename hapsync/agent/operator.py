"""The operators' requests, carried out: in the agent, or on the state file and HAProxy where no agent runs."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import attrs

from hapsync.agent.catalog import Following
from hapsync.agent.file_text import is_applied
from hapsync.agent.guard_state import GuardState
from hapsync.agent.passes import Passes
from hapsync.agent.reconcile import Outcome, Reconciler
from hapsync.agent.rollout import Reloads
from hapsync.agent.settings import Settings
from hapsync.agent.state_file import load_state
from hapsync.api.messages import (
    Apply,
    FreezeAll,
    OverrideServer,
    ReleaseBackend,
    ReleaseServer,
    Reply,
    Request,
    Thaw,
    duration_words,
)
from hapsync.api.server import Pending
from hapsync.config.schema import Config
from hapsync.errors import HapsyncError, RuntimeAPIError, Withdrawn
from hapsync.haproxy.commands import explained
from hapsync.haproxy.socket import open_session
from hapsync.model.changes import Reason, takes_out
from hapsync.model.overrides import Freeze, Override, SavedState, expired, is_frozen, stopped_words, with_override
from hapsync.model.server import PLACEHOLDER, Backend
from hapsync.plan.assessment import judge, unread_lines, untold
from hapsync.plan.plan import describe
from hapsync.system.files import read_text_or_none
from hapsync.text import one_line, plural, shown

log = logging.getLogger(__name__)

_NO_AGENT_RELEASE = "no agent runs: `hapsync apply` makes the server what Consul says"
_NO_AGENT = "no agent runs: `hapsync apply` and the next agent heed it"


def freeze_once(config: Config, request: FreezeAll | Thaw, who: str) -> Reply:
    """Freeze or thaw where no agent runs; the caller holds the lock.

    Raises OSError when the state file cannot be read or written.
    """
    reply = _freeze_or_thaw(GuardState(config, load_state(config)), attrs.evolve(request, who=who))
    return attrs.evolve(reply, lines=(*reply.lines, _NO_AGENT)) if reply.is_ok else reply


def do_once(settings: Settings, request: Request, who: str) -> Reply:
    """Carry out the request of the user `who` where no agent runs; the caller holds the lock.

    Raises RuntimeAPIError when HAProxy does not answer, OSError when the state file cannot be read or written.
    """
    config = settings.config
    reconciler = Reconciler(lambda: settings, GuardState(config, load_state(config)))
    reply = Answers(reconciler).answer(attrs.evolve(request, who=who))
    reconciler.guard_state.save()
    if not reply.is_ok:
        return reply
    try:
        if is_applied(settings, read_text_or_none(config.haproxy.config)):
            reconciler.write()
    except HapsyncError as error:
        return Reply.not_done(*reply.lines, f"but {config.haproxy.config} is not written yet: {error}")
    if isinstance(request, ReleaseServer):
        return attrs.evolve(reply, lines=(*reply.lines, _NO_AGENT_RELEASE))
    return reply


class Answers:
    """Carries out operators' requests with the passes of a reconciler, and makes the replies."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._guard_state = reconciler.guard_state

    @property
    def _config(self) -> Config:
        return self._reconciler.settings.config

    def _make_pass(self, backends: Collection[str], ensure_wanted: Callable[[], None]) -> Outcome:
        """Make a pass over `backends` now; `ensure_wanted` is called before its first change."""
        outcome = self._reconciler.apply(backends, before_acting=ensure_wanted)
        assert outcome is not None  # noqa: S101  (the request is in the state file by now)
        return outcome

    def _why_unknown(self) -> Sequence[str]:
        """Return the reasons why HAProxy's agreement with Consul and the settings is unknown, a line each."""
        return ()

    def answer(self, request: Request, ensure_wanted: Callable[[], None] = lambda: None) -> Reply:
        """Carry out `request`, whose `who` is filled in, and return the reply.

        `ensure_wanted` is called just before the first act; an error it raises ends the request before its beginning.

        Raises RuntimeAPIError when HAProxy does not answer, OSError when the state file cannot be written.
        """
        stopped = self._guard_state.stopped
        match request:
            case FreezeAll() | Thaw():
                return _freeze_or_thaw(self._guard_state, request, ensure_wanted)
            case OverrideServer() | ReleaseServer() if self._guard_state.saved.unread_version is not None:
                return _not_while_unread(self._guard_state)
            case Apply(force=force):
                released = self._config.backends if force and stopped is None else ()
                return self._pass_over(self._config.backends, released, ensure_wanted)
            case ReleaseBackend(backend=name) | OverrideServer(backend=name) | ReleaseServer(backend=name) if (
                name not in self._config.backends
            ):
                return Reply.wrong(f"no such backend: {name}; there are {', '.join(sorted(self._config.backends))}")
            case ReleaseBackend(backend=name):
                if stopped is not None:
                    return Reply.not_done(f"nothing is released: {stopped_words(stopped, self._guard_state.saved)}")
                log.info("release backend %s by %s", name, request.who)
                return self._pass_over([name], [name], ensure_wanted)
            case OverrideServer() | ReleaseServer():
                return self._with_server(request, ensure_wanted)

    def _pass_over(
        self, backends: Collection[str], released: Collection[str], ensure_wanted: Callable[[], None]
    ) -> Reply:
        with self._guard_state.releasing(released):
            outcome = self._make_pass(tuple(backends), ensure_wanted)
        return self._told(outcome)

    def _with_server(self, request: OverrideServer | ReleaseServer, ensure_wanted: Callable[[], None]) -> Reply:
        guard_state, haproxy, now = self._guard_state, self._config.haproxy, time.time()
        with open_session(haproxy.socket, haproxy.timeout_seconds) as session:
            have = session.read_backend(request.backend)
        found = _override_for(request, have, guard_state.saved, now)
        if isinstance(found, Reply):
            return found
        override, what = found
        ensure_wanted()
        guard_state.remember(with_override(guard_state.saved, override), asked=override)
        outcome = self._make_pass((have.name,), ensure_wanted)
        if guard_state.stopped is not None:
            return Reply.not_done(f"kept, but not done now: {stopped_words(guard_state.stopped, guard_state.saved)}")
        refused = [one for one in outcome.refused if one.is_of_change]
        mine = [one for one in refused if getattr(one.change, "address", None) == override.address]
        if mine:
            return Reply.not_done(*(f"refused {explained(one)}" for one in mine))
        log.info("%s; asked for by %s%s", what, request.who, _because(getattr(request, "reason", "")))
        if isinstance(request, OverrideServer):
            return Reply.done(what, _left(outcome.last.observed.backends[have.name]))
        return Reply.done(what)

    def _told(self, outcome: Outcome) -> Reply:
        """Return a reply in words about the changes that a pass made, and about those left."""
        plan, stopped = outcome.last.plan, self._guard_state.stopped
        emptied = {change.backend for change in outcome.done if takes_out(change)}
        lasts = [outcome.last.observed.backends[name] for name in sorted(emptied)]
        lines = [_left(one) for one in lasts if not any(server.serves for server in (*one.slots, *one.foreign))]
        lines += [" ".join(describe(change).split()) for change in outcome.done]
        lines += [f"refused {explained(one)}" for one in outcome.refused]
        lines += [" ".join(line.split()) for line in str(plan).splitlines()]
        found = judge(self._config, outcome.last)
        lines += found.worrying
        if stopped is not None:
            lines.append(f"nothing is done: {stopped_words(stopped, self._guard_state.saved)}")
        elif plan.shortages:
            lines.append("the agent reloads HAProxy for more slots in a moment")
        is_refused = any(one.is_of_change for one in outcome.refused)
        unknown = (*self._why_unknown(), *unread_lines(outcome.last.observed))
        if unknown and not found.due and not is_refused:
            return Reply.cannot_tell(*lines, *unknown)
        is_in_sync = not (found.due or found.worrying or is_refused)
        lines += unknown
        lines.append("HAProxy is in sync with Consul" if is_in_sync else "HAProxy is not in sync with Consul")
        return Reply.done(*lines) if is_in_sync else Reply.not_done(*lines)


class AgentAnswers(Answers):
    """The answers of the running agent, to requests that wait for them; the agent's one thread calls all methods."""

    def __init__(
        self,
        reconciler: Reconciler,
        reloads: Reloads,
        following: Following,
        passes: Passes,
        take_new_settings: Callable[[], None],
    ) -> None:
        """Take `take_new_settings`, which reads the operator's files and goes on with their settings."""
        super().__init__(reconciler)
        self._reloads = reloads
        self._following = following
        self._passes = passes
        self._take_new_settings = take_new_settings

    def answer_always(self, pending: Pending) -> Reply:
        """Carry out the request, and return the reply, or the reason for none; raises nothing."""
        request = pending.request
        losing = self._reloads.rollout.losing  # the losses shown to the operator, before settings are read again
        if isinstance(request, Apply):
            self._take_new_settings()

        def ensure_wanted() -> None:
            if not pending.is_wanted:
                raise Withdrawn(f"withdrawn by {request.who}; nothing was done")

        backends, stopped = self._config.backends, self._guard_state.stopped
        try:
            match request:
                # Consent to the loss of foreign servers is no consent to the removals that the guard defers.
                case ReleaseBackend(backend=name) if name in losing and name in backends and not stopped:
                    deferred = f"the changes that the guard defers in {name} stay deferred"
                    reply = Reply.not_done(f"{deferred}; for that, `hapsync release {name}` after the reload")
                case _:
                    reply = self.answer(request, ensure_wanted)
        except Withdrawn as error:
            log.warning("%s: %s", type(request).__name__, error)
            reply = Reply.not_done(str(error))
        except (HapsyncError, OSError) as error:
            reply = Reply.cannot_tell(str(error))
        except Exception as error:
            log.exception("a defect of hapsync, please report it; a request was not answered")
            reply = Reply.cannot_tell(f"a defect of hapsync, please report it: {error!r}")
        return self._let_go(request, losing, reply) if pending.is_wanted else reply

    def _make_pass(self, backends: Collection[str], ensure_wanted: Callable[[], None]) -> Outcome:
        outcome = self._passes.make_now(backends, ensure_wanted)
        if outcome is None:
            why = self._passes.haproxy.error or "; ".join(self._why_unknown()) or "HAProxy was not reached yet"
            raise RuntimeAPIError(f"{why}; nothing was done, ask again")
        return outcome

    def _why_unknown(self) -> Sequence[str]:
        states, rollout = self._following.states().items(), self._reloads.rollout
        errors = {service: state.error for service, state in states if state.error is not None}
        lines = [*untold(self._config, self._reconciler.desired(), errors)]
        if rollout.problem:
            lines.append(rollout.problem)
        elif rollout.settings_due_seconds is not None:
            lines.append(f"{rollout.settings_why}: HAProxy is brought there in a moment")
        return lines

    def _let_go(self, request: Request, losing: Mapping[str, frozenset[str]], reply: Reply) -> Reply:
        """Let the next reload lose the foreign servers for which one was refused, where `request` consents to it."""
        match request:
            case ReleaseBackend(backend=backend):
                released = {name: servers for name, servers in losing.items() if name == backend}
            case Apply(force=True):
                released = dict(losing)
            case _:
                return reply
        if not released or self._guard_state.stopped:
            return reply
        self._guard_state.let_go(released)
        if self._reloads.rollout.not_taken is not None:
            self._take_new_settings()
        self._reloads.rollout = self._reloads.rollout.mended()
        whats = [f"{name}/{shown(server)}" for name, servers in released.items() for server in sorted(servers)]
        log.info("released by %s for the next reload: %s", request.who, ", ".join(whats))
        told = f"the agent reloads HAProxy in a moment, without {', '.join(whats)}"
        lines = (line for line in reply.lines if not line.startswith(("settings not taken", "HAProxy is ")))
        return Reply.not_done(*lines, told)


def _freeze_or_thaw(
    guard_state: GuardState, request: FreezeAll | Thaw, ensure_wanted: Callable[[], None] = lambda: None
) -> Reply:
    """Carry out `request`, whose `who` is filled in, and return the reply; raises OSError."""
    if isinstance(request, Thaw) and request.acknowledge:
        ensure_wanted()
        saved, acknowledged = guard_state.acknowledge()
        guard_state.remember(saved)
        log.info("acknowledged by %s; %s", request.who, "; ".join(acknowledged))
        return Reply.done(*acknowledged)
    if guard_state.saved.unread_version is not None:
        return _not_while_unread(guard_state)
    saved, now = guard_state.saved, time.time()
    before = saved.freeze if is_frozen(saved, now) else None
    was = f"frozen since {_moment(before.at, now)} by {before.who}{_because(before.reason)}" if before else ""
    if isinstance(request, Thaw):
        what, because, freeze = "thaw", "", None
        lines = [f"thawed; it was {was}" if before else "nothing was frozen"]
    else:
        until = None if request.for_seconds is None else now + request.for_seconds
        what, because, freeze = "freeze", request.reason, Freeze(now, until, request.who, request.reason)
        how_long = f" for {duration_words(until - now)}" if until is not None else ""
        end = _moment(until, now) if until is not None else "`hapsync thaw`"
        lines = [f"frozen{how_long}: hapsync changes nothing until {end}"]
        lines += [f"this takes the place of an earlier freeze: {was}"] if before else []
    ensure_wanted()
    guard_state.remember(attrs.evolve(expired(saved, now), freeze=freeze))
    log.info("%s by %s%s; %s", what, request.who, _because(because), lines[0])
    return Reply.done(*lines)


def _not_while_unread(guard_state: GuardState) -> Reply:
    return Reply.not_done(f"nothing is done: {stopped_words(Reason.OTHER_VERSION, guard_state.saved)}")


def _override_for(
    request: OverrideServer | ReleaseServer, have: Backend, saved: SavedState, now: float
) -> tuple[Override, str] | Reply:
    """Return the override to keep, and the act in words; a reply where nothing can be kept.

    `have` is HAProxy's reading of the backend, and `now` of the wall clock.
    """
    name = have.name
    slot = next((one for one in have.slots if request.server in (one.name, str(one.address))), None)
    if slot is None and any(request.server in (one.name, str(one.address)) for one in have.foreign):
        return Reply.wrong(
            f"{name}/{request.server} is foreign: hapsync never touches it; use HAProxy's `set server`"
        )
    if slot is None or slot.address in (None, PLACEHOLDER):
        # HAProxy may have started from a file without the server; its override must have an end all the same.
        holds = saved.holds if isinstance(request, ReleaseServer) else ()
        for lost in holds:
            if (lost.backend, str(lost.address)) == (name, request.server):
                return attrs.evolve(lost, is_releasing=True), f"{name} {lost.address} is released"
        there = ", ".join(f"{one.name} {one.address}" for one in have.slots if one.address != PLACEHOLDER)
        return Reply.wrong(f"backend {name} has no server {request.server}; it has {there or 'none in use'}")
    assert slot.address is not None  # noqa: S101
    where = f"{name}/{slot.name} {slot.address}"
    if isinstance(request, OverrideServer):
        until = None if request.for_seconds is None else now + request.for_seconds
        how_long = f"until {_moment(until, now)}" if until else "until released"
        hold = Override(name, slot.address, request.admin, now, until, request.who, request.reason)
        return hold, f"{where} is in {hold.admin.value} {how_long}"
    known = saved.override_of(name, slot.address)
    if known is None and not slot.is_overridden:
        return Reply.done(f"{where} has no override; there is nothing to release")
    hold = known or Override(name, slot.address, slot.admin, now, None, request.who, "")
    return attrs.evolve(hold, is_releasing=True), f"{where} is released"


def _left(backend: Backend) -> str:
    count = sum(one.serves for one in (*backend.slots, *backend.foreign))
    if count == 0:
        return f"WARNING: backend {backend.name} has no server left that can serve"
    return f"backend {backend.name} has {plural(count, 'server')} left that can serve"


def _moment(at: float, now: float) -> str:
    """Return a time of the wall clock in words, in local time; with the date where it is not today's."""
    local, today = time.localtime(at), time.localtime(now)
    is_today = (local.tm_year, local.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", local)


def _because(reason: str) -> str:
    return f": {one_line(reason)}" if reason else ""
