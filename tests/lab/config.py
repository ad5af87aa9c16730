"""The configurations of a cell: the shipped template, the same for every way, and the lab's small renderer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.demo.stage import SHIPPED, ShippedFileChangedError, adapted_settings
from tests.lab.certificate import CERTIFICATE

BACKEND = "web"
TCP_BACKEND = "web_tcp"
"""The servers of the same service, for connections that are not HTTP."""
PORT, TLS_PORT, TCP_PORT = 80, 443, 9000
SERVER_OPTIONS = "check inter 2s"
_SERVERS = '    {{{{ servers("{}") }}}}\n'
_TCP = f"""
defaults
    mode tcp
    log global
    option tcplog
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    option redispatch 1
    retries 3

frontend lines
    bind :{TCP_PORT}
    default_backend {TCP_BACKEND}

backend {TCP_BACKEND}
    balance roundrobin
    option httpchk GET /healthcheck
    http-check expect status 200
{_SERVERS.format(TCP_BACKEND)}"""


def template(admin_socket: Path, *, has_tcp: bool = True) -> str:
    """The shipped template, but for the path of the socket, the log, and the user it would become.

    Added is what the lab's traffic needs: TLS on port 443 beside port 80, with the certificate (`certificate.py`)
    that is to be beside the socket; and, unless `has_tcp` is false, `TCP_BACKEND` on port 9000. All on every
    address.
    """
    text = (SHIPPED / "haproxy.cfg.j2").read_text(encoding="utf-8")
    certificate = admin_socket.with_name(CERTIFICATE)
    text = _replaced(
        text,
        {
            "log /dev/log local0": "log stderr format raw local0",
            "    user haproxy\n    group haproxy\n": "",
            "stats socket /run/haproxy/admin.sock": f"stats socket {admin_socket}",
            "    bind :80\n": f"    bind :{PORT}\n    bind :{TLS_PORT} ssl crt {certificate} alpn h2,http/1.1\n",
        },
    )
    return text + _TCP if has_tcp else text


def rendered(text: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """The `template` with a server line for each of `entries`, which are those of /v1/health/service.

    Sorted by address, so that the same instances make the same text; named by it, so that a server keeps its name.
    """
    places = sorted((entry["Service"]["Address"], entry["Service"]["Port"]) for entry in entries)
    return filled(
        text, "".join(f"    server {host}_{port} {host}:{port} {SERVER_OPTIONS}\n" for host, port in places)
    )


def filled(text: str, lines: str) -> str:
    """The `template` with `lines` in the place of the servers of each backend."""
    text = _replaced(text, {_SERVERS.format(BACKEND): lines})
    return text.replace(_SERVERS.format(TCP_BACKEND), lines)


def settings(paths: Mapping[str, object], *, slots: int, options: str) -> str:
    """The shipped hapsync.toml with other `paths`, by their keys, and `options`, lines for each backend."""
    text = adapted_settings(
        (SHIPPED / "hapsync.toml").read_text(encoding="utf-8"),
        {key: json.dumps(value) for key, value in paths.items()},
        {BACKEND: slots, TCP_BACKEND: slots},
        SERVER_OPTIONS,
        backend_options=options,
    )
    return _replaced(text, {f'service = "{TCP_BACKEND}"': f'service = "{BACKEND}"'})


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        if old not in text:
            raise ShippedFileChangedError(f"the shipped template no longer has {old!r}")
        text = text.replace(old, new)
    return text
