"""One pass: read HAProxy, decide, do, read again; the last decision should be to do nothing."""

import time
from collections.abc import Callable, Collection, Sequence

import attrs

from hapsync.haproxy.commands import (
    SHOW_PEERS,
    Agents,
    Command,
    Refusal,
    address_commands,
    agents_in,
    arrived,
    full_weight_commands,
    is_done,
    quiet_commands,
    state_commands,
)
from hapsync.haproxy.probe import Probe
from hapsync.haproxy.show import is_learning, with_first_checks, with_loads
from hapsync.haproxy.socket import RuntimeSession, open_session
from hapsync.haproxy.uncounted import with_all_loads
from hapsync.model.changes import Add, Change, Delete, Entry, Reason
from hapsync.model.server import AGENT_IS_ASKED, HAProxyProcess, Observed
from hapsync.plan.desired import Desired
from hapsync.plan.diff import Diff, diff, needs_loads, needs_sessions
from hapsync.plan.guard import Cautions, guard, needs_first_checks, unread_first_checks
from hapsync.plan.plan import Plan, keep_half, make_plan

ADDRESS_SECONDS = 1.0
"""How long a new address may take to show; HAProxy 2.9 and newer set it from a queue, within milliseconds."""

AGENT_SECONDS = 1.0
"""How long the answer of an agent is waited for that was asked already when its check was switched off."""

LESSON_WAIT_SECONDS = 5.0
"""How long newcomers to slots with stick entries wait for a new worker to learn them: some million entries."""


@attrs.frozen
class Assessment:
    """One reading and what it asks for."""

    process: HAProxyProcess
    observed: Observed
    plan: Plan


@attrs.frozen
class Outcome:
    """What a pass found first, what it did, and how it left HAProxy.

    Where it let anybody in, `done` may hold deletions that `first` does not: they were looked for afterwards.
    """

    first: Assessment
    last: Assessment
    done: tuple[Change, ...] = ()
    refused: tuple[Refusal, ...] = ()


@attrs.frozen
class Rules:
    """What a pass has to heed besides the two snapshots: what the guard knows, and whether anything may be done.

    `stopped` is None, or why nothing may be. `reads_proofs`: also read whether newcomers' first checks have passed
    where nothing depends on it yet, to know the capacity there is.
    """

    cautions: Cautions = attrs.field(factory=dict)
    stopped: Reason | None = None
    reads_first_checks: bool = False


def look(
    session: RuntimeSession, desired: Desired, backends: Collection[str], rules: Rules, probe: Probe | None = None
) -> Assessment:
    """Read `backends` and return what `desired` asks of them; without `probe` they are given slots only.

    States are read first and loads after, only where they decide something, so "idle" is newer than "in maint".

    Raises RuntimeAPIError.
    """
    process, observed = session.read_all(backends)
    return _look(session, process, desired, backends, observed, rules, probe)


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
    """Bring `backends` of the HAProxy behind `socket` to what is `desired`, as far as their means and the guard go.

    All of it happens on one connection, so with one worker. `before_leaving` is called with the reading before any
    server leaves. `probe` finds out which backends take dynamic servers; without it they have slots only.
    `before_acting` is called just before the first command that changes anything; what it raises ends the pass.

    Raises RuntimeAPIError; whatever was done until then shows in the next reading.
    """
    with open_session(socket, timeout_seconds) as session:
        process, observed = session.read_all(backends)

        def look_at(observed: Observed, *, entries_first: bool = False) -> Assessment:
            return _look(session, process, desired, backends, observed, rules, probe, entries_first=entries_first)

        def carry_out(plan: Plan, observed: Observed, before: Callable[[], None]) -> Outcome:
            """Do what is planned for `observed`, and read the backends it is about again."""
            seen = Assessment(process, observed, plan)
            if not plan.changes:
                return Outcome(seen, seen)
            if plan.outgoing:
                before_leaving(observed)
            done, refused = _apply(session, seen, desired, before)
            if probe is not None:
                probe.note(refused)
            touched = {change.backend for change in plan.changes}
            again = session.read_servers(tuple(name for name in backends if name in touched))
            left = look_at(observed.updated(again))
            return Outcome(seen, left, tuple(done), tuple(refused))

        first = look_at(observed, entries_first=True)
        lets_in = any(isinstance(change, Entry) for change in first.plan.changes)
        if not lets_in and first.plan.deferred and needs_loads(Diff(), desired, first.observed):
            first = look_at(first.observed)  # nobody comes in after all, so what can be deleted is read now
        outcome = carry_out(first.plan, first.observed, before_acting)
        left = outcome.last
        deletions = tuple(change for change in left.plan.changes if isinstance(change, Delete))
        if not lets_in or not deletions:
            return outcome
        rest = carry_out(Plan(outgoing=deletions), left.observed, lambda: None)  # what was begun is ended
        return Outcome(first, rest.last, (*outcome.done, *rest.done), (*outcome.refused, *rest.refused))


