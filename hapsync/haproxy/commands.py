"""Changes in, Runtime API commands out; and what a reply to one means.

A change is made in two steps, for `set server ... addr` is only queued by HAProxy 2.9 and newer (measured: a reading
right after it shows the old address 297 to 300 times of 300): first every new address, read back; then weights and
states. Only values that passed a whitelist can be in a command at all.

The order within a change makes every half of it hapsync's own: a server in maint or drain with a weight above 0 is an
operator's. So the weight falls to 0 before a server leaves or gets an address, and rises after it is ready.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

import attrs

from hapsync.model.changes import (
    Add,
    Change,
    ClearOverride,
    Create,
    Delete,
    Disable,
    Drain,
    Enable,
    EndSessions,
    Entry,
    Remove,
    Reweigh,
    SetAgent,
    SetOverride,
)
from hapsync.model.server import HAPROXY_NAME, PLACEHOLDER, AdminState, Observed, Server, dynamic_id, free_weight
from hapsync.text import shown

OPTION_SIGNS = "A-Za-z0-9_:./ ,=%()@+*-"
"""Signs allowed in `server_options` where they are nothing that begins another command or a payload."""
_LINE = re.compile(
    r"[A-Za-z0-9_:./ -]+(?: weight 100%)?"
    rf"|add server [A-Za-z0-9_:.-]+/[A-Za-z0-9_:.-]+ [0-9A-Fa-f:.\[\]]+(?: id [0-9]+)? weight [01][{OPTION_SIGNS}]*"
)
MAX_LINE_LENGTH = 1024
"""Far under HAProxy's 16 KB buffer; on 2.6 a line over it costs one of ten CLI places for good (measured)."""


@attrs.frozen
class Command:
    """One line for the Runtime API, made only of letters, digits, blanks and `_ : . / -`.

    But for `weight 100%`, and for what `add server` says of the server: the operator's own `server_options`.
    """

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

    @property
    def is_of_change(self) -> bool:
        """Whether the change was not made. A table that could not be cleared is told, and keeps no instance out."""
        return not self.command.line.startswith("clear table ")


SHOW_INFO = Command("show info")
SHOW_SERVERS_STATE = Command("show servers state")
SHOW_STAT_SERVERS = Command("show stat -1 4 -1")
SHOW_PEERS = Command("show peers")
SHOW_FILES = Command("show env HAPROXY_CFGFILES")
"""The files that HAProxy was started with (configuration manual, section 2.4; management manual, `show env`)."""


def show_servers_state(backend: str) -> Command:
    """Return the question for the servers of one backend."""
    return Command(f"show servers state {_checked(backend)}")


def show_stat_servers(proxy_id: int) -> Command:
    """Return the question for the counters of one backend's servers (type 4).

    By number: a name means the first proxy that bears it, which may be a frontend, and that has no server (2.6).
    """
    return Command(f"show stat {proxy_id} 4 -1")


Agents = Collection[tuple[str, str]]
"""The servers that have an agent check, by backend and name."""


def agents_in(observed: Observed) -> Agents:
    """Return the servers of ours that have an agent check, switched on or not."""
    return frozenset(
        (backend.name, slot.name)
        for backend in observed.backends.values()
        for slot in backend.slots
        if slot.has_agent
    )


def address_commands(changes: Iterable[Change], agents: Agents = ()) -> Sequence[tuple[Change, Command]]:
    """Return the first step of `changes`: address and port of each addition, always in one command.

    Stick table entries of the slot's last instance are cleared before it: once the address is set the slot no longer
    shows that it was given away, so who is killed in between would leave it there for good.

    A dynamic server is added in maint, its health check off (management manual, `add server`), so that is switched
    on; with weight 0, for a server in maint with more is a person's. One with an agent check is added with its
    weight, which then is 0 at once: an agent's weights are parts of the one it was added with.
    """
    return [(change, Command(line)) for change in changes for line in _address_lines(change, agents)]


