"""Whole backends added to the running HAProxy and deleted from it (3.4), instead of a reload.

The state file names each unfinished backend from before its first command until after its last one, so a killed
agent's successor goes on with it.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence

import attrs

from hapsync.agent.guard_state import GuardState
from hapsync.config.schema import Config
from hapsync.haproxy.capabilities import HAS_BACKENDS, NEWEST_SCANNED, spelled_out, version_of
from hapsync.haproxy.cfg_diff import Difference, PlainBackend, plain_backends
from hapsync.haproxy.commands import (
    Command,
    closing_commands,
    creation_commands,
    deletion_commands,
    is_done,
    is_gone,
    is_there,
    publish_command,
)
from hapsync.haproxy.show import with_loads
from hapsync.haproxy.socket import RuntimeSession, open_session
from hapsync.model.server import AdminState, Backend, HAProxyProcess, Observed, Server
from hapsync.plan.diff import REST_SECONDS
from hapsync.system.files import read_text_or_none
from hapsync.text import shown

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
"""The pause between two tries to finish a backend: a backend is not deleted while something runs on it."""


def can_have(process: HAProxyProcess | None) -> bool:
    """Return whether the worker `process` adds and deletes whole backends."""
    return process is not None and HAS_BACKENDS <= version_of(process.version) <= NEWEST_SCANNED


class WholeBackends:
    """Adds and deletes plain backends; the state file names the unfinished ones."""

    def __init__(self, guard_state: GuardState) -> None:
        self._guard_state = guard_state
        self._again_at = 0.0

    def make(self, config: Config, wanted: Difference, made_live: Callable[[Difference], None]) -> str | None:
        """Bring the live HAProxy to `wanted`; return None, or the reason why only a reload can do it.

        `made_live` is called once the new backends are added, and makes a pass over them. Each is published after
        this pass, so no request goes to a backend without a server. Backends in `wanted.gone` get no new traffic any
        more; `step` deletes them once nothing is left on them.

        Raises RuntimeAPIError where HAProxy does not answer, OSError where the state file cannot be written.
        """
        if wanted == Difference():
            return None
        with open_session(config.haproxy.socket, config.haproxy.timeout_seconds) as session:
            self._look_whose(config, session.read_process())
            under_way = self._guard_state.saved.under_way
            known = {one.name for one in wanted.new if under_way.get(one.name) == _definition(one)}
            begun = {**under_way, **{one.name: _definition(one) for one in (*wanted.new, *wanted.gone)}}
            self._guard_state.remember(attrs.evolve(self._guard_state.saved, under_way=begun))
            made: list[PlainBackend] = []
            for one in wanted.new:
                is_there, refused = _create(session, one, may_be_there=one.name in known)
                made += [one] if is_there and one.name not in known else []
                if refused is not None:
                    self._undo(session, made, wanted)
                    return refused
            for one in wanted.gone:
                refused = _close(session, session.read_backend(one.name))
                if refused is not None:
                    self._undo(session, made, wanted)
                    return refused
        made_live(wanted)
        _publish(config, [one.name for one in wanted.new])
        return None

    def step(self, config: Config, *, is_settled: bool) -> Sequence[str]:
        """Go on with the unfinished backends, and return the names of the deleted ones.

        `is_settled`: HAProxy and its file agree with `config`. Raises RuntimeAPIError.
        """
        if not self._guard_state.saved.under_way or time.monotonic() < self._again_at:
            return ()
        self._again_at = time.monotonic() + AGAIN_SECONDS
        with open_session(config.haproxy.socket, config.haproxy.timeout_seconds) as session:
            self._look_whose(config, session.read_process())
            under_way = self._guard_state.saved.under_way
            gone = [name for name in under_way if name not in config.backends and _delete(session, name)]
        added = [name for name in under_way if name in config.backends] if is_settled else []
        _publish(config, added)  # published again, for an agent may have been killed before it
        self._forget([*gone, *added])
        return gone

    def leaving(self, config: Config) -> tuple[str, ...]:
        """Return the backends without new traffic, which are deleted once nothing is left on them."""
        return tuple(sorted(name for name in self._guard_state.saved.under_way if name not in config.backends))

    def _look_whose(self, config: Config, process: HAProxyProcess) -> None:
        """Forget the unfinished backends of another worker, except those in the file that `process` was started with.

        A backend of the same name in a new worker may be an operator's own.
        """
        saved = self._guard_state.saved
        if saved.under_way_pid == process.pid:
            return
        there = plain_backends(read_text_or_none(config.haproxy.config) or "") if saved.under_way else ()
        left = {name: one for name, one in saved.under_way.items() if name in there and can_have(process)}
        self._guard_state.saved = attrs.evolve(saved, under_way=left, under_way_pid=process.pid)

    def _undo(self, session: RuntimeSession, new: Collection[PlainBackend], wanted: Difference) -> None:
        """Undo the begun part of a refused change: a reload makes the whole change."""
        for one in new:
            session.ask(deletion_commands(one.name, one.slots))
        session.ask([publish_command(one.name) for one in wanted.gone])
        self._forget([one.name for one in (*wanted.new, *wanted.gone)])

    def _forget(self, names: Collection[str]) -> None:
        saved = self._guard_state.saved
        left = {name: one for name, one in saved.under_way.items() if name not in names}
        if left != saved.under_way:
            self._guard_state.saved = attrs.evolve(saved, under_way=left)
            self._guard_state.save()


def _publish(config: Config, names: Collection[str]) -> None:
    if not names:
        return
    with open_session(config.haproxy.socket, config.haproxy.timeout_seconds) as session:
        session.read_process()
        for line in _refusals(session, [publish_command(name) for name in names], is_gone):
            log.error("%s", line)


def _refusals(session: RuntimeSession, commands: Sequence[Command], is_fine: Callable[[str], bool]) -> Sequence[str]:
    """Send `commands`; return each refusal in words, but for replies that mean success here (`is_fine`)."""
    return [
        f"{command.line}: {shown(reply.strip())}"
        for command, reply in zip(commands, session.ask(commands), strict=True)
        if not is_done(command, reply) and not is_fine(reply)
    ]


def _definition(one: PlainBackend) -> str:
    return f"{one.defaults} {one.options}"


def _create(session: RuntimeSession, one: PlainBackend, *, may_be_there: bool) -> tuple[bool, str | None]:
    """Add a backend; return whether it is in HAProxy as hapsync's own, and HAProxy's refusal.

    No server is added to a backend that was in HAProxy before, unless `may_be_there`: it could be an operator's own.
    """
    options = " ".join((one.options, *spelled_out(HAS_BACKENDS, one.options)))
    first, *others = creation_commands(one.name, one.defaults, one.slots, options)
    for commands in ([first], others):
        refused = _refusals(session, commands, lambda reply: may_be_there and is_there(reply))
        if refused:
            return commands is others, refused[0]
    return True, None


def _close(session: RuntimeSession, have: Backend) -> str | None:
    commands = closing_commands(have.name, [slot.name for slot in have.slots if slot.admin is not AdminState.MAINT])
    return next(iter(_refusals(session, commands, is_gone)), None)


def _delete(session: RuntimeSession, name: str) -> bool:
    """Delete the backend `name` if nothing is left on it; return whether it is gone."""
    _close(session, session.read_backend(name))
    have = session.read_backend(name)
    if have.exists:  # HAProxy has no counters for a backend without a server
        have = with_loads(Observed({name: have}), session.read_stats((have,)).loads).backends[name]
    if have.foreign or not all(_is_at_rest(slot) for slot in have.slots):
        return False
    replies = session.ask(deletion_commands(name, [slot.name for slot in have.slots]))
    return is_gone(replies[-1])


def _is_at_rest(slot: Server) -> bool:
    if slot.is_free:
        return True  # no request was ever sent to a free slot
    is_out = slot.admin is AdminState.MAINT and slot.since_seconds >= REST_SECONDS
    return is_out and slot.load is not None and slot.load.is_zero
