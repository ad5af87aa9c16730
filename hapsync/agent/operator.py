"""The operators' requests, carried out: in the agent, or on the state file and HAProxy where no agent runs."""

import logging
import time
from collections.abc import Callable, Collection, Sequence

import attrs

from hapsync.agent.config_file import is_applied
from hapsync.agent.guard_state import GuardState
from hapsync.agent.reconcile import Outcome, Reconciler
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
from hapsync.config.schema import Config
from hapsync.errors import HapsyncError, Withdrawn
from hapsync.haproxy.commands import explained
from hapsync.haproxy.socket import open_session
from hapsync.model.changes import Reason, takes_out
from hapsync.model.overrides import Freeze, Override, SavedState, expired, is_frozen, stopped_words, with_override
from hapsync.model.server import PLACEHOLDER, Backend
from hapsync.plan.assessment import judge, unread_lines
from hapsync.plan.plan import describe
from hapsync.system.files import read_text_or_none
from hapsync.text import one_line, plural

log = logging.getLogger(__name__)

_NO_AGENT_RELEASE = "no agent runs: `hapsync apply` makes the server what Consul says"
_NO_AGENT = "no agent runs: `hapsync apply` and the next agent heed it"


def freeze_or_thaw(saved: SavedState, request: FreezeAll | Thaw, now: float) -> tuple[SavedState, Reply]:
    """Return `saved` after `request`, whose `who` is filled in, and the reply; `now` is of the wall clock."""
    before = saved.freeze if is_frozen(saved, now) else None
    was = f"frozen since {_moment(before.at, now)} by {before.who}{_because(before.reason)}" if before else ""
    saved = expired(saved, now)
    if isinstance(request, Thaw):
        thawed = attrs.evolve(saved, freeze=None)
        return thawed, Reply.done(f"thawed; it was {was}" if before else "nothing was frozen")
    until = None if request.for_seconds is None else now + request.for_seconds
    saved = attrs.evolve(saved, freeze=Freeze(now, until, request.who, request.reason))
    if until is None:
        lines = ["frozen: hapsync changes nothing until `hapsync thaw`"]
    else:
        lines = [f"frozen for {duration_words(until - now)}: hapsync changes nothing until {_moment(until, now)}"]
    if before:
        lines.append(f"this takes the place of an earlier freeze: {was}")
    return saved, Reply.done(*lines)


def freeze_once(config: Config, request: FreezeAll | Thaw, who: str) -> Reply:
    """Freeze or thaw where no agent runs; the caller holds the lock.

    Raises OSError when the state file cannot be read or written.
    """
    guard_state = GuardState(config, load_state(config))

    def no_pass(_: Collection[str]) -> Outcome:
        raise NotImplementedError("a freeze makes no pass")

    reply = answer(attrs.evolve(request, who=who), guard_state, config, no_pass)
    return attrs.evolve(reply, lines=(*reply.lines, _NO_AGENT)) if reply.is_ok else reply


def do_once(settings: Settings, request: Request, who: str) -> Reply:
    """Carry out the request of the user `who` where no agent runs; the caller holds the lock.

    Raises RuntimeAPIError when HAProxy does not answer, OSError when the state file cannot be read or written.
    """
    config = settings.config
    reconciler = Reconciler(settings, GuardState(config, load_state(config)))
    guard_state = reconciler.guard_state

    def make_pass(backends: Collection[str]) -> Outcome:
        outcome = reconciler.apply(backends)  # without the catalog: only overrides count
        assert outcome is not None  # noqa: S101  (the request is in the state file by now)
        return outcome

    reply = answer(attrs.evolve(request, who=who), guard_state, config, make_pass)
    guard_state.save()
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