def _address_lines(change: Change, agents: Agents) -> tuple[str, ...]:
    server = f"set server {_where(change)}"
    match change:
        case Add(address=address):
            quiet = (f"disable agent {_where(change)}",) if _has_agent(change, agents) else ()
            forgets = (_forget(table, number) for table, number in change.forgets)
            return *quiet, *forgets, f"{server} weight 0", f"{server} addr {address.host} port {address.port}"
        case Create(server=name, address=address, options=options):
            words = options.split()
            weight = change.weight if "agent-check" in words else 0
            added = " ".join(
                ("add server", _where(change), f"{address} id {dynamic_id(name)} weight {weight}", *words)
            )
            return added, *((f"{server} weight 0",) if weight else ()), *_check_lines(_where(change), options)
        case _:
            return ()


def _check_lines(server: str, options: str) -> tuple[str, ...]:
    """Return what lets the checks of an added server run; they begin switched off."""
    return (f"enable health {server}",) if "check" in options.split() else ()


def _has_agent(change: Change, agents: Agents) -> bool:
    return (change.backend, change.server) in agents or "agent-check" in getattr(change, "options", "").split()


def quiet_commands(changes: Iterable[Change], agents: Agents) -> Sequence[tuple[Change, Command]]:
    """Return the commands that switch off the agent checks of the servers that leave by `changes`.

    Before anything else is done to them: an agent lifts a server out of maint with `ready`, and gives it a weight.
    """
    return [
        (change, Command(f"disable agent {_where(change)}"))
        for change in changes
        if isinstance(change, Drain | Disable | Remove | SetOverride) and _has_agent(change, agents)
    ]


def state_commands(changes: Iterable[Change], agents: Agents = ()) -> Sequence[tuple[Change, Command]]:
    """Return the second step of `changes`: weights and states; last what lets an agent speak of who came in."""
    return [
        (change, Command(line))
        for change in changes
        for line in (
            *_state_lines(change),
            *(
                (f"enable agent {_where(change)}",)
                if isinstance(change, Entry) and _has_agent(change, agents)
                else ()
            ),
        )
    ]


def full_weight_commands(refused: Iterable[Refusal]) -> Sequence[Command]:
    """Return what gives the servers that entered, and whose weight was refused, the weight of the file.

    HAProxy's words on 2.6 to 3.4: "Backend is using a static LB algorithm and only accepts weights '0%' and '100%'."
    """
    return [
        Command(f"set server {_where(one.change)} weight 100%")
        for one in refused
        if isinstance(one.change, Entry) and "static LB algorithm" in one.reply
    ]


def _state_lines(change: Change) -> tuple[str, ...]:
    server = f"set server {_where(change)}"
    match change:
        case Add(weight=weight) | Create(weight=weight) | Enable(weight=weight):
            # From drain a server that is told to be down stays so until `rise` checks have passed (2.2 to 3.4);
            # straight from maint it would be up at once.
            first = (f"{server} state drain", f"{server} health down") if change.is_checked else ()
            if isinstance(change, Enable):
                first = (*_check_lines(_where(change), change.options), *first)
            return *first, f"{server} state ready", f"{server} weight {weight}"
        case Reweigh(weight=weight):
            return (f"{server} weight {weight}",)
        case Drain():
            return f"{server} weight 0", f"{server} state drain"
        case Disable() | Remove():
            return f"{server} weight 0", f"{server} state maint"
        case SetOverride(admin=admin, weight=weight):
            return f"{server} state {admin.value}", f"{server} weight {weight}"
        case ClearOverride():
            return (f"{server} weight 0",)
        case SetAgent(runs=runs):
            return (f"{'enable' if runs else 'disable'} agent {_where(change)}",)
        case EndSessions():
            return (f"shutdown sessions server {_where(change)}",)
        case Delete(waits=waits):
            # The wait is for nothing in general, for only an idle server is deleted. It may not fail for long.
            wait = (f"wait 1s srv-removable {_where(change)}",) if waits else ()
            return *wait, f"del server {_where(change)}"


