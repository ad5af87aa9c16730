"""The text of hapsync.toml in, one frozen `Config` out, or all of its problems at once."""

import ipaddress
import re
import tomllib
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

import attrs

from hapsync.config.validate import Rule, between, dotted, each, matching, structured
from hapsync.errors import ConfigError
from hapsync.model.address import Network, parse_address, parse_network, within
from hapsync.model.server import HAPROXY_NAME, Address
from hapsync.text import quoted

DEFAULT_PATH = "/etc/hapsync/hapsync.toml"
DEFAULT_MASTER_SOCKET = "/run/haproxy-master.sock"
"""The socket of the master CLI in Debian's haproxy.service (`-S /run/haproxy-master.sock`)."""

OWN_WORDS = frozenset({"disabled", "enabled", "weight", "id", "init-state", "track", "redir"})
"""The words of a server line that hapsync writes itself, and words in conflict with it."""


def _options_are_plain(value: str) -> bool:
    printable = value.isascii() and value.isprintable() and not set(value) & set("#\\\"'")
    return printable and not set(value.split()) & OWN_WORDS


def _is_consul_url(value: str) -> bool:
    if not re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?/?|unix:///[^\0\n]+", value):
        return False
    try:
        parts = urllib.parse.urlsplit(value)
        _ = parts.port  # raises ValueError for an invalid port
        if value.startswith(("http://[", "https://[")):
            ipaddress.IPv6Address(parts.hostname or "")
    except ValueError:
        return False
    return True


_PATH = matching(r"/[^\0\n]*", "must be an absolute path")
Path = Annotated[str, _PATH]
ConsulURL = Annotated[
    str,
    Rule(
        _is_consul_url,
        'must look like "http://127.0.0.1:8500", "https://host:8501" or "unix:///run/consul/http.sock"',
    ),
]
Token = Annotated[str, matching(r"[\x21-\x7e]*", "must be printable ASCII without spaces")]
ServiceName = Annotated[str, matching(r"[ -~]{1,256}", "must be 1 to 256 printable characters")]
Networks = Annotated[tuple[Network, ...], each(parse_network)]
Addresses = Annotated[tuple[Address, ...], each(parse_address)]
MAX_SERVERS = 50_000
"""The most servers of one backend; 5,000 were tried. HAProxy's manual limits `roundrobin` to 4,095 active servers."""
SlotCount = Annotated[int, between(1, MAX_SERVERS)]
ServerOptions = Annotated[
    str,
    Rule(
        _options_are_plain,
        "must be plain HAProxy keywords on one line, without quotes, backslash or #, and without "
        + ", ".join(sorted(OWN_WORDS))
        + " (hapsync sets these)",
    ),
]
Command = Annotated[tuple[str, ...], Rule(lambda value: bool(value and value[0]), "must name a program to run")]
Seconds = Annotated[float, between(0.05, 86400)]
Gap = Annotated[float, between(0, 86400)]
Grace = Annotated[float, between(0, 31 * 86400)]
Fraction = Annotated[float, between(0, 1)]


@attrs.frozen(kw_only=True)
class ConsulConfig:
    """`[consul]`: the address of the agent, and the required freshness of a reading."""

    address: ConsulURL = "http://127.0.0.1:8500"
    token: Token = attrs.field(default="", repr=False)
    token_file: Path | None = None
    datacenter: Annotated[str, matching(r"[A-Za-z0-9_-]*", "must be a datacenter's name")] = ""
    consistency: Literal["cached", "stale", "default"] = "cached"
    canary: Annotated[str, matching(r"[ -~]{0,256}", "must be a service's name, or empty for none")] = "consul"
    wait_seconds: Annotated[float, between(1, 600)] = 300.0
    timeout_seconds: Seconds = 10.0
    max_connections: Annotated[int, between(10, 10000)] = 150
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def is_local(self) -> bool:
        """The agent is on this machine, so frequent questions to it cost the Consul servers nothing."""
        return self.address.startswith("unix:") or bool(
            re.match(r"https?://(127\.|localhost[:/]|localhost$|\[::1\])", self.address)
        )


@attrs.frozen(kw_only=True)
class HAProxyConfig:
    """`[haproxy]`: its sockets, its file, and the commands of check and reload.

    Sessions of an old worker on a gone server are ended after `old_worker_grace_seconds`; with 0 never.
    """

    socket: Path = "/run/haproxy/admin.sock"
    config: Path = "/etc/haproxy/haproxy.cfg"
    template: Path = "/etc/hapsync/haproxy.cfg.j2"
    check_command: Command = ("haproxy", "-c", "-f", "{config}")
    master_socket: Path | None = None
    reload_command: Command | None = None
    timeout_seconds: Seconds = 5.0
    check_timeout_seconds: Seconds = 30.0
    reload_timeout_seconds: Seconds = 30.0
    reload_gap_seconds: Gap = 5.0
    discover_reloads_per_hour: Annotated[int, between(1, 3600)] = 20
    old_worker_grace_seconds: Grace = 0.0

    @property
    def master(self) -> str | None:
        """The master CLI's socket, or None where `reload_command` reloads instead."""
        if self.reload_command is not None:
            return None
        return self.master_socket or DEFAULT_MASTER_SOCKET


