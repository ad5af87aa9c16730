"""The value classes of addresses, servers, slots, and one reading of HAProxy.

A *slot* is a server line named `srv1` to `srvN`, kept in maint until an instance needs it. A *dynamic server*, named
`dyn-LABEL-ID`, is added for one instance and deleted afterwards. Servers with other names are *foreign*: shown, never
touched.
"""

import enum
import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import attrs

HAPROXY_NAME = re.compile(r"[A-Za-z0-9_:.-]{1,128}")
"""The names of proxies and servers (configuration manual, section 4), limited to a length that fits into a log
line."""
SLOT_NAME = re.compile(r"srv[1-9][0-9]{0,5}")
DYNAMIC_NAME = re.compile(r"dyn-[A-Za-z0-9_.-]{1,40}-([0-9a-f]{7})")
"""The last part is the server's id in HAProxy, in hexadecimal."""
MAX_WEIGHT = 256
"""HAProxy's largest weight (configuration manual, section 5.2, `weight`)."""


class Address(NamedTuple):
    """An IP address in its canonical spelling, and a port from 1 to 65535.

    A named tuple hashes and compares in C: a pass does this thousands of times, for each address of its servers.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


PLACEHOLDER = Address("127.0.0.1", 1)
"""The address of a free slot in the file; a connection to it is refused at once, should anyone enable the slot by
mistake."""


AGENT_CONFIGURED = 0x02
AGENT_RUNS = 0x06
AGENT_IS_ASKED = 0x01
"""Bits of `srv_agent_state` (management manual, `show servers state`): the agent check is configured; is configured
and enabled; is running now."""


AGENT_WEIGHT = 100
"""The lower limit of the largest weight in a backend with agent checks. An agent sets per cent of the server's weight
in the file, cut to a whole number, and half of 1 would mean no traffic (2.6 to 3.4)."""


def free_weight(options: str) -> int:
    """Return the weight that a free slot has in the file, among servers with these `options`."""
    return AGENT_WEIGHT if "agent-check" in options.split() else 1


@lru_cache(maxsize=65536)
def canonical_host(text: str) -> str:
    """Return the canonical spelling of an IP literal, in which Consul's and HAProxy's addresses are compared.

    An IPv6 address with a zone is not accepted, for the zone means nothing on another machine. An IPv4 address
    written as IPv6 (`::ffff:10.0.0.1`) becomes the IPv4 address.

    Raises ValueError when `text` is not an IP literal.
    """
    if "%" in text:
        raise ValueError("an IPv6 zone means nothing on another machine")
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


class AdminState(enum.Enum):
    """The administrative state of a server, in HAProxy's words (`set server ... state`)."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class CheckStatus(enum.Enum):
    """The status of an instance by Consul's checks; maintenance is Consul's own maintenance mode."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "maintenance"


@attrs.frozen
class Load:
    """The load that HAProxy has on a server: running sessions, queued requests, used and idle connections."""

    sessions: int
    queued: int
    used_connections: int
    idle_connections: int

    @property
    def is_zero(self) -> bool:
        return not (self.sessions or self.queued or self.used_connections or self.idle_connections)


NO_LOAD = Load(0, 0, 0, 0)


class FirstCheck(enum.Enum):
    """The result of the first check: whether HAProxy's own check has passed since the server may get traffic."""

    PASSED = "passed"
    MISSING = "missing"
    UNREAD = "not read"
    """The value before `show stat` was read; `show servers state` does not show the first check."""


@attrs.frozen
class Server:
    """One server of a backend as HAProxy shows it.

    `address` is None where HAProxy has none (an unresolved name). `is_up` is HAProxy's operational state. `load` is
    None where it was not read. `first_check` is knowledge about the server, not a part of its state. `since_seconds`
    is the time since HAProxy's last change between up and down; `id` is HAProxy's number of the server, 0 where it
    was not read. First check and time of a free slot are not read. `agent` are the bits of the agent check
    (`srv_agent_state`), 0 without one.
    """

    name: str
    address: Address | None
    admin: AdminState
    weight: int
    is_up: bool = False
    load: Load | None = None
    first_check: FirstCheck = attrs.field(default=FirstCheck.PASSED, eq=False)
    since_seconds: int = attrs.field(default=0, eq=False)
    id: int = attrs.field(default=0, eq=False)
    agent: int = attrs.field(default=0, eq=False)

    @property
    def is_slot(self) -> bool:
        return is_slot_name(self.name)

    @property
    def is_dynamic(self) -> bool:
        return is_dynamic_name(self.name)

    @property
    def is_free(self) -> bool:
        """The slot is in maint at the placeholder, so it has had no instance since its worker started."""
        return self.admin is AdminState.MAINT and (self.address is PLACEHOLDER or self.address == PLACEHOLDER)

    @property
    def is_idle(self) -> bool:
        """The server is in maint, by hapsync, and has neither a session nor a connection.

        A slot at the placeholder has had no instance since its worker started, so it has no load. An unknown load of
        any other server does not count as none.
        """
        if self.admin is not AdminState.MAINT or self.is_overridden or (self.is_led_by_agent and not self.is_free):
            return False
        return self.address == PLACEHOLDER if self.load is None else self.load.is_zero

    def with_load(self, load: Load | None) -> "Server":
        """Return this server with `load`; three times as fast as `attrs.evolve`, for thousands of servers."""
        kept = (self.first_check, self.since_seconds, self.id, self.agent)
        return Server(self.name, self.address, self.admin, self.weight, self.is_up, load, *kept)

    @property
    def is_overridden(self) -> bool:
        """An operator put the server in maint or drain: its weight is above 0; in hapsync's own maint it is 0.

        A server with a running agent check does not count, for its agent may be the cause; hapsync and `hapsync hold`
        switch the check off first.
        """
        is_out = self.admin is not AdminState.READY and self.weight > 0 and self.address not in (PLACEHOLDER, None)
        return is_out and not self.is_led_by_agent

    @property
    def has_agent(self) -> bool:
        """An agent check is configured for the server, switched on or not."""
        return bool(self.agent & AGENT_CONFIGURED)

    @property
    def is_led_by_agent(self) -> bool:
        """The agent check runs: the agent sets weight, drain, maint and ready, also in maint (measured, 2.6, 3.4)."""
        return self.agent & AGENT_RUNS == AGENT_RUNS

    @property
    def can_serve(self) -> bool:
        """The server is ready with a weight above 0, so HAProxy may send it new traffic while its checks pass."""
        return self.admin is AdminState.READY and self.weight > 0

    @property
    def serves(self) -> bool:
        """HAProxy sends new traffic to the server now."""
        return self.is_up and self.can_serve


