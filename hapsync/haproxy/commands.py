"""Changes in, Runtime API commands out; and the meaning of their replies.

A change takes two steps, because HAProxy 2.9 and newer only queues `set server ... addr` (measured: a reading right
after it shows the old address 297 to 300 times of 300). The first step sets every new address, which is then read
back; the second step sets weights and states. Only whitelisted values can be in a command.

A server in maint or drain with a weight above 0 is an operator's. So the weight falls to 0 before a server leaves or
gets an address, and rises after it is ready, and a change cut in the middle never looks like an operator's.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

import attrs

from hapsync.haproxy.cfg import TABLE_NAME
from hapsync.haproxy.dangers import has_check
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
"""The characters allowed in `server_options`; none of them can begin another command or a payload."""
_LINE = re.compile(
    r"[A-Za-z0-9_:./ -]+(?: weight 100%)?"
    rf"|add server [A-Za-z0-9_:.-]+/[A-Za-z0-9_:.-]+ [0-9A-Fa-f:.\[\]]+(?: id [0-9]+)? weight [01][{OPTION_SIGNS}]*"
)
MAX_LINE_LENGTH = 1024
"""The limit is far below HAProxy's buffer of 16 KB; on 2.6 a longer line blocks one of ten CLI connections forever
(measured)."""


@attrs.frozen
class Command:
    """One line for the Runtime API, made only of letters, digits, blanks and `_ : . / -`.

    Exceptions are `weight 100%`, and the operator's own `server_options` in `add server`.
    """

    line: str = attrs.field()

    @line.validator
    def _is_plain(self, _attribute: object, line: str) -> None:
        if not _LINE.fullmatch(line) or len(line) > MAX_LINE_LENGTH:
            raise ValueError(f"not a line for the Runtime API: {line!r}")


@attrs.frozen
class Refusal:
    """A command that HAProxy refused, and HAProxy's reply."""

    change: Change
    command: Command
    reply: str

    @property
    def is_of_change(self) -> bool:
        """The refusal prevents the change; a failed clearing of a stick table is reported and prevents nothing."""
        return not self.command.line.startswith("clear table ")


SHOW_INFO = Command("show info")
SHOW_SERVERS_STATE = Command("show servers state")
SHOW_STAT_SERVERS = Command("show stat -1 4 -1")
SHOW_PEERS = Command("show peers")
SHOW_FILES = Command("show env HAPROXY_CFGFILES")
"""The question for the files of HAProxy's start (configuration manual, section 2.4; management manual,
`show env`)."""


def show_servers_state(backend: str) -> Command:
    """Return the question for the servers of one backend."""
    return Command(f"show servers state {_checked(backend)}")


def show_stat_servers(proxy_id: int) -> Command:
    """Return the question for the counters of one backend's servers (type 4).

    The backend is given by number: a name stands for the first proxy with it, perhaps a frontend without servers
    (2.6).
    """
    return Command(f"show stat {proxy_id} 4 -1")


Agents = Collection[tuple[str, str]]
"""The servers with an agent check, by backend and name."""


def agents_in(observed: Observed) -> Agents:
    """Return hapsync's servers with an agent check, switched on or not."""
    return frozenset(
        (backend.name, slot.name)
        for backend in observed.backends.values()
        for slot in backend.slots
        if slot.has_agent
    )


def address_commands(changes: Iterable[Change], agents: Agents = ()) -> Sequence[tuple[Change, Command]]:
    """Return the first step of `changes`: address and port of each addition, always in one command.

    Stick table entries of the slot's last instance are cleared first. Once the address is set, the slot does not show
    the change of its instance any more, so a hapsync killed in between would leave the entries there forever.

    A dynamic server is added in maint with its health check off (management manual, `add server`), so the check is
    switched on. Its weight is 0, for a server in maint with a higher weight is an operator's. A server with an agent
    check is added with its full weight, which is then set to 0: an agent sets weights in per cent of the weight at
    the addition.
    """
    return [(change, Command(line)) for change in changes for line in _address_lines(change, agents)]


