"""The nouns: addresses, servers and slots, and one reading of HAProxy.

A *slot* is a server line named `srv1` to `srvN`, kept in maint until an instance needs it. A *dynamic server*, named
`dyn-LABEL-ID`, is added for one instance and deleted afterwards. Servers with other names are *foreign*: shown, never
touched.
"""

import enum
import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache

import attrs

HAPROXY_NAME = re.compile(r"[A-Za-z0-9_:.-]{1,128}")
"""Names of proxies and servers (configuration manual, section 4), no longer than a log line bears."""
SLOT_NAME = re.compile(r"srv[1-9][0-9]{0,5}")
DYNAMIC_NAME = re.compile(r"dyn-[A-Za-z0-9_.-]{1,40}-([0-9a-f]{7})")
"""The last part is the server's id in HAProxy, in hexadecimal."""
MAX_WEIGHT = 256
"""HAProxy's largest weight (configuration manual, section 5.2, `weight`)."""


@attrs.frozen(order=True, cache_hash=True)
class Address:
    """An IP address in its canonical spelling, and a port from 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


PLACEHOLDER = Address("127.0.0.1", 1)
"""Where a free slot points in the file: refused at once should anyone enable it by mistake."""


AGENT_CONFIGURED = 0x02
AGENT_RUNS = 0x06
AGENT_IS_ASKED = 0x01
"""Bits of `srv_agent_state` (management manual, `show servers state`): configured; and enabled; being asked now."""


AGENT_WEIGHT = 100
"""The least that the largest weight of a backend with agent checks is: an agent gives per cent of the weight that a
server has in the file, cut to a whole number, and half of 1 would be no traffic (2.6 to 3.4)."""


def free_weight(options: str) -> int:
    """Return the weight that a free slot has in the file, among servers with these `options`."""
    return AGENT_WEIGHT if "agent-check" in options.split() else 1


@lru_cache(maxsize=65536)
def canonical_host(text: str) -> str:
    """Return the one spelling of an IP literal both sides are compared in.

    An IPv6 address with a zone is not accepted: the zone means nothing on another machine. An IPv4 address written
    as IPv6 (`::ffff:10.0.0.1`) is that IPv4 address.

    Raises ValueError when `text` is not an IP literal.
    """
    if "%" in text:
        raise ValueError("an IPv6 zone means nothing on another machine")
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


class AdminState(enum.Enum):
    """An administrator's state of a server, in HAProxy's words (`set server ... state`). state`)."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class CheckStatus(enum.Enum):
    """Consul's checks of an instance; maintenance is Consul's own maintenance mode."""

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
    """Whether HAProxy's own check has passed since a server may get traffic."""

    PASSED = "passed"
    MISSING = "missing"
    UNREAD = "not read"
    """`show servers state` alone does not tell; `show stat` does."""


@attrs.frozen
class Server:
    """One server of a backend as HAProxy shows it.

    `address` is None where HAProxy has none (an unresolved name). `is_up` is HAProxy's operational state.
    `load` is None where it was not read. `proof` says nothing of what the server is, only what is known of it.
    `since_seconds` is how long ago it was last up or down, by HAProxy; `id` is HAProxy's number of it, 0 where it was
    not read. Of a free slot neither proof nor time is read. `agent` are the bits of its agent check
    (`srv_agent_state`), 0 where it has none.
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
        """In maint at the placeholder: it was given no instance since its worker started."""
        return self.admin is AdminState.MAINT and (self.address is PLACEHOLDER or self.address == PLACEHOLDER)

    @property
    def is_idle(self) -> bool:
        """In maint, put there by hapsync, and with neither session nor connection.

        A slot that still points at the placeholder was given no instance since its worker started, so nothing can be
        on it; of any other an unknown load is not none.
        """
        if self.admin is not AdminState.MAINT or self.is_overridden or (self.is_led_by_agent and not self.is_free):
            return False
        return self.address == PLACEHOLDER if self.load is None else self.load.is_zero

    def with_load(self, load: Load | None) -> "Server":
        """Return this server with `load`; thrice as fast as `attrs.evolve`, and made for thousands at a time."""
        kept = (self.first_check, self.since_seconds, self.id, self.agent)
        return Server(self.name, self.address, self.admin, self.weight, self.is_up, load, *kept)

    @property
    def is_overridden(self) -> bool:
        """An operator put it in maint or drain: hapsync sets the weight to 0 before its own maint.

        A server with an agent check is an exception, for its agent may have done it: hapsync and `hapsync hold`
        switch it off first.
        """
        is_out = self.admin is not AdminState.READY and self.weight > 0 and self.address not in (PLACEHOLDER, None)
        return is_out and not self.is_led_by_agent

    @property
    def has_agent(self) -> bool:
        """An agent check is configured for it, switched on or not."""
        return bool(self.agent & AGENT_CONFIGURED)

    @property
    def is_led_by_agent(self) -> bool:
        """Its agent check runs: the agent sets weight, drain, maint and ready, in maint, too (measured, 2.6, 3.4)."""
        return self.agent & AGENT_RUNS == AGENT_RUNS

    @property
    def can_serve(self) -> bool:
        """Ready with a weight above 0: HAProxy may send it new traffic while its checks pass."""
        return self.admin is AdminState.READY and self.weight > 0

    @property
    def serves(self) -> bool:
        """HAProxy sends it new traffic now."""
        return self.is_up and self.can_serve


@lru_cache(maxsize=65536)
def is_slot_name(name: str) -> bool:
    """Return whether a server of this name is a slot."""
    return SLOT_NAME.fullmatch(name) is not None


@lru_cache(maxsize=65536)
def is_dynamic_name(name: str) -> bool:
    """Return whether a server of this name was added for one instance, and is deleted when that is gone."""
    return DYNAMIC_NAME.fullmatch(name) is not None


def is_ours(name: str) -> bool:
    """Return whether hapsync cares for servers of this name; the others are foreign."""
    return is_slot_name(name) or is_dynamic_name(name)


def dynamic_id(name: str) -> int:
    """Return the id in HAProxy of the dynamic server `name`; raises ValueError for another name."""
    found = DYNAMIC_NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"not the name of a dynamic server: {name!r}")
    return int(found[1], 16)


@lru_cache(maxsize=65536)
def server_order(name: str) -> tuple[int, str]:
    """Return what our servers are sorted by: slots by number, then dynamic servers by name."""
    return (int(name[3:]), "") if is_slot_name(name) else (10**6, name)


@attrs.frozen
class Scaling:
    """How a backend can be given more servers, as its HAProxy was found to be; `why` it is not better, or nothing.

    `can_add`: servers can be added and deleted live. `can_wait`: `wait` knows when one can be deleted (3.0).
    `tables`: the stick tables that lead clients to its servers. `implied`: the words that `server_options` imply on a
    line of the file; an added server is given them in full.
    """

    can_add: bool = False
    can_wait: bool = False
    why: str = ""
    tables: tuple[str, ...] = ()
    implied: tuple[str, ...] = ()


SLOTS_ONLY = Scaling()


@attrs.frozen
class Backend:
    """The servers of one backend: ours (`server_order`), and the foreign ones as they came.

    `slots` are all servers of ours, the dynamic ones among them. `exists` is False where HAProxy has no backend of
    that name (or one without a single server). `proxy_id` is HAProxy's number of it, 0 where it was not read; it
    changes with the configuration and says nothing of the state. `scaling` is not part of a reading either.
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

    `unread` says of which backends HAProxy's answer could not be read, whole or in part, and why. One whose servers
    could not be read is not in `backends`; one whose counters could not be read is, with loads and proofs unread.
    """

    backends: Mapping[str, Backend]
    unread: Mapping[str, str] = attrs.field(factory=dict, eq=False)

    def with_backends(self, backends: Mapping[str, Backend]) -> "Observed":
        """Return this reading with other `backends`."""
        return Observed(backends, self.unread)

    def updated(self, other: "Observed") -> "Observed":
        """Return this reading with all that `other`, a later one of some of the same backends, says."""
        kept = {name: one for name, one in self.backends.items() if name not in other.unread}
        why = {name: one for name, one in self.unread.items() if name not in other.backends}
        return Observed({**kept, **other.backends}, {**why, **other.unread})


@attrs.frozen
class ListenQueue:
    """One listening socket: its address, how many connections wait to be accepted, and how many may."""

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