@lru_cache(maxsize=65536)
def is_slot_name(name: str) -> bool:
    """Return whether a server of this name is a slot."""
    return SLOT_NAME.fullmatch(name) is not None


@lru_cache(maxsize=65536)
def is_dynamic_name(name: str) -> bool:
    """Return whether a server of this name was added for one instance, to be deleted after it."""
    return DYNAMIC_NAME.fullmatch(name) is not None


def is_ours(name: str) -> bool:
    """Return whether hapsync manages servers of this name; other servers are foreign."""
    return is_slot_name(name) or is_dynamic_name(name)


def dynamic_id(name: str) -> int:
    """Return the id in HAProxy of the dynamic server `name`; raises ValueError for another name."""
    found = DYNAMIC_NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"not the name of a dynamic server: {name!r}")
    return int(found[1], 16)


@lru_cache(maxsize=65536)
def server_order(name: str) -> tuple[int, str]:
    """Return the sort key of hapsync's servers: slots by number, then dynamic servers by name."""
    return (int(name[3:]), "") if is_slot_name(name) else (10**6, name)


@attrs.frozen
class Scaling:
    """The way of a backend to more servers, as HAProxy's probe showed; `why` it is not better, or empty.

    `can_add`: servers can be added and deleted live. `can_wait`: the command `wait` can wait for a deletable server
    (3.0). `tables`: the stick tables that lead clients to its servers. `implied`: the words that `server_options`
    imply on a line of the file; an added server gets them explicitly.
    """

    can_add: bool = False
    can_wait: bool = False
    why: str = ""
    tables: tuple[str, ...] = ()
    implied: tuple[str, ...] = ()


SLOTS_ONLY = Scaling()


@attrs.frozen
class Backend:
    """The servers of one backend: hapsync's (in `server_order`), and the foreign ones in HAProxy's order.

    `slots` are all of hapsync's servers, dynamic ones included. `exists` is False where HAProxy has no backend of
    this name (or one without any server). `proxy_id` is HAProxy's number of the backend, 0 where it was not read; it
    changes with the configuration and is no part of the state. `scaling` is not part of a reading either.
    """

    name: str
    slots: tuple[Server, ...] = ()
    foreign: tuple[Server, ...] = ()
    exists: bool = True
    proxy_id: int = attrs.field(default=0, eq=False)
    scaling: Scaling = attrs.field(default=SLOTS_ONLY, eq=False)

    @property
    def ready(self) -> tuple[Server, ...]:
        return tuple(slot for slot in self.slots if slot.can_serve)


@attrs.frozen
class Observed:
    """One reading of HAProxy: some or all of the configured backends.

    `unread` has the backends with an unreadable answer, whole or in part, and why. A backend with unreadable servers
    is not in `backends`; one with unreadable counters is, without loads and first checks.
    """

    backends: Mapping[str, Backend]
    unread: Mapping[str, str] = attrs.field(factory=dict, eq=False)

    def mapped(self, change: Callable[[Backend], Backend]) -> "Observed":
        """Return this reading with each backend replaced by what `change` makes of it."""
        return Observed({name: change(one) for name, one in self.backends.items()}, self.unread)

    def updated(self, other: "Observed") -> "Observed":
        """Return this reading updated with `other`, a later reading of some of the same backends."""
        kept = {name: one for name, one in self.backends.items() if name not in other.unread}
        why = {name: one for name, one in self.unread.items() if name not in other.backends}
        return Observed({**kept, **other.backends}, {**why, **other.unread})


@attrs.frozen
class ListenQueue:
    """One listening socket: its address, the number of connections that wait to be accepted, and the limit."""

    host: str
    port: int
    waiting: int
    limit: int


@attrs.frozen
class HAProxyProcess:
    """The process that answered on the socket (`show info`)."""

    pid: int
    version: str
    uptime_seconds: int
    is_stopping: bool