def _look(
    session: RuntimeSession,
    process: HAProxyProcess,
    desired: Desired,
    backends: Collection[str],
    observed: Observed,
    rules: Rules,
    probe: Probe | None,
    *,
    entries_first: bool = False,
) -> Assessment:
    if probe is not None:
        observed = probe.attach(session, process, observed)
    observed, found = decide(
        session,
        process,
        desired.only(backends),
        observed,
        rules.cautions,
        reads_first_checks=rules.reads_first_checks,
        entries_first=entries_first,
    )
    plan = make_plan(found, observed)
    return Assessment(process, observed, plan.stopped(rules.stopped) if rules.stopped else plan)


def decide(
    session: RuntimeSession,
    process: HAProxyProcess,
    wanted: Desired,
    observed: Observed,
    cautions: Cautions,
    *,
    reads_first_checks: bool = False,
    entries_first: bool = False,
) -> tuple[Observed, Diff]:
    """Return what differs and may be changed, and the reading with what had to be read to know it.

    `entries_first`: what can be deleted is not read while anything is to come in; the next look is to do it.

    Raises RuntimeAPIError.
    """
    found = diff(wanted, observed)
    short = needs_loads(found, wanted, observed, entries_first=entries_first)
    if reads_first_checks:
        short = (*short, *needs_sessions(wanted, observed))
    unchecked = unread_first_checks(observed) if reads_first_checks else needs_first_checks(found, observed, cautions)
    if short or unchecked:
        loads, first_checks, unread = session.read_stats([observed.backends[name] for name in {*short, *unchecked}])
        if short:
            observed = with_all_loads(with_loads(observed, loads), process, session.path, wanted)
        observed = with_first_checks(observed, first_checks)
        observed = attrs.evolve(observed, unread={**observed.unread, **unread}) if unread else observed
        found = diff(wanted, observed)
    return observed, guard(found, observed, wanted, cautions)


def _apply(
    session: RuntimeSession, seen: Assessment, desired: Desired, before: Callable[[], None]
) -> tuple[Sequence[Change], Sequence[Refusal]]:
    plan = seen.plan
    if any(isinstance(change, Add) and change.forgets for change in plan.incoming):
        _wait_for_lessons(session, seen.process.uptime_seconds)
    before()
    agents = agents_in(seen.observed)
    incoming, refused = _set_addresses(session, plan.incoming, agents)
    refused += _send(session, state_commands(incoming, agents))
    # A static algorithm refuses all weights but 0 and the one in the file; better that one than none.
    session.ask(full_weight_commands(refused))
    outgoing: Sequence[Change] = plan.outgoing
    if kept_out := [refusal for refusal in refused if refusal.is_of_change]:
        # What should have come in did not; as with a shortage, half of what should serve stays.
        backends = {refusal.change.backend for refusal in kept_out} & set(desired.backends)
        wanted = {name: desired.backends[name].serving for name in backends}
        outgoing, _ = keep_half(outgoing, seen.observed, wanted, _without(incoming, refused))
    _quiet(session, quiet_commands(outgoing, agents))
    refused += _send(session, state_commands(outgoing, agents))
    return _without((*incoming, *outgoing), refused), refused


