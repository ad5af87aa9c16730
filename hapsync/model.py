"""The nouns: addresses, servers and slots, and one reading of HAProxy.

A *slot* is a server line named `srv1` to `srvN`, kept in maint until an instance needs it. Servers with other
names are *foreign*: shown, never touched.
"""

import enum
import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache

import attrs

SLOT_NAME = re.compile(r"srv[1-9][0-9]{0,5}")
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
    """What an administrator asked of a server, in HAProxy's words (`set server ... state`)."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class CheckStatus(enum.Enum):
    """What Consul's checks say of an instance; maintenance is Consul's own maintenance mode."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "maintenance"


@attrs.frozen
class Load:
    """What HAProxy still has on a server: running sessions, queued requests, used and idle connections."""

    sessions: int
    queued: int
    used_connections: int
    idle_connections: int

    @property
    def is_zero(self) -> bool:
        return not (self.sessions or self.queued or self.used_connections or self.idle_connections)


NO_LOAD = Load(0, 0, 0, 0)


@attrs.frozen
class Server:
    """One server of a backend as HAProxy shows it.

    `address` is None where HAProxy has none (an unresolved name). `is_up` is HAProxy's operational state.
    `load` is None where it was not read.
    """

    name: str
    address: Address | None
    admin: AdminState
    weight: int
    is_up: bool = False
    load: Load | None = None

    @property
    def is_slot(self) -> bool:
        return SLOT_NAME.fullmatch(self.name) is not None

    @property
    def is_idle(self) -> bool:
        """In maint, and with neither session nor connection.

        A slot that still points at the placeholder was given no instance since its worker started, so nothing can be
        on it; of any other an unknown load is not none.
        """
        if self.admin is not AdminState.MAINT:
            return False
        return self.address == PLACEHOLDER if self.load is None else self.load.is_zero

    def with_load(self, load: Load | None) -> "Server":
        """Return this server with `load`; thrice as fast as `attrs.evolve`, and made for thousands at a time."""
        return Server(self.name, self.address, self.admin, self.weight, self.is_up, load)

    @property
    def can_serve(self) -> bool:
        """Ready with a weight above 0: HAProxy may send it new traffic while its checks pass."""
        return self.admin is AdminState.READY and self.weight > 0


def slot_number(name: str) -> int:
    """Return N of `srvN`, for sorting slots."""
    return int(name[3:])


@attrs.frozen
class Backend:
    """The servers of one backend: our slots, sorted by number, and the foreign ones as they came.

    `exists` is False where HAProxy has no backend of that name (or one without a single server). `proxy_id` is
    HAProxy's number of it, 0 where it was not read; it changes with the configuration and says nothing of the state.
    """

    name: str
    slots: tuple[Server, ...] = ()
    foreign: tuple[Server, ...] = ()
    exists: bool = True
    proxy_id: int = attrs.field(default=0, eq=False)

    @property
    def ready(self) -> tuple[Server, ...]:
        return tuple(slot for slot in self.slots if slot.can_serve)


@attrs.frozen
class Observed:
    """One reading of HAProxy: some or all of the configured backends."""

    backends: Mapping[str, Backend]


@attrs.frozen
class HAProxyProcess:
    """Who answered on the socket (`show info`)."""

    pid: int
    version: str
    uptime_seconds: int
    is_stopping: bool