def answer(
    request: Request,
    guard_state: GuardState,
    config: Config,
    make_pass: Callable[[Collection[str]], Outcome],
    why_unknown: Callable[[], Sequence[str]] = tuple,
    ensure_wanted: Callable[[], None] = lambda: None,
) -> Reply:
    """Carry out `request`, whose `who` is filled in, and return the reply.

    `make_pass` makes a pass over some backends, now; `why_unknown` returns the reasons why Consul's state is unknown.
    `ensure_wanted` is called just before the first act; an error it raises ends the request before its beginning.

    Raises RuntimeAPIError when HAProxy does not answer, OSError when the state file cannot be written.
    """
    match request:
        case Thaw(acknowledge=True):
            ensure_wanted()
            saved, lines = guard_state.acknowledge()
            guard_state.remember(saved)
            log.info("acknowledged by %s; %s", request.who, "; ".join(lines))
            return Reply.done(*lines)
        case FreezeAll() | Thaw() | OverrideServer() | ReleaseServer() if (
            guard_state.saved.unread_version is not None
        ):
            return Reply.not_done(f"nothing is done: {stopped_words(Reason.OTHER_VERSION, guard_state.saved)}")
        case FreezeAll() | Thaw():
            saved, reply = freeze_or_thaw(guard_state.saved, request, time.time())
            ensure_wanted()
            guard_state.remember(saved)
            what = "freeze" if isinstance(request, FreezeAll) else "thaw"
            log.info("%s by %s%s; %s", what, request.who, _because(getattr(request, "reason", "")), reply.lines[0])
            return reply
        case Apply(force=force):
            if guard_state.stopped is not None:
                return _told(make_pass(tuple(config.backends)), guard_state, config, why_unknown())
            with guard_state.releasing(config.backends if force else ()):
                outcome = make_pass(tuple(config.backends))
            return _told(outcome, guard_state, config, why_unknown())
        case ReleaseBackend(backend=backend):
            if backend not in config.backends:
                return _no_backend(backend, config)
            if guard_state.stopped is not None:
                return Reply.not_done(f"nothing is released: {stopped_words(guard_state.stopped, guard_state.saved)}")
            log.info("release backend %s by %s", backend, request.who)
            with guard_state.releasing([backend]):
                outcome = make_pass((backend,))
            return _told(outcome, guard_state, config, why_unknown())
        case OverrideServer() | ReleaseServer():
            return _with_server(request, guard_state, config, make_pass, ensure_wanted)


def answer_always(
    request: Request,
    guard_state: GuardState,
    config: Config,
    make_pass: Callable[[Collection[str]], Outcome],
    why_unknown: Callable[[], Sequence[str]],
    ensure_wanted: Callable[[], None],
) -> Reply:
    """Return the reply of `answer`, or the reason for none; raises nothing, for an operator waits for it."""
    try:
        return answer(request, guard_state, config, make_pass, why_unknown, ensure_wanted)
    except Withdrawn as error:
        log.warning("%s: %s", type(request).__name__, error)
        return Reply.not_done(str(error))
    except (HapsyncError, OSError) as error:
        return Reply.cannot_tell(str(error))
    except Exception as error:
        log.exception("a defect of hapsync, please report it; a request was not answered")
        return Reply.cannot_tell(f"a defect of hapsync, please report it: {error!r}")