def _address_lines(change: Change, agents: Agents) -> tuple[str, ...]:
    where = _named(change.backend, change.server)
    no_weight = f"set server {where} weight 0"
    match change:
        case Add(address=address):
            quiet = (f"disable agent {where}",) if _has_agent(change, agents) else ()
            forgets = (_forget(table, number) for table, number in change.forgets)
            return *quiet, *forgets, no_weight, f"set server {where} addr {address.host} port {address.port}"
        case Create(server=name, address=address, options=options):
            words = options.split()
            full = change.weight if "agent-check" in words else 0
            added = " ".join(("add server", where, f"{address} id {dynamic_id(name)} weight {full}", *words))
            return added, *((no_weight,) if full else ()), *_check_lines(where, options)
        case _:
            return ()


def _check_lines(server: str, options: str) -> tuple[str, ...]:
    """Return the commands that switch on the checks of an added server."""
    return (f"enable health {server}",) if has_check(options) else ()


def _has_agent(change: Change, agents: Agents) -> bool:
    return (change.backend, change.server) in agents or "agent-check" in getattr(change, "options", "").split()


def quiet_commands(changes: Iterable[Change], agents: Agents) -> Sequence[tuple[Change, Command]]:
    """Return the commands that switch off the agent checks of servers leaving by `changes`.

    These commands go first, because an agent check can end a maint with `ready`, and set a weight.
    """
    return [
        (change, Command(f"disable agent {_named(change.backend, change.server)}"))
        for change in changes
        if isinstance(change, Drain | Disable | Remove | SetOverride) and _has_agent(change, agents)
    ]


def state_commands(changes: Iterable[Change], agents: Agents = ()) -> Sequence[tuple[Change, Command]]:
    """Return the second step of `changes`: weights and states, then the agent checks of servers that entered."""
    return [(change, Command(line)) for change in changes for line in _state_lines(change, agents)]


def full_weight_commands(refused: Iterable[Refusal]) -> Sequence[Command]:
    """Return the commands that give the file's weight to entered servers whose weight was refused.

    HAProxy's reply on 2.6 to 3.4: "Backend is using a static LB algorithm and only accepts weights '0%' and '100%'."
    """
    return [
        Command(f"set server {_named(one.change.backend, one.change.server)} weight 100%")
        for one in refused
        if isinstance(one.change, Entry) and "static LB algorithm" in one.reply
    ]


def _state_lines(change: Change, agents: Agents) -> tuple[str, ...]:
    where = _named(change.backend, change.server)
    server = f"set server {where}"
    match change:
        case Add(weight=weight) | Create(weight=weight) | Enable(weight=weight):
            checks = _check_lines(where, change.options) if isinstance(change, Enable) else ()
            # From drain, a server set to down stays down until `rise` checks have passed (2.2 to 3.4); directly from
            # maint it would be up at once.
            first = (f"{server} state drain", f"{server} health down") if change.is_checked else ()
            agent = (f"enable agent {where}",) if _has_agent(change, agents) else ()
            return *checks, *first, f"{server} state ready", f"{server} weight {weight}", *agent
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
            return (f"{'enable' if runs else 'disable'} agent {where}",)
        case EndSessions():
            return (f"shutdown sessions server {where}",)
        case Delete(waits=waits):
            # The wait usually ends at once, for only an idle server is deleted; a failing wait must be short.
            wait = (f"wait 1s srv-removable {where}",) if waits else ()
            return *wait, f"del server {where}"


def _forget(table: str, number: int) -> str:
    """Return the command that clears the entries of a stick table for the server with this id.

    HAProxy finds an entry's server by its key, and else by its id (2.6, 3.0: src/stick_table.c and measured). All
    clients of a gone instance would therefore come to the next instance in its slot.
    """
    if not TABLE_NAME.fullmatch(table):
        raise ValueError(f"not a table's name for the Runtime API: {table!r}")
    return f"clear table {table} data.server_id eq {number}"


