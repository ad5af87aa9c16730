"""One pass: read HAProxy, decide, do, read again; the second decision should be to do nothing."""

import time
from collections.abc import Collection, Sequence

import attrs

from hapsync.desired import Desired
from hapsync.diff import Change, Diff, diff, needs_loads
from hapsync.edge.runtime_socket import RuntimeSession, open_session
from hapsync.model import HAProxyProcess, Observed
from hapsync.observed import with_loads
from hapsync.plan import Plan, keep_half, make_plan
from hapsync.runtime import Command, Refusal, address_commands, arrived, is_done, state_commands

ADDRESS_SECONDS = 1.0
"""How long a new address may take to show; HAProxy 2.9 and newer set it from a queue, within milliseconds."""


@attrs.frozen
class Look:
    """One reading and what it asks for."""

    process: HAProxyProcess
    observed: Observed
    plan: Plan


@attrs.frozen
class Outcome:
    """What a pass found first, what came of that, and how it left HAProxy."""

    first: Look
    last: Look
    done: tuple[Change, ...] = ()
    refused: tuple[Refusal, ...] = ()


def look(session: RuntimeSession, desired: Desired, backends: Collection[str]) -> Look:
    """Read `backends` and return what `desired` asks of them.

    States are read first and loads after, only where they decide something, so "idle" is newer than "in maint".

    Raises RuntimeAPIError.
    """
    process, observed = session.read_all(backends)
    observed, found = _decide(session, desired, backends, observed)
    return Look(process, observed, make_plan(found, observed))


def run_pass(socket: str, timeout_seconds: float, desired: Desired, backends: Collection[str]) -> Outcome:
    """Bring `backends` of the HAProxy behind `socket` to what is `desired`, as far as their slots go.

    All of it happens on one connection, so with one worker.

    Raises RuntimeAPIError; whatever was done until then shows in the next reading.
    """
    with open_session(socket, timeout_seconds) as session:
        first = look(session, desired, backends)
        if not first.plan.changes:
            return Outcome(first, first)
        done, refused = _apply(session, first, desired)
        touched = {change.backend for change in first.plan.changes}
        observed, found = _read(session, desired, tuple(name for name in backends if name in touched))
        if len(touched) < len(backends):
            observed = Observed({**first.observed.backends, **observed.backends})
            found = diff(desired.only(backends), observed)
        last = Look(first.process, observed, make_plan(found, observed))
        return Outcome(first, last, tuple(done), tuple(refused))


def _read(session: RuntimeSession, desired: Desired, backends: Collection[str]) -> tuple[Observed, Diff]:
    return _decide(session, desired, backends, session.read_servers(backends))


def _decide(
    session: RuntimeSession, desired: Desired, backends: Collection[str], observed: Observed
) -> tuple[Observed, Diff]:
    wanted = desired.only(backends)
    found = diff(wanted, observed)
    short = needs_loads(found, observed)
    if short:
        observed = with_loads(observed, session.read_loads([observed.backends[name] for name in short]))
        found = diff(wanted, observed)
    return observed, found


def _apply(session: RuntimeSession, seen: Look, desired: Desired) -> tuple[Sequence[Change], Sequence[Refusal]]:
    plan = seen.plan
    incoming, refused = _set_addresses(session, plan.incoming)
    refused += _send(session, state_commands(incoming))
    outgoing: Sequence[Change] = plan.outgoing
    if refused:
        # What should have come in did not; as with a shortage, half of what should serve stays.
        backends = {refusal.change.backend for refusal in refused}
        wanted = {name: desired.backends[name].serving for name in backends}
        outgoing, _ = keep_half(outgoing, seen.observed, wanted, _without(incoming, refused))
    refused += _send(session, state_commands(outgoing))
    return _without((*incoming, *outgoing), refused), refused


def _set_addresses(session: RuntimeSession, incoming: Sequence[Change]) -> tuple[Sequence[Change], list[Refusal]]:
    """Set the addresses of additions and read until they show; return the changes that may go on, and the others."""
    commands = address_commands(incoming)
    if not commands:
        return incoming, []
    backends = sorted({change.backend for change, _ in commands})
    replies, observed = session.ask_and_read([command for _, command in commands], backends)
    refused = _refusals(commands, replies)
    there, missing = arrived(_without(incoming, refused), observed)
    deadline = time.monotonic() + ADDRESS_SECONDS
    while missing and time.monotonic() < deadline:
        time.sleep(0.002)
        there, missing = arrived(_without(incoming, refused), session.read_servers(backends))
    refused += [
        Refusal(change, command, "the address does not show") for change, command in address_commands(missing)
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
    names = {(refusal.change.backend, refusal.change.server) for refusal in refused}
    return [change for change in changes if (change.backend, change.server) not in names]


def check_alive(socket: str, timeout_seconds: float) -> HAProxyProcess:
    """Ask HAProxy the cheapest question that tells a restart or a reload; raises RuntimeAPIError."""
    with open_session(socket, timeout_seconds) as session:
        return session.read_process()