def _quiet(session: RuntimeSession, commands: Sequence[tuple[Change, Command]]) -> None:
    """Switch agent checks off, and wait until no answer of theirs is awaited any more: it would still count."""
    if not commands:
        return
    servers = {(change.backend, change.server) for change, _ in commands}
    _, observed = session.ask_and_read([command for _, command in commands], servers)
    deadline = time.monotonic() + AGENT_SECONDS
    while time.monotonic() < deadline and any(
        slot.agent & AGENT_IS_ASKED for backend in observed.backends.values() for slot in backend.slots
    ):
        time.sleep(0.01)
        _, observed = session.ask_and_read((), servers)


def _wait_for_lessons(session: RuntimeSession, uptime_seconds: int) -> None:
    """Wait until the worker has learnt its stick tables: what it is taught after a clear leads to the slot again.

    Measured with `peers`: of 3,000 entries (2.6) and of 60,000 (3.0, 3.2, 3.4) a part, up to most of them, came from
    the old worker after the new one had answered and cleared them.

    Between clear and ready nothing else brings the slot's id back: a request stores the id of the server that answers
    it, when it answers. One that ran on another server during the clear stored that server's (2.6, 3.0, measured);
    one that ran on the slot itself did store the slot's, but shows in its sessions, and the slot is then not free.
    """
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < LESSON_WAIT_SECONDS:
        (peers,) = session.ask((SHOW_PEERS,))
        if not is_learning(peers, int(uptime_seconds + seconds)):
            return
        time.sleep(0.02)


def _set_addresses(
    session: RuntimeSession, incoming: Sequence[Change], agents: Agents
) -> tuple[Sequence[Change], list[Refusal]]:
    """Set the addresses of additions and read until they show; return the changes that may go on, and the others."""
    commands = address_commands(incoming, agents)
    if not commands:
        return incoming, []
    servers = {(change.backend, change.server) for change, _ in commands}
    replies, observed = session.ask_and_read([command for _, command in commands], servers)
    refused = _refusals(commands, replies)
    there, missing = arrived(_without(incoming, refused), observed)
    deadline = time.monotonic() + ADDRESS_SECONDS
    while missing and time.monotonic() < deadline:
        time.sleep(0.002)
        _, observed = session.ask_and_read((), servers)
        there, missing = arrived(_without(incoming, refused), observed)
    refused += [
        Refusal(change, command, "the address does not show")
        for change, command in address_commands(missing)
        if not is_done(command, "")
    ]
    return there, refused


def _send(session: RuntimeSession, commands: Sequence[tuple[Change, Command]]) -> list[Refusal]:
    if not commands:
        return []
    return _refusals(commands, session.ask([command for _, command in commands]))


def _refusals(commands: Sequence[tuple[Change, Command]], replies: Sequence[str]) -> list[Refusal]:
    return [
        Refusal(change, command, reply.strip())
        for (change, command), reply in zip(commands, replies, strict=True)
        if not is_done(command, reply)
    ]


def _without(changes: Sequence[Change], refused: Sequence[Refusal]) -> Sequence[Change]:
    names = {(refusal.change.backend, refusal.change.server) for refusal in refused if refusal.is_of_change}
    return [change for change in changes if (change.backend, change.server) not in names]


def read_backends(socket: str, timeout_seconds: float, backends: Collection[str]) -> Observed:
    """Return the servers of `backends`; nothing where there are none to read, and then nobody is asked.

    Raises RuntimeAPIError.
    """
    if not backends:
        return Observed({})
    with open_session(socket, timeout_seconds) as session:
        session.read_process()
        return session.read_servers(tuple(backends))


def check_alive(socket: str, timeout_seconds: float) -> HAProxyProcess:
    """Ask HAProxy the cheapest question that tells a restart or a reload; raises RuntimeAPIError."""
    with open_session(socket, timeout_seconds) as session:
        return session.read_process()
