"""HAProxy's version and the lines of a backend in, the backend's scaling out, and the reason why it is not better."""

import re
from collections.abc import Iterable

from hapsync.config.schema import BackendConfig
from hapsync.haproxy.commands import OPTION_SIGNS, Command
from hapsync.model.server import Backend, Scaling
from hapsync.text import shown

OLDEST_SAFE = (3, 0)
"""The oldest version in which dynamic servers are the default. Before it, a dynamic server can be deleted only after
its idle connections have ended by themselves, and a consistent hash omits half of the dynamic servers unless their
ids are given (measured on 2.6.12; HAProxy's commit 2ff861747)."""
COUNTS_ALL = (3, 0)
"""The first version that counts all connections to a server. Before it HAProxy does not count a connection that
belongs to a client's session: every one with `http-reuse never`, and by default one that a 401 with
`WWW-Authenticate: Negotiate` or `NTLM` made private (measured on 2.6.12 and 2.8.25). On 2.6 such a connection gets
the client's next requests although the server has another address by then."""
OLDEST_STABLE = (2, 6)
"""The first version in which `add server` is not experimental (HAProxy's commit 76e8b70e4)."""
NEWEST_SCANNED = (3, 4)
"""The newest version in the scan for additions that kill HAProxy (tests/scan, docs/versions.md)."""
DIES_OF_ALPN = ((3, 0), (3, 2))
"""The versions, from the first up to and without the second, that die when a server with `check-alpn` is deleted
during its check (measured: 7 of 16 times on 3.0.11, never on 2.6.12, 2.8.25, 3.2.26 and 3.4.7)."""
HAS_WAIT = (3, 0)
HAS_BACKENDS = (3, 4)
"""The first version with `add backend` that is not experimental."""
_NEVER = frozenset(
    {
        *("enabled", "check-sni-auto", "no-check-ssl", "resolvers", "resolve-net", "resolve-opts", "resolve-prefer"),
        *("init-addr", "redir", "namespace", "socks4", "stick", "non-stick", "max-reuse", "log-proto", "tcp-ut"),
        *("cc", "no-check", "no-ssl", "sni-auto"),
    }
)
"""The words of a server line that `add server` refuses (2.6 to 3.4, from HAProxy's keyword tables); `enabled` leaves
a server without traffic up to 2.8."""
QUIET_PROBE = (3, 4)
"""The first version without an `[ALERT]` in HAProxy's log for each refusal of `add server`, a taken name included
(measured: one a probe on 2.6.12 to 3.2.26, none on 3.4.7)."""


def probe_command(backend: Backend) -> Command:
    """Return the probe of `backend`, which has slots, for dynamic servers: a server is added under an existing name.

    HAProxy first checks the level of the socket, the load balancing algorithm and the mode, and only then answers
    that the server exists (2.6 to 3.4, `add server`). The probe therefore changes nothing.
    """
    return Command(f"add server {backend.name}/{backend.slots[0].name} 127.0.0.1:1")


def version_of(text: str) -> tuple[int, int]:
    """Return major and minor of HAProxy's version `text`; (0, 0) where it has none."""
    numbers = re.match(r"(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def scaling_of(
    version: tuple[int, int],
    config: BackendConfig,
    default_servers: Iterable[str] = (),
    tables: Iterable[str] = (),
    danger: str = "",
) -> Scaling:
    """Return the scaling of a backend in a HAProxy of this `version`, if its balance and mode take servers.

    `default_servers` are the words of the `default-server` lines in force there, and `tables` the stick tables that
    lead to its servers. `danger` is the reason why an added server might kill HAProxy, or empty.
    """
    why = _why_not(version, config, tuple(default_servers), danger)
    implied = () if why else spelled_out(version, config.server_options)
    return Scaling(not why, version >= HAS_WAIT, why, tuple(tables), implied)


def _why_not(version: tuple[int, int], config: BackendConfig, default_servers: tuple[str, ...], danger: str) -> str:
    words = config.server_options.split()
    if config.scaling == "slots":
        return 'scaling = "slots"'
    if version < OLDEST_STABLE:
        return f"HAProxy {version[0]}.{version[1]} adds servers by an experimental command only"
    if config.scaling == "auto" and version < OLDEST_SAFE:
        return (
            f"dynamic servers of HAProxy {version[0]}.{version[1]} are deleted late; "
            'scaling = "dynamic" has them all the same'
        )
    if config.scaling == "auto" and version > NEWEST_SCANNED:
        return (
            f"hapsync was not tried for additions that HAProxy {version[0]}.{version[1]} dies of; "
            'scaling = "dynamic" has them all the same'
        )
    if danger:
        return danger
    if "check-alpn" in words and DIES_OF_ALPN[0] <= version < DIES_OF_ALPN[1]:
        return "server_options has check-alpn, and this HAProxy may die when such a server is deleted"
    if never := sorted(_NEVER & set(words)):
        return f"server_options has {', '.join(never)}, which `add server` does not take"
    if not re.fullmatch(f"[{OPTION_SIGNS}]*", config.server_options):
        return "server_options has signs that the Runtime API would take apart"
    if default_servers:
        given = " ".join(default_servers)
        return f"`default-server {shown(given, length=60)}` is not heeded by `add server`; put it into server_options"
    return ""


def spelled_out(version: tuple[int, int], options: str) -> tuple[str, ...]:
    """Return the words that `options` imply on a server line of a file, but not in `add server`.

    In a file the checks of a server use TLS and the PROXY protocol like its traffic, unless they have an address or a
    port of their own. The checks of an added server do so only by explicit words (HAProxy's commit 7d098bea2). Before
    HAProxy's commit 8a31783b6 an added server keeps no idle connection unless both words about it are given (measured
    on 2.6.12; 2.8.25 has it). All other words mean the same on 2.6 to 3.4, see docs/versions.md.
    """
    words = options.split()
    keeps = [] if version >= OLDEST_SAFE else [word for word in _KEEPS if word.split()[0] not in words]
    pool = tuple(" ".join(keeps).split())
    if "check" not in words or {"port", "addr"} & {*words}:
        return pool
    speaks_proxy = False
    for word in words:
        if word.removeprefix("no-") in _PROXY:
            speaks_proxy = not word.startswith("no-")
    tls = ("check-ssl",) if "ssl" in words and "check-ssl" not in words else ()
    proxy = ("check-send-proxy",) if speaks_proxy and "check-send-proxy" not in words else ()
    return (*tls, *proxy, *pool)


_KEEPS = ("pool-max-conn -1", "pool-purge-delay 5s")
"""The defaults of a server line in a file (manual, section 5.2)."""
_PROXY = frozenset({"send-proxy", "send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2-ssl-cn"})
