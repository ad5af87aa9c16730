"""The configurations of a cell: the shipped template, the same for every way, and the lab's small renderer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.demo.stage import SHIPPED, ShippedFileChangedError, adapted_settings

BACKEND = "web"
SERVER_OPTIONS = "check inter 2s"
_SERVERS = f'    {{{{ servers("{BACKEND}") }}}}\n'


def template(admin_socket: Path) -> str:
    """The shipped template, but for the path of the socket, the log, and the user it would become.

    It listens on port 80 of every address.
    """
    text = (SHIPPED / "haproxy.cfg.j2").read_text(encoding="utf-8")
    return _replaced(
        text,
        {
            "log /dev/log local0": "log stderr format raw local0",
            "    user haproxy\n    group haproxy\n": "",
            "stats socket /run/haproxy/admin.sock": f"stats socket {admin_socket}",
        },
    )


def rendered(text: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """The `template` with a server line for each of `entries`, which are those of /v1/health/service.

    Sorted by address, so that the same instances make the same text; named by it, so that a server keeps its name.
    """
    places = sorted((entry["Service"]["Address"], entry["Service"]["Port"]) for entry in entries)
    return filled(
        text, "".join(f"    server {host}_{port} {host}:{port} {SERVER_OPTIONS}\n" for host, port in places)
    )


def filled(text: str, lines: str) -> str:
    """The `template` with `lines` in the place of the backend's servers."""
    return _replaced(text, {_SERVERS: lines})


def settings(paths: Mapping[str, object], *, slots: int, options: str) -> str:
    """The shipped hapsync.toml with other `paths`, by their keys, and `options`, lines for the backend."""
    return adapted_settings(
        (SHIPPED / "hapsync.toml").read_text(encoding="utf-8"),
        {key: json.dumps(value) for key, value in paths.items()},
        {BACKEND: slots},
        SERVER_OPTIONS,
        backend_options=options,
    )


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        if old not in text:
            raise ShippedFileChangedError(f"the shipped template no longer has {old!r}")
        text = text.replace(old, new)
    return text
