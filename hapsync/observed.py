"""HAProxy's own words in, `Observed` out: `show servers state`, `show stat`, `show info`.

Columns are found by the header's names, never by position: 2.2 has 20 of them in `show servers state`, 2.4 and
newer 25, and `show stat` grows with every release.
"""

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache

import attrs

from hapsync.errors import RuntimeAPIError
from hapsync.model import (
    Address,
    AdminState,
    Backend,
    HAProxyProcess,
    Load,
    Observed,
    Server,
    canonical_host,
    slot_number,
)

MAINT_BITS = 0x23
"""FMAINT, IMAINT and RMAINT (management manual, `show servers state`). Without 0x04: it says `disabled` stood in the
file, and stays set while the server serves (measured on 2.6.12: 5 becomes 4 after `state ready`)."""
DRAIN_BITS = 0x18

NO_SUCH_BACKEND = "Can't find backend."
_STATE_COLUMNS = (
    "be_id",
    "be_name",
    "srv_name",
    "srv_addr",
    "srv_port",
    "srv_op_state",
    "srv_admin_state",
    "srv_uweight",
)
_LOAD_COLUMNS = ("pxname", "svname", "scur", "qcur", "used_conn_cur", "idle_conn_cur")
_HEALTH_COLUMNS = ("status", "check_status", "check_desc", "lastchg")


def parse_servers_state(text: str, backends: Collection[str]) -> Observed:
    """Return the reading that `text`, the reply to `show servers state`, gives of `backends`.

    Other backends are passed over; one that the text does not show is given as not existing.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    servers: dict[str, list[Server]] = {name: [] for name in backends}
    ids: dict[str, int] = {}
    lines = iter(text.split("\n"))
    if next(lines, "") != "1":
        raise RuntimeAPIError(f"`show servers state` answered {text[:80]!r}, not a reading of version 1")
    columns = next(lines, "").removeprefix("# ").split(" ")
    try:
        proxy_id, name, server, address, port, op_state, admin, weight = map(columns.index, _STATE_COLUMNS)
        for line in lines:
            if not line:
                continue
            fields = line.split(" ")
            found = servers.get(fields[name])
            if found is not None:
                ids[fields[name]] = int(fields[proxy_id])
                found.append(
                    Server(
                        fields[server],
                        _address(fields[address], fields[port]),
                        _admin(int(fields[admin])),
                        int(fields[weight]),
                        is_up=fields[op_state] != "0",
                    )
                )
    except (ValueError, IndexError) as error:
        raise RuntimeAPIError(f"`show servers state` gave a line that cannot be read: {error}") from error
    return Observed({name: _backend(name, ids.get(name, 0), found) for name, found in servers.items()})


def parse_loads(text: str) -> Mapping[tuple[str, str], Load]:
    """Return the load of each server that `text`, the reply to `show stat`, shows, by backend and server.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    loads: dict[tuple[str, str], Load] = {}
    for backend, server, *counts in _stat_rows(text, _LOAD_COLUMNS):
        sessions, queued, used, idle = map(_count, counts)
        loads[backend, server] = Load(sessions, queued, used, idle)
    return loads


@attrs.frozen
class Health:
    """HAProxy's own opinion of a server, for people: its status and its last check's result."""

    status: str
    check: str
    since_seconds: int


def parse_health(text: str) -> Mapping[tuple[str, str], Health]:
    """Return HAProxy's own check result of each server that `text`, the reply to `show stat`, shows.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    return {
        (backend, server): Health(status, " ".join(filter(None, (check, description))), _count(changed))
        for backend, server, status, check, description, changed in _stat_rows(
            text, ("pxname", "svname", *_HEALTH_COLUMNS)
        )
    }


def with_loads(observed: Observed, loads: Mapping[tuple[str, str], Load]) -> Observed:
    """Return `observed` with the load of its slots filled in; a slot that `loads` lacks stays unknown."""

    def filled(backend: Backend) -> Backend:
        def loaded(servers: Iterable[Server]) -> tuple[Server, ...]:
            return tuple(server.with_load(loads.get((backend.name, server.name), server.load)) for server in servers)

        return attrs.evolve(backend, slots=loaded(backend.slots), foreign=loaded(backend.foreign))

    return Observed({name: filled(backend) for name, backend in observed.backends.items()})


def parse_info(text: str) -> HAProxyProcess:
    """Return who answered, from the reply to `show info`.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    fields = dict(line.split(": ", 1) for line in text.split("\n") if ": " in line)
    try:
        return HAProxyProcess(
            pid=int(fields["Pid"]),
            version=fields["Version"],
            uptime_seconds=int(fields["Uptime_sec"]),
            is_stopping=fields.get("Stopping", "0") != "0",
        )
    except (KeyError, ValueError) as error:
        raise RuntimeAPIError(f"`show info` answered {text[:80]!r}, which lacks {error}") from error


def _backend(name: str, proxy_id: int, servers: Iterable[Server]) -> Backend:
    slots: list[Server] = []
    foreign: list[Server] = []
    for server in servers:
        (slots if server.is_slot else foreign).append(server)
    slots.sort(key=lambda slot: slot_number(slot.name))
    return Backend(name, tuple(slots), tuple(foreign), exists=bool(slots or foreign), proxy_id=proxy_id)


@lru_cache(maxsize=65536)
def _address(host: str, port: str) -> Address | None:
    try:
        return Address(canonical_host(host), int(port))
    except ValueError:
        return None


def _admin(bits: int) -> AdminState:
    if bits & MAINT_BITS:
        return AdminState.MAINT
    return AdminState.DRAIN if bits & DRAIN_BITS else AdminState.READY


def _stat_rows(text: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if text.strip() == "":
        return
    header, *rows = text.strip("\n").split("\n")  # only LF: a check's description may hold other line ends
    columns = header.removeprefix("# ").split(",")
    try:
        places = [columns.index(name) for name in wanted]
        kind = columns.index("type")
    except ValueError as error:
        raise RuntimeAPIError(f"`show stat` answered {text[:80]!r}, not a reading: {error}") from error
    last = max(*places, kind)
    for row in rows:
        if not row:
            continue
        fields = _fields(row)
        if len(fields) <= last:
            raise RuntimeAPIError(f"`show stat` gave a line that cannot be read: {row[:80]!r}")
        if fields[kind] == "2":  # a server; 0 is a frontend, 1 a backend
            yield tuple(fields[place] for place in places)


def _count(text: str) -> int:
    try:
        return int(text or 0)
    except ValueError as error:
        raise RuntimeAPIError(f"`show stat` gave {text[:80]!r} where a number belongs") from error


def _fields(row: str) -> list[str]:
    # The csv module costs three times as much; only free texts (a check's description) are ever quoted.
    if '"' not in row:
        return row.split(",")
    return next(csv.reader([row]))
