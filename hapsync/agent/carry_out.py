"""Sends the commands of a plan in order, and collects HAProxy's refusals."""

import time
from collections.abc import Callable, Sequence

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
from hapsync.haproxy.show import is_learning
from hapsync.haproxy.socket import RuntimeSession
from hapsync.model.changes import Add, Change, Defect
from hapsync.model.server import AGENT_IS_ASKED
from hapsync.plan.assessment import Assessment
from hapsync.plan.judge import broken_by_commands
from hapsync.plan.plan import keep_half

ADDRESS_SECONDS = 1.0
"""The longest wait until a new address shows; HAProxy 2.9 and newer set it from a queue, within milliseconds."""

AGENT_SECONDS = 1.0
"""The longest wait for an agent check that was under way when hapsync switched agent checks off."""

LESSON_WAIT_SECONDS = 5.0
"""The longest wait until a new worker has learnt its stick tables from its peers: enough for some million entries."""


def carry_out(
    session: RuntimeSession, seen: Assessment, before: Callable[[], None]
) -> tuple[Sequence[Change], Sequence[Refusal], Sequence[Defect]]:
    """Carry out the plan of `seen`; return the changes made, HAProxy's refusals, and defects of unsent commands.

    `before` is called just before the first command that changes anything; an error it raises ends the pass.

    Raises RuntimeAPIError.
    """
    plan, desired, gate = seen.plan, seen.desired, _Gate(session)
    if any(isinstance(change, Add) and change.forgets for change in plan.incoming):
        _wait_for_lessons(session, seen.process.uptime_seconds)
    before()
    agents = agents_in(seen.observed)
    incoming, refused = _set_addresses(gate, plan.incoming, agents)
    refused += gate.send(state_commands(incoming, agents))
    # A static algorithm refuses all weights but 0 and the file's weight; the file's weight is better than 0.
    session.ask(full_weight_commands(refused))
    outgoing: Sequence[Change] = plan.outgoing
    if kept_out := [refusal for refusal in refused if refusal.is_of_change]:
        # Some newcomers were refused: as with a shortage, half of the servers that should serve stay.
        backends = {refusal.change.backend for refusal in kept_out} & set(desired.backends)
        wanted = {name: desired.backends[name].serving for name in backends}
        outgoing, _ = keep_half(outgoing, seen.observed, wanted, _without(incoming, refused))
    _quiet(session, gate.sound(quiet_commands(gate.passed(outgoing), agents)))
    refused += gate.send(state_commands(gate.passed(outgoing), agents))
    return _without(gate.passed((*incoming, *outgoing)), refused), refused, gate.defects


class _Gate:
    """Sends commands, and sends nothing more for a backend once one of its commands would break a promise."""

    def __init__(self, session: RuntimeSession) -> None:
        self.session = session
        self.defects: list[Defect] = []

    def passed(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Return `changes` without those of backends with a defect."""
        names = {one.backend for one in self.defects}
        return [change for change in changes if change.backend not in names] if names else changes

    def sound(self, commands: Sequence[tuple[Change, Command]]) -> Sequence[tuple[Change, Command]]:
        """Check `commands` against the promises, and return those of backends without a defect."""
        self.defects += broken_by_commands([(change, command.line) for change, command in commands])
        names = {one.backend for one in self.defects}
        return [one for one in commands if one[0].backend not in names] if names else commands

    def send(self, commands: Sequence[tuple[Change, Command]]) -> list[Refusal]:
        """Send those of `commands` without a defect in their backend; return HAProxy's refusals."""
        commands = self.sound(commands)
        return _refusals(commands, self.session.ask([command for _, command in commands])) if commands else []


def _quiet(session: RuntimeSession, commands: Sequence[tuple[Change, Command]]) -> None:
    """Switch agent checks off, and wait for the answers of those under way, which would still count."""
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
    """Wait until the worker has learnt its stick tables: an entry learnt after a clear leads to the slot again.

    Measured with `peers`: of 3,000 entries (2.6) and of 60,000 (3.0, 3.2, 3.4), a part, up to most of them, came from
    the old worker after the new one had answered and cleared them.

    Between clear and ready nothing else brings the slot's id back: a request stores the id of its server when the
    server answers. A request on another server during the clear stored the other server's id (2.6, 3.0, measured). A
    request on the slot itself did store the slot's id, but the request shows in the slot's sessions, and the slot is
    then not free.
    """
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < LESSON_WAIT_SECONDS:
        (peers,) = session.ask((SHOW_PEERS,))
        if not is_learning(peers, int(uptime_seconds + seconds)):
            return
        time.sleep(0.02)


def _set_addresses(gate: _Gate, incoming: Sequence[Change], agents: Agents) -> tuple[Sequence[Change], list[Refusal]]:
    """Set addresses of additions, and read until each shows; return the changes to go on with, and the refusals."""
    session, commands = gate.session, gate.sound(address_commands(incoming, agents))
    incoming = gate.passed(incoming)
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


def _refusals(commands: Sequence[tuple[Change, Command]], replies: Sequence[str]) -> list[Refusal]:
    return [
        Refusal(change, command, reply.strip())
        for (change, command), reply in zip(commands, replies, strict=True)
        if not is_done(command, reply)
    ]


def _without(changes: Sequence[Change], refused: Sequence[Refusal]) -> Sequence[Change]:
    names = {(refusal.change.backend, refusal.change.server) for refusal in refused if refusal.is_of_change}
    return [change for change in changes if (change.backend, change.server) not in names]
