"""hapsync.toml in, one frozen `Config` out; or every problem of it at once."""

import ipaddress
import math
import re
import sys
import tomllib
import typing
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import attrs
import cattrs
from cattrs.v import transform_error

from hapsync.errors import ConfigError
from hapsync.text import quoted

DEFAULT_PATH = "/etc/hapsync/hapsync.toml"
DEFAULT_MASTER_SOCKET = "/run/haproxy-master.sock"
"""Where Debian's haproxy.service puts the master CLI (`-S /run/haproxy-master.sock`)."""

OWN_WORDS = frozenset({"disabled", "enabled", "weight", "id", "init-state", "track", "redir"})
"""Words of a server line that hapsync writes itself, or that would undo what it does."""


@attrs.frozen
class Rule:
    """What a value must be, and how to say so."""

    holds: Callable[[Any], bool]
    must: str


def _between(low: float, high: float) -> Rule:
    return Rule(lambda value: low <= value <= high, f"must be from {low} to {high}")


def _matching(pattern: str, must: str) -> Rule:
    compiled = re.compile(pattern)
    return Rule(lambda value: compiled.fullmatch(value) is not None, must)


def _options_are_plain(value: str) -> bool:
    printable = value.isascii() and value.isprintable() and not set(value) & set("#\\\"'")
    return printable and not set(value.split()) & OWN_WORDS


def _is_consul_url(value: str) -> bool:
    if not re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?/?|unix:///[^\0\n]+", value):
        return False
    try:
        parts = urllib.parse.urlsplit(value)
        _ = parts.port  # looks whether it is one
        if value.startswith(("http://[", "https://[")):
            ipaddress.IPv6Address(parts.hostname or "")
    except ValueError:
        return False
    return True


_PATH = _matching(r"/[^\0\n]*", "must be an absolute path")
Path = Annotated[str, _PATH]
ConsulURL = Annotated[
    str,
    Rule(
        _is_consul_url,
        'must look like "http://127.0.0.1:8500", "https://host:8501" or "unix:///run/consul/http.sock"',
    ),
]
Token = Annotated[str, _matching(r"[\x21-\x7e]*", "must be printable ASCII without spaces")]
Name = Annotated[
    str, _matching(r"[A-Za-z0-9_:.-]{1,128}", "must be 1 to 128 of A-Z a-z 0-9 _ : . - (HAProxy's own rule)")
]
ServiceName = Annotated[
    str,
    _matching(r"[ -~]{1,256}", "must be 1 to 256 printable characters"),
]
SlotCount = Annotated[int, _between(1, 4000)]
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
Seconds = Annotated[float, _between(0.05, 86400)]
Gap = Annotated[float, _between(0, 86400)]


@attrs.frozen(kw_only=True)
class ConsulConfig:
    """`[consul]`: how to reach the agent, and how fresh a reading has to be."""

    address: ConsulURL = "http://127.0.0.1:8500"
    token: Token = attrs.field(default="", repr=False)
    token_file: Path | None = None
    datacenter: Annotated[str, _matching(r"[A-Za-z0-9_-]*", "must be a datacenter's name")] = ""
    consistency: Literal["cached", "stale", "default"] = "cached"
    wait_seconds: Annotated[float, _between(1, 600)] = 60.0
    timeout_seconds: Seconds = 10.0
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def is_local(self) -> bool:
        """The agent is on this machine, so asking it again costs the Consul servers nothing."""
        return self.address.startswith("unix:") or bool(
            re.match(r"https?://(127\.|localhost[:/]|localhost$|\[::1\])", self.address)
        )


@attrs.frozen(kw_only=True)
class HAProxyConfig:
    """`[haproxy]`: its sockets, its file, how to check and how to reload."""

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

    @property
    def master(self) -> str | None:
        """The master CLI's socket, or None where `reload_command` reloads instead."""
        if self.reload_command is not None:
            return None
        return self.master_socket or DEFAULT_MASTER_SOCKET


@attrs.frozen(kw_only=True)
class AgentConfig:
    """`[agent]`: its folders and its rhythm."""

    state_dir: Path = "/var/lib/hapsync"
    runtime_dir: Path = "/run/hapsync"
    resync_seconds: Seconds = 10.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@attrs.frozen(kw_only=True)
class BackendConfig:
    """`[backends.NAME]`: the Consul service behind an HAProxy backend, and the shape of its server lines."""

    service: ServiceName
    tags: tuple[str, ...] = ()
    slots: SlotCount = 8
    server_options: ServerOptions = "check"


@attrs.frozen(kw_only=True)
class Config:
    """The whole file."""

    consul: ConsulConfig = ConsulConfig()
    haproxy: HAProxyConfig = HAProxyConfig()
    agent: AgentConfig = AgentConfig()
    backends: Mapping[str, BackendConfig]

    @property
    def services(self) -> tuple[str, ...]:
        """The services to watch, each once."""
        return tuple(sorted({backend.service for backend in self.backends.values()}))


