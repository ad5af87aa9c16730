"""Changes in, Runtime API commands out; and what a reply to one means.

A change is made in two steps, for `set server ... addr` is only queued by HAProxy 2.9 and newer (measured: a reading
right after it shows the old address 297 to 300 times of 300): first every new address, read back; then weights and
states. Only values that passed a whitelist can be in a command at all.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import attrs

from hapsync.diff import Add, Change, Disable, Drain, Enable, Remove, Reweigh
from hapsync.model import AdminState, Observed, Server
from hapsync.text import shown

_NAME = re.compile(r"[A-Za-z0-9_:.-]{1,128}")
_LINE = re.compile(r"[A-Za-z0-9_:./ -]+")
MAX_LINE_LENGTH = 1024
"""Far under HAProxy's 16 KB buffer; on 2.6 a line over it costs one of ten CLI places for good (measured)."""


@attrs.frozen
class Command:
    """One line for the Runtime API, made only of letters, digits, blanks and `_ : . / -`."""

    line: str = attrs.field()

    @line.validator
    def _is_plain(self, _attribute: object, line: str) -> None:
        if not _LINE.fullmatch(line) or len(line) > MAX_LINE_LENGTH:
            raise ValueError(f"not a line for the Runtime API: {line!r}")


@attrs.frozen
class Refusal:
    """A command that HAProxy did not carry out, and its own words."""

    change: Change
    command: Command
    reply: str


SHOW_INFO = Command("show info")
SHOW_SERVERS_STATE = Command("show servers state")
SHOW_STAT_SERVERS = Command("show stat -1 4 -1")


def show_servers_state(backend: str) -> Command:
    """Return the question for the servers of one backend."""
    return Command(f"show servers state {_checked(backend)}")


def show_stat_servers(proxy_id: int) -> Command:
    """Return the question for the counters of one backend's servers (type 4).

    By number: a name means the first proxy that bears it, which may be a frontend, and that has no server (2.6).
    """
    return Command(f"show stat {proxy_id} 4 -1")


def address_commands(changes: Iterable[Change]) -> Sequence[tuple[Change, Command]]:
    """Return the first step of `changes`: address and port of each addition, always in one command."""
    return [
        (
            change,
            Command(f"set server {_where(change)} addr {change.address.host} port {change.address.port}"),
        )
        for change in changes
        if isinstance(change, Add)
    ]


def state_commands(changes: Iterable[Change]) -> Sequence[tuple[Change, Command]]:
    """Return the second step of `changes`: weights and states."""
    return [(change, Command(line)) for change in changes for line in _state_lines(change)]


def _state_lines(change: Change) -> tuple[str, ...]:
    server = f"set server {_where(change)}"
    match change:
        case Add(weight=weight) | Enable(weight=weight):
            return f"{server} weight {weight}", f"{server} state ready"
        case Reweigh(weight=weight):
            return (f"{server} weight {weight}",)
        case Drain():
            return (f"{server} state drain",)
        case Disable() | Remove():
            return (f"{server} state maint",)


def arrived(changes: Iterable[Change], observed: Observed) -> tuple[Sequence[Change], Sequence[Change]]:
    """Split additions into those whose address `observed` shows, and those not to be made ready."""
    shown = {
        (backend.name, slot.name): slot.address
        for backend in observed.backends.values()
        for slot in backend.slots
        if slot.admin is AdminState.MAINT
    }
    there: list[Change] = []
    missing: list[Change] = []
    for change in changes:
        is_there = not isinstance(change, Add) or shown.get((change.backend, change.server)) == change.address
        (there if is_there else missing).append(change)
    return there, missing


def is_done(command: Command, reply: str) -> bool:
    """Return whether `reply` says that `command` was carried out.

    Silence is success, but for `addr`, which says what it changed (or that nothing had to). Whatever else HAProxy
    says is a refusal: its severities do not tell (an address set and one refused are both level 4).
    """
    text = reply.strip()
    if " addr " not in command.line:
        return text == ""
    return any(words in text for words in _ADDRESS_SET)


def explained(refusal: Refusal) -> str:
    """Return one line about `refusal`, with what to do where that is known."""
    hint = "; the `stats socket` needs `level admin`" if "Permission denied" in refusal.reply else ""
    return f"{refusal.command.line}: {shown(refusal.reply)}{hint}"


_ADDRESS_SET = (
    "IP changed from",
    "port changed from",
    "no need to change the addr, no need to change the port",  # up to 2.8
    "nothing changed",  # 2.9 and newer
)


def drain_commands(backend: str, servers: Iterable[Server]) -> Sequence[Command]:
    """Return what sets the drained `servers` of a backend to drain on a new worker, where they start in maint."""
    return [
        Command(f"set server {_checked(backend)}/{_checked(server.name)} state drain")
        for server in servers
        if server.admin is AdminState.DRAIN
    ]


def _where(change: Change) -> str:
    return f"{_checked(change.backend)}/{_checked(change.server)}"


@lru_cache(maxsize=65536)
def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name for the Runtime API: {name!r}")
    return name