@attrs.frozen(kw_only=True)
class AgentConfig:
    """`[agent]`: its mode (active or observe), its folders and its intervals."""

    mode: Literal["active", "observe"] = "active"
    state_dir: Path = "/var/lib/hapsync"
    runtime_dir: Path = "/run/hapsync"
    resync_seconds: Seconds = 10.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@attrs.frozen(kw_only=True)
class BackendKeys:
    """The keys of a backend apart from its service: its limits, the shape of its server lines.

    `scaling`: the way in for instances without a free slot; `auto` adds servers live where this HAProxy does it well.
    `start`: whether a newcomer gets traffic at once, or only after HAProxy's own first check of it has passed.
    Sessions on a server that left are ended after `drain_seconds`; with 0 never. `max_weight_ratio`: the largest
    weight that counts, in medians, so one registrant cannot take all requests.

    Of the serving servers, `max_loss_fraction` may go within `guard_window_seconds`, and `min_ready` stay in any
    case. A flapping instance is kept out for up to `damping_seconds`.
    """

    slots: SlotCount = 8
    scaling: Literal["auto", "slots", "dynamic"] = "auto"
    start: Literal["trusted", "checked"] = "trusted"
    drain_seconds: Gap = 0.0
    server_options: ServerOptions = "check"
    networks: Networks = ()
    max_servers: SlotCount = 1000
    max_weight_ratio: Annotated[int, between(1, 65535)] = 10
    max_loss_fraction: Fraction = 0.5
    guard_window_seconds: Gap = 60.0
    min_ready: Annotated[int, between(0, MAX_SERVERS)] = 1
    damping_seconds: Gap = 60.0

    def __attrs_post_init__(self) -> None:
        """Raise ValueError where keys contradict each other."""
        if self.start == "checked" and "check" not in self.server_options.split():
            raise ValueError('start "checked" needs `check` in server_options')
        if self.min_ready > self.max_servers:
            raise ValueError(f"min_ready {self.min_ready} is more than max_servers {self.max_servers}")


@attrs.frozen(kw_only=True)
class BackendConfig(BackendKeys):
    """`[backends.NAME]`: the Consul service behind an HAProxy backend, and the other keys of the backend.

    `fallback` has the servers for a start without Consul and without a snapshot.
    """

    service: ServiceName
    tags: tuple[str, ...] = ()
    fallback: Addresses = ()

    def __attrs_post_init__(self) -> None:
        """Raise ValueError where keys contradict each other."""
        super().__attrs_post_init__()
        if len(self.fallback) > self.max_servers:
            raise ValueError(f"fallback has {len(self.fallback)} addresses, max_servers is {self.max_servers}")
        seen = set()
        for address in self.fallback:
            if address in seen:
                raise ValueError(f"fallback has {address} twice")
            seen.add(address)
            if not within(self.networks)(address.host):
                raise ValueError(f"fallback has {address}, which is outside networks")


@attrs.frozen(kw_only=True)
class DiscoverConfig:
    """`[discover.NAME]`: every service with `tag` gets a backend, named `prefix` and the service's name.

    A service that has been gone for `forget_seconds` loses its backend. `each` has the keys of all these backends.
    """

    tag: ServiceName
    prefix: Annotated[str, matching(r"[A-Za-z0-9_:.-]{1,64}", "must be 1 to 64 of A-Z a-z 0-9 _ : . -")]
    max_backends: Annotated[int, between(1, 1000)] = 100
    forget_seconds: Gap = 600.0
    each: BackendKeys = BackendKeys()


@attrs.frozen(kw_only=True)
class FleetConfig:
    """`[fleet]`: at most `reloads_at_once` balancers of `group` reload at a time, by keys in Consul.

    A reload waits for its permit for `acquire_timeout_seconds` at most; nothing else waits for it.
    """

    group: Annotated[str, matching(r"[A-Za-z0-9_.-]{1,64}", "must be 1 to 64 of A-Z a-z 0-9 _ . -")]
    reloads_at_once: Annotated[int, between(1, 100)] = 1
    acquire_timeout_seconds: Seconds = 60.0


