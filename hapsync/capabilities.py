"""What one HAProxy said when it was probed in, the means each backend has there out, with why they are not better.

A backend is probed by adding a server that it has: HAProxy looks at the level of the socket, at the load balancing
algorithm and at the mode first, and only then says that the server exists (2.6 to 3.4, `add server`). So nothing is
changed, and nothing has to be known of versions.
"""

import re
from collections.abc import Iterable

from hapsync.config import BackendConfig
from hapsync.dangers import has_check
from hapsync.model import Backend, Means
from hapsync.runtime import OPTION_SIGNS, Command
from hapsync.text import shown

OLDEST_SAFE = (3, 0)
"""Before it, dynamic servers never use a connection twice, and a consistent hash leaves out half of them where their
ids are not given (measured on 2.6.12; HAProxy's commits 8a31783b6 and 2ff861747)."""
OLDEST_STABLE = (2, 6)
"""`add server` is experimental before it (HAProxy's commit 76e8b70e4)."""
HAS_WAIT = (3, 0)
_NEVER = frozenset(
    {
        *("resolvers", "resolve-net", "resolve-opts", "resolve-prefer", "init-addr", "redir", "namespace", "socks4"),
        *("stick", "non-stick", "max-reuse", "log-proto", "tcp-ut", "cc", "no-check", "no-ssl", "sni-auto"),
    }
)
"""Words of a server line that no `add server` takes (2.6 to 3.4, from HAProxy's keyword tables)."""
_EXISTS = "Already exists a server with the same name in backend"


def probe_command(backend: Backend) -> Command | None:
    """Return the question whether `backend` takes dynamic servers; None where it has none of ours to ask with."""
    return Command(f"add server {backend.name}/{backend.slots[0].name} 127.0.0.1:1") if backend.slots else None


def version_of(text: str) -> tuple[int, int]:
    """Return major and minor of HAProxy's version `text`; (0, 0) where it has none."""
    numbers = re.match(r"(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def means_of(
    version: tuple[int, int],
    config: BackendConfig,
    reply: str | None,
    default_servers: Iterable[str] = (),
    tables: Iterable[str] = (),
    danger: str = "",
) -> Means:
    """Return the means of a backend of a HAProxy of this `version` that gave `reply` to the probe; None: not probed.

    `default_servers` are the words that `default-server` lines in force there give to every line of the file,
    `tables` the stick tables that lead to its servers. `danger` is why HAProxy might not survive a server with a
    check there, or nothing.
    """
    why = "" if reply is None else _why_not(version, config, reply, tuple(default_servers), danger)
    return Means(reply is not None and not why, version >= HAS_WAIT, why, tuple(tables))


def _why_not(
    version: tuple[int, int], config: BackendConfig, reply: str, default_servers: tuple[str, ...], danger: str
) -> str:
    words = config.server_options.split()
    if config.means == "slots":
        return 'means = "slots"'
    if version < OLDEST_STABLE:
        return f"HAProxy {version[0]}.{version[1]} adds servers by an experimental command only"
    if config.means == "auto" and version < OLDEST_SAFE:
        return (
            f"dynamic servers of HAProxy {version[0]}.{version[1]} use no connection twice and are deleted late; "
            'means = "dynamic" has them all the same'
        )
    if danger and has_check(config.server_options):
        return danger
    if _EXISTS not in reply:
        return f"HAProxy says: {shown(reply.strip())}"
    if never := sorted(_NEVER & set(words)):
        return f"server_options has {', '.join(never)}, which `add server` does not take"
    if not re.fullmatch(f"[{OPTION_SIGNS}]*", config.server_options):
        return "server_options has signs that the Runtime API would take apart"
    if default_servers:
        given = " ".join(default_servers)
        return f"`default-server {shown(given, length=60)}` is not heeded by `add server`; put it into server_options"
    return ""


def refused(reply: str) -> Means | None:
    """Return the means of a backend that refused `add server` with `reply`; None where that says nothing of it."""
    return None if _EXISTS in reply else Means(why=f"HAProxy refused `add server`: {shown(reply)}")