@attrs.frozen
class Template:
    """An operator's template: the name of its file, for messages, and its text."""

    name: str
    text: str


def parse_config(text: str, where: str) -> Config:
    """Return the configuration that TOML `text` holds; `where` names the file in messages.

    Raises ConfigError with every problem found, each with its key's path.
    """
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, (f"not TOML: {error}",)) from error
    problems = list(_problems_between_keys(tree))
    try:
        config = _CONVERTER.structure(tree, Config)
    except cattrs.BaseValidationError as error:
        found = transform_error(error, format_exception=_say)
        raise ConfigError(where, tuple(sorted({*map(_with_path_first, found), *problems}))) from error
    if problems:
        raise ConfigError(where, tuple(problems))
    return config


def _problems_between_keys(tree: Mapping[str, object]) -> typing.Iterator[str]:
    backends = tree.get("backends")
    if isinstance(backends, dict):
        if not backends:
            yield "backends: must name at least one backend, for example [backends.web]"
        for name in backends:
            if not re.fullmatch(r"[A-Za-z0-9_:.-]{1,128}", name):
                yield (f"backends.{quoted(name)}: must be 1 to 128 of A-Z a-z 0-9 _ : . - (HAProxy's own rule)")
    haproxy = tree.get("haproxy")
    if isinstance(haproxy, dict):
        if "master_socket" in haproxy and "reload_command" in haproxy:
            yield "haproxy.reload_command: give either this or haproxy.master_socket, not both"
        command = haproxy.get("check_command")
        if isinstance(command, list) and not any("{config}" in str(word) for word in command):
            yield 'haproxy.check_command: must contain "{config}", which stands for the file to check'
    consul = tree.get("consul")
    if isinstance(consul, dict):
        if "token" in consul and "token_file" in consul:
            yield "consul.token_file: give either this or consul.token, not both"
        if ("cert_file" in consul) != ("key_file" in consul):
            yield "consul.cert_file: a client certificate needs both cert_file and key_file"


def _with_path_first(message: str) -> str:
    """Turn cattrs' `what @ $.a['b'].c` into `a.b.c: what`."""
    what, _, path = message.partition(" @ $")
    dotted = re.sub(r"\[(['\"])(.*?)\1\](?=[.\[]|$)", lambda key: f".{_key(key[2])}", path).lstrip(".")
    return f"{dotted or 'the file'}: {what}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_:.-]+", name) else quoted(name)


def _say(error: BaseException, _type: type | None) -> str:
    match error:
        case cattrs.ForbiddenExtraKeysError():
            return "unknown key(s): " + ", ".join(sorted(quoted(key) for key in error.extra_fields))
        case KeyError():
            return "is missing"
        case ValueError():
            return str(error)
        case _:
            return "must be a table"


def _is_a(kind: Any, form: object) -> bool:
    return typing.get_origin(kind) is form


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    words = {int: "a whole number", str: "a text", float: "a number"}

    def strict(value: object, kind: Any) -> object:
        # cattrs would turn 5 into '5'; a configuration that needs guessing is a wrong one.
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value) if abs(value) < sys.maxsize else math.inf * (1 if value > 0 else -1)
        raise ValueError(f"must be {words[kind]}")

    for kind in words:
        converter.register_structure_hook(kind, strict)

    def ruled(annotated: Any) -> Callable[[object, object], object]:
        kind, *rules = typing.get_args(annotated)

        def structure(value: object, _type: object) -> object:
            parsed = converter.structure(value, kind)
            for rule in rules:
                if not rule.holds(parsed):
                    raise ValueError(rule.must)
            return parsed

        return structure

    def texts(value: object, _type: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(type(item) is str for item in value):
            raise ValueError("must be a list of texts")
        return tuple(value)

    def table(value: object, _type: object) -> Mapping[str, BackendConfig]:
        if not isinstance(value, dict):
            raise ValueError("must hold a table for each backend, for example [backends.web]")
        return typing.cast(Mapping[str, BackendConfig], converter.structure(value, dict[str, BackendConfig]))

    def one_of(value: object, choice: Any) -> object:
        words = typing.get_args(choice)
        if value not in words:
            raise ValueError("must be one of " + ", ".join(words))
        return value

    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], texts)
    converter.register_structure_hook_func(lambda kind: kind == Mapping[str, BackendConfig], table)
    converter.register_structure_hook_func(lambda kind: _is_a(kind, Literal), one_of)
    converter.register_structure_hook_factory(lambda kind: _is_a(kind, Annotated), ruled)
    return converter


_CONVERTER = _converter()