@attrs.frozen(kw_only=True)
class Config:
    """The whole hapsync.toml."""

    consul: ConsulConfig = ConsulConfig()
    haproxy: HAProxyConfig = HAProxyConfig()
    agent: AgentConfig = AgentConfig()
    fleet: FleetConfig | None = None
    discover: Mapping[str, DiscoverConfig] = attrs.field(factory=dict)
    backends: Mapping[str, BackendConfig] = attrs.field(factory=dict)

    @property
    def max_servers(self) -> Mapping[str, int]:
        """The most serving instances of each service, by the backend that takes most of them."""
        most: dict[str, int] = {}
        for backend in self.backends.values():
            most[backend.service] = max(most.get(backend.service, 0), backend.max_servers)
        return most

    @property
    def services(self) -> tuple[str, ...]:
        """The services to watch, each once."""
        return tuple(sorted({backend.service for backend in self.backends.values()}))


@attrs.frozen
class Template:
    """An operator's template: the name of its file, for messages, and its text."""

    name: str
    text: str


RENAMED = {"means": "scaling", "hold_down_seconds": "damping_seconds"}
RENAMED_OF_FLEET = {"patience_seconds": "acquire_timeout_seconds"}
"""The keys of 0.1, of a backend and of `[fleet]`, each with its present name; the old names are read until 0.3."""


def parse_config(text: str, where: str) -> Config:
    """Return the configuration that TOML `text` holds; `where` names the file in messages.

    A key may have its old name (`renamed_keys`).

    Raises ConfigError with every problem found, each with its key's path.
    """
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, (f"not TOML: {error}",)) from error
    problems = list(_problems_between_keys(tree))
    for path, table, old, new in _old_keys(tree):
        if new in table:
            problems.append(f"{path}.{old}: is the old name of {new}, which is given too; remove {old}")
        table.setdefault(new, table.pop(old))
    config = structured(tree, Config)
    if isinstance(config, tuple):
        raise ConfigError(where, tuple(sorted({*config, *problems})))
    if problems:
        raise ConfigError(where, tuple(problems))
    return config


def renamed_keys(text: str) -> tuple[str, ...]:
    """Return a sentence for each key of the TOML `text` with an old name."""
    return tuple(
        f"{path}.{old} is called {new} now; the old name is read until hapsync 0.3"
        for path, _, old, new in _old_keys(tomllib.loads(text))
    )


def _old_keys(tree: Mapping[str, object]) -> list[tuple[str, dict[str, object], str, str]]:
    """Return the path and the table of each key with an old name, and both of its names."""
    tables = [(f"backends.{dotted(key)}", one, RENAMED) for key, one in _items(tree.get("backends"))]
    for key, one in _items(tree.get("discover")):
        tables.append((f"discover.{dotted(key)}.each", dict(_items(one)).get("each"), RENAMED))
    tables.append(("fleet", tree.get("fleet"), RENAMED_OF_FLEET))
    return [
        (path, table, old, new)
        for path, table, renamed in tables
        if isinstance(table, dict)
        for old, new in renamed.items()
        if old in table
    ]


def _items(table: object) -> Iterable[tuple[str, object]]:
    return table.items() if isinstance(table, dict) else ()


def _problems_between_keys(tree: Mapping[str, object]) -> Iterator[str]:
    backends, discover = tree.get("backends", {}), tree.get("discover", {})
    if isinstance(backends, dict) and isinstance(discover, dict):
        if not backends and not discover:
            yield "backends: must name at least one backend, for example [backends.web]"
        for name in backends:
            if not HAPROXY_NAME.fullmatch(name):
                yield f"backends.{quoted(name)}: must be 1 to 128 of A-Z a-z 0-9 _ : . - (HAProxy's own rule)"
        yield from _problems_of_prefixes(backends, discover)
    haproxy, consul = (dict(_items(tree.get(name))) for name in ("haproxy", "consul"))
    if "master_socket" in haproxy and "reload_command" in haproxy:
        yield "haproxy.reload_command: give either this or haproxy.master_socket, not both"
    command = haproxy.get("check_command")
    if isinstance(command, list) and not any("{config}" in str(word) for word in command):
        yield 'haproxy.check_command: must contain "{config}", which stands for the file to check'
    if "token" in consul and "token_file" in consul:
        yield "consul.token_file: give either this or consul.token, not both"
    if ("cert_file" in consul) != ("key_file" in consul):
        yield "consul.cert_file: a client certificate needs both cert_file and key_file"


def _problems_of_prefixes(backends: Mapping[str, object], discover: Mapping[str, object]) -> Iterator[str]:
    """Yield the conflicts of prefixes: no other backend may begin with the prefix of discovered ones."""
    prefixes = {
        group: str(one["prefix"]) for group, one in discover.items() if isinstance(one, dict) and one.get("prefix")
    }
    for group, prefix in sorted(prefixes.items()):
        where = f"discover.{dotted(group)}.prefix"
        for name in sorted(backends):
            if name.startswith(prefix):
                yield f"{where}: backends.{name} begins like this, but the prefix is for discovered backends"
        for other, its in sorted(prefixes.items()):
            if other != group and prefix.startswith(its):
                yield f"{where}: begins like that of discover.{other}, so their backends could not be told apart"