def _with_server(
    request: OverrideServer | ReleaseServer,
    guard_state: GuardState,
    config: Config,
    make_pass: Callable[[Collection[str]], Outcome],
    ensure_wanted: Callable[[], None],
) -> Reply:
    name = request.backend
    if name not in config.backends:
        return _no_backend(name, config)
    with open_session(config.haproxy.socket, config.haproxy.timeout_seconds) as session:
        have = session.read_backend(name)
    slot = next((one for one in have.slots if request.server in (one.name, str(one.address))), None)
    if slot is None and any(request.server in (one.name, str(one.address)) for one in have.foreign):
        return Reply.wrong(
            f"{name}/{request.server} is foreign: hapsync never touches it; use HAProxy's `set server`"
        )
    now = time.time()
    if slot is None or slot.address in (None, PLACEHOLDER):
        # HAProxy may have started from a file without the server; its override must have an end all the same.
        lost = _hold_on(guard_state.saved, name, request.server) if isinstance(request, ReleaseServer) else None
        if lost is None:
            there = ", ".join(f"{one.name} {one.address}" for one in have.slots if one.address != PLACEHOLDER)
            return Reply.wrong(f"backend {name} has no server {request.server}; it has {there or 'none in use'}")
        hold, what = lost, f"{name} {lost.address} is released"
    else:
        assert slot.address is not None  # noqa: S101
        where = f"{name}/{slot.name} {slot.address}"
        if isinstance(request, OverrideServer):
            until = None if request.for_seconds is None else now + request.for_seconds
            hold = Override(name, slot.address, request.admin, now, until, request.who, request.reason)
            how_long = f"until {_moment(until, now)}" if until else "until released"
            what = f"{where} is in {hold.admin.value} {how_long}"
        else:
            known = guard_state.saved.override_of(name, slot.address)
            if known is None and not slot.is_overridden:
                return Reply.done(f"{where} has no override; there is nothing to release")
            hold = (
                known if known is not None else Override(name, slot.address, slot.admin, now, None, request.who, "")
            )
            what = f"{where} is released"
    if isinstance(request, ReleaseServer):
        hold = attrs.evolve(hold, is_releasing=True)
    ensure_wanted()
    guard_state.remember(with_override(guard_state.saved, hold), asked=hold)
    outcome = make_pass((name,))
    if guard_state.stopped is not None:
        return Reply.not_done(f"kept, but not done now: {stopped_words(guard_state.stopped, guard_state.saved)}")
    refused = [one for one in outcome.refused if one.is_of_change]
    mine = [one for one in refused if getattr(one.change, "address", None) == hold.address]
    if mine:
        return Reply.not_done(*(f"refused {explained(one)}" for one in mine))
    log.info("%s; asked for by %s%s", what, request.who, _because(getattr(request, "reason", "")))
    if isinstance(request, OverrideServer):
        return Reply.done(what, _left(outcome.last.observed.backends[name]))
    return Reply.done(what)


def _left(backend: Backend) -> str:
    count = sum(one.serves for one in (*backend.slots, *backend.foreign))
    if count == 0:
        return f"WARNING: backend {backend.name} has no server left that can serve"
    return f"backend {backend.name} has {plural(count, 'server')} left that can serve"


def _hold_on(saved: SavedState, backend: str, address: str) -> Override | None:
    return next((hold for hold in saved.holds if (hold.backend, str(hold.address)) == (backend, address)), None)


def _told(outcome: Outcome, guard_state: GuardState, config: Config, why_unknown: Sequence[str]) -> Reply:
    """Return a reply in words about the changes that a pass made, and about those left."""
    plan = outcome.last.plan
    emptied = {change.backend for change in outcome.done if takes_out(change)}
    lasts = [outcome.last.observed.backends[name] for name in sorted(emptied)]
    lines = [_left(one) for one in lasts if not any(server.serves for server in (*one.slots, *one.foreign))]
    lines += [" ".join(describe(change).split()) for change in outcome.done]
    lines += [f"refused {explained(one)}" for one in outcome.refused]
    lines += [" ".join(line.split()) for line in str(plan).splitlines()]
    found = judge(config, outcome.last)
    lines += found.worrying
    if guard_state.stopped is not None:
        lines.append(f"nothing is done: {stopped_words(guard_state.stopped, guard_state.saved)}")
    elif plan.shortages:
        lines.append("the agent reloads HAProxy for more slots in a moment")
    is_refused = any(one.is_of_change for one in outcome.refused)
    unknown = (*why_unknown, *unread_lines(outcome.last.observed))
    if unknown and not found.due and not is_refused:
        return Reply.cannot_tell(*lines, *unknown)
    is_in_sync = not (found.due or found.worrying or is_refused)
    lines += unknown
    lines.append("HAProxy is in sync with Consul" if is_in_sync else "HAProxy is not in sync with Consul")
    return Reply.done(*lines) if is_in_sync else Reply.not_done(*lines)


def _no_backend(name: str, config: Config) -> Reply:
    return Reply.wrong(f"no such backend: {name}; there are {', '.join(sorted(config.backends))}")


def _moment(at: float, now: float) -> str:
    """Return a time of the wall clock in words, in local time; with the date where it is not today's."""
    local, today = time.localtime(at), time.localtime(now)
    is_today = (local.tm_year, local.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", local)


def _because(reason: str) -> str:
    return f": {one_line(reason)}" if reason else ""