def _forget(table: str, number: int) -> str:
    """Return what clears the entries of a stick table that lead to the server with this id.

    By its key alone an entry would not be found again, but HAProxy falls back to the id (2.6, 3.0: src/stick_table.c
    and measured), and so clients of an instance that is gone would all come to the one that takes its slot.
    """
    if not re.fullmatch(r"[A-Za-z0-9_:./-]{1,256}", table):
        raise ValueError(f"not a table's name for the Runtime API: {table!r}")
    return f"clear table {table} data.server_id eq {number}"


def creation_commands(backend: str, defaults: str, slots: Iterable[str], options: str) -> Sequence[Command]:
    """Return what adds a whole `backend` like `defaults`, not yet published, with free `slots` (3.4).

    They are what a worker started with the file would have: in maint, at the placeholder, their checks ready to run.
    """
    lines = [f"add backend {_checked(backend)} from {_checked(defaults)}"]
    for slot in slots:
        where = f"{_checked(backend)}/{_checked(slot)}"
        lines.append(
            " ".join(("add server", where, f"{PLACEHOLDER} weight {free_weight(options)}", *options.split()))
        )
        lines += _check_lines(where, options)
    return [Command(line) for line in lines]


def publish_command(backend: str) -> Command:
    """Return what lets rules that work out a backend's name find `backend` (3.4)."""
    return Command(f"publish backend {_checked(backend)}")


def closing_commands(backend: str, servers: Iterable[str]) -> Sequence[Command]:
    """Return what gives a whole `backend` and its `servers` no new traffic, without an end to what runs (3.4)."""
    return [Command(f"unpublish backend {_checked(backend)}")] + [
        Command(f"set server {_checked(backend)}/{_checked(server)} {what}")
        for server in servers
        for what in ("weight 0", "state maint")
    ]


def deletion_commands(backend: str, servers: Iterable[str]) -> Sequence[Command]:
    """Return what deletes a closed `backend` and all of its `servers`, as far as nothing is left on them (3.4)."""
    return [
        *(Command(f"del server {_checked(backend)}/{_checked(server)}") for server in servers),
        Command(f"del backend {_checked(backend)}"),
    ]


def is_gone(reply: str) -> bool:
    """Return whether `reply`, to a command that adds a backend or a server, means a taken name."""
    return any(line in ("Backend deleted.", "No such backend.") for line in reply.strip().split("\n"))


def is_there(reply: str) -> bool:
    """Return whether `reply`, to a command that adds a backend or a server, means a taken name."""
    return "name is already used by other proxy 'backend " in reply or "Already exists a server" in reply


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
        is_there = (
            not isinstance(change, Add | Create) or shown.get((change.backend, change.server)) == change.address
        )
        (there if is_there else missing).append(change)
    return there, missing


def is_done(command: Command, reply: str) -> bool:
    """Return whether `reply` says that `command` was carried out.

    Silence is success, but for `addr`, which says what it changed (or that nothing had to), and for `add` and `del`,
    whose reply may hold lines about other servers, too. Whatever else HAProxy says is a refusal: its severities do
    not tell (an address set and one refused are both level 4).
    """
    text = reply.strip()
    match command.line.split(" ", 2)[0]:
        case "wait":
            return True  # what is not removable then is refused by `del server`, with the reason
        case "clear":
            return text == "" or any(words in text for words in _NOTHING_TO_FORGET)
        case "enable":
            return text == "" or _NO_CHECK in text  # it was added before `server_options` had one
        case "add":
            return not _ADDED.isdisjoint(text.split("\n"))
        case "del":
            return not _DELETED.isdisjoint(text.split("\n"))
        case "publish" | "unpublish":
            return text in ("Backend published.", "Backend unpublished.")
        case _ if " addr " in command.line:
            return any(words in text for words in _ADDRESS_SET)
        case _:
            return text == ""


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


_NOTHING_TO_FORGET = ("No such table", "Data type not stored in this table")
"""The reply for a missing table, or one without a `stick` line (2.6 to 3.4, measured)."""
_NO_CHECK = "not configured on this server"
_ADDED = frozenset({"New server registered.", "New backend registered."})
_DELETED = frozenset({"Server deleted.", "Backend deleted."})


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
    if not HAPROXY_NAME.fullmatch(name):
        raise ValueError(f"not a name for the Runtime API: {name!r}")
    return name