def creation_commands(backend: str, defaults: str, slots: Iterable[str], options: str) -> Sequence[Command]:
    """Return the commands that add a whole `backend` like `defaults`, unpublished, with free `slots` (3.4).

    The slots are like those of a worker started with the file: in maint, at the placeholder, with their checks on.
    """
    words = " ".join((str(PLACEHOLDER), "weight", str(free_weight(options)), *options.split()))
    lines = [f"add backend {_checked(backend)} from {_checked(defaults)}"]
    for where in (_named(backend, slot) for slot in slots):
        lines += [f"add server {where} {words}", *_check_lines(where, options)]
    return [Command(line) for line in lines]


def publish_command(backend: str) -> Command:
    """Return the command that publishes `backend` to rules with computed backend names (3.4)."""
    return Command(f"publish backend {_checked(backend)}")


def closing_commands(backend: str, servers: Iterable[str]) -> Sequence[Command]:
    """Return the commands that end new traffic to a whole `backend` and its `servers`; sessions go on (3.4)."""
    return [
        Command(f"unpublish backend {_checked(backend)}"),
        *(
            Command(f"set server {_named(backend, server)} {what}")
            for server in servers
            for what in ("weight 0", "state maint")
        ),
    ]


def deletion_commands(backend: str, servers: Iterable[str]) -> Sequence[Command]:
    """Return the commands that delete a closed `backend` and its `servers`, as far as these have no load (3.4)."""
    return [
        *(Command(f"del server {_named(backend, server)}") for server in servers),
        Command(f"del backend {_checked(backend)}"),
    ]


def is_gone(reply: str) -> bool:
    """Return whether `reply`, to a command about a backend, means that there is no such backend any more."""
    return any(line in ("Backend deleted.", "No such backend.") for line in reply.strip().split("\n"))


def is_there(reply: str) -> bool:
    """Return whether `reply`, to a command that adds a backend or a server, means a taken name."""
    return "name is already used by other proxy 'backend " in reply or "Already exists a server" in reply


def arrived(changes: Collection[Change], observed: Observed) -> tuple[Sequence[Change], Sequence[Change]]:
    """Split additions into those whose address `observed` shows, and others, which must not be made ready."""
    shown = {
        (backend.name, slot.name): slot.address
        for backend in observed.backends.values()
        for slot in backend.slots
        if slot.admin is AdminState.MAINT
    }

    def has_arrived(change: Change) -> bool:
        return not isinstance(change, Add | Create) or shown.get((change.backend, change.server)) == change.address

    return [one for one in changes if has_arrived(one)], [one for one in changes if not has_arrived(one)]


def is_done(command: Command, reply: str) -> bool:
    """Return whether `reply` means that HAProxy carried out `command`.

    An empty reply is success, with three exceptions: `addr` reports its change (or the lack of one), and the replies
    of `add` and `del` may also hold lines about other servers. Any other reply is a refusal: HAProxy's severities do
    not tell (an address set and one refused are both level 4).
    """
    text = reply.strip()
    match command.line.split(" ", 2)[0]:
        case "wait":
            return True  # `del server` then refuses a server in use, with the reason
        case "clear":
            return text == "" or any(words in text for words in _NOTHING_TO_FORGET)
        case "enable":
            return text == "" or _NO_CHECK in text  # the server was added before `server_options` had an agent check
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
    """Return one line about `refusal`, with a remedy where one is known."""
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
    """Return the commands that set drained `servers` to drain on a new worker, where they start in maint."""
    return [
        Command(f"set server {_named(backend, server.name)} state drain")
        for server in servers
        if server.admin is AdminState.DRAIN
    ]


def _named(backend: str, server: str) -> str:
    return f"{_checked(backend)}/{_checked(server)}"


@lru_cache(maxsize=65536)
def _checked(name: str) -> str:
    if not HAPROXY_NAME.fullmatch(name):
        raise ValueError(f"not a name for the Runtime API: {name!r}")
    return name
