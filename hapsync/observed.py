"""HAProxy's own words in, `Observed` out: `show servers state`, `show stat`, `show info`.

Columns are found by the header's names, never by position: 2.2 has 20 of them in `show servers state`, 2.4 and
newer 25, and `show stat` grows with every release.
"""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache

import attrs

from hapsync.errors import RuntimeAPIError
from hapsync.model import (
    PLACEHOLDER,
    SLOTS_ONLY,
    Address,
    AdminState,
    Backend,
    HAProxyProcess,
    Load,
    Means,
    Observed,
    Proof,
    Server,
    canonical_host,
    is_ours,
    server_order,
)

MAINT_BITS = 0x23
"""FMAINT, IMAINT and RMAINT (management manual, `show servers state`). Without 0x04: it says `disabled` stood in the
file, and stays set while the server serves (measured on 2.6.12: 5 becomes 4 after `state ready`)."""
DRAIN_BITS = 0x18
CHECK_BITS = 0x06
"""A check is configured (0x02) and enabled (0x04); management manual, `show servers state`, srv_check_state."""
PASSED_RESULTS = ("3", "4")
"""CHK_RES_PASSED and CHK_RES_CONDPASS of srv_check_result."""
PROVEN_SECONDS = 60
"""A server that is up for this long with checks has passed one; before that the result may be that of an earlier
address of the slot, for entering resets only the counter (2.6.12: the result stays, the health falls to `rise`)."""

LESSON_SECONDS = 15
"""Within so long a new worker has learnt its stick tables, or given up: 5 s for the old worker, 5 s for other peers
(HAProxy's src/peers.c, PEER_RESYNC_TIMEOUT)."""
TEACHER_SECONDS = 2
"""Within so long of its start the old worker has begun to teach it (measured on 2.6 to 3.4: 0.2 s)."""
_PEERS = re.compile(r"(?m)^0x[0-9a-f]+: \[[^\]]*\] id=\S+ disabled=0 flags=0x([0-9a-f]+) ")
_LOCAL_IS_OVER = 0x1
_HAS_TEACHER = 0x4

NO_SUCH_BACKEND = "Can't find backend."
_STATE_COLUMNS = (
    "be_id",
    "be_name",
    "srv_id",
    "srv_name",
    "srv_addr",
    "srv_port",
    "srv_op_state",
    "srv_admin_state",
    "srv_uweight",
    "srv_time_since_last_change",
    "srv_check_result",
    "srv_check_state",
)
_PROOF_COLUMNS = ("pxname", "svname", "check_health", "check_rise", "check_fall", "lastchg")
_LOAD_COLUMNS = ("pxname", "svname", "scur", "qcur", "used_conn_cur", "idle_conn_cur")
_HEALTH_COLUMNS = ("status", "check_status", "check_desc", "lastchg")


def parse_servers_state(
    text: str, backends: Collection[str], only: Collection[tuple[str, str]] | None = None
) -> Observed:
    """Return the reading that `text`, the reply to `show servers state`, gives of `backends`.

    Other backends are passed over; one that the text does not show is given as not existing. With `only` so are all
    servers but these, by backend and name.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    servers: dict[str, list[Server]] = {name: [] for name in backends}
    ids: dict[str, int] = {}
    lines = iter(text.split("\n"))
    if next(lines, "") != "1":
        raise RuntimeAPIError(f"`show servers state` answered {text[:80]!r}, not a reading of version 1")
    columns = next(lines, "").removeprefix("# ").split(" ")
    try:
        proxy_id, name, server_id, server, address, port, op_state, admin, weight, since, result, checks = map(
            columns.index, _STATE_COLUMNS
        )
        for line in lines:
            if not line:
                continue
            fields = line.split(" ")
            found = servers.get(fields[name])
            if found is None or (only is not None and (fields[name], fields[server]) not in only):
                continue
            ids[fields[name]] = int(fields[proxy_id])
            state = _admin(fields[admin])
            if state is AdminState.MAINT and _is_placeholder(fields[address], fields[port]):
                found.append(_free(fields[server], fields[weight], fields[op_state], fields[server_id]))
            else:
                found.append(
                    Server(
                        fields[server],
                        _address(fields[address], fields[port]),
                        state,
                        int(fields[weight]),
                        is_up=fields[op_state] != "0",
                        proof=_proof(fields[since], fields[result], fields[checks]),
                        since_seconds=int(fields[since]),
                        id=int(fields[server_id]),
                    )
                )
    except (ValueError, IndexError) as error:
        raise RuntimeAPIError(f"`show servers state` gave a line that cannot be read: {error}") from error
    return Observed({name: _backend(name, ids.get(name, 0), found) for name, found in servers.items()})


def parse_loads(text: str, only: Collection[tuple[str, str]] | None = None) -> Mapping[tuple[str, str], Load]:
    """Return the load of each server that `text`, the reply to `show stat`, shows, by backend and server.

    With `only`, of these alone.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    loads: dict[tuple[str, str], Load] = {}
    for backend, server, *counts in _stat_rows(text, _LOAD_COLUMNS, only):
        sessions, queued, used, idle = map(_count, counts)
        loads[backend, server] = Load(sessions, queued, used, idle)
    return loads


def parse_proofs(text: str, only: Collection[tuple[str, str]] | None = None) -> Mapping[tuple[str, str], Proof]:
    """Return whether the first check of each server has passed, from the reply to `show stat`; with `only`, of these.

    On entering a server's check counter is at `rise`, and the first passed check lifts it to `rise + fall - 1`
    (2.6.12). With `fall 1` these are the same: then only time tells.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    proofs = {}
    for backend, server, *texts in _stat_rows(text, _PROOF_COLUMNS, only):
        health, rise, fall, since = map(_count, texts)
        has_passed = not texts[0] or since >= PROVEN_SECONDS or (fall > 1 and health >= rise + fall - 1)
        proofs[backend, server] = Proof.PASSED if has_passed else Proof.MISSING
    return proofs


def with_proofs(observed: Observed, proofs: Mapping[tuple[str, str], Proof]) -> Observed:
    """Return `observed` with what `proofs` says of the slots whose proof was not read; what it lacks stays unread."""

    def proven(backend: Backend) -> Backend:
        if all(slot.proof is not Proof.UNREAD for slot in backend.slots):
            return backend
        slots = tuple(
            attrs.evolve(slot, proof=proofs.get((backend.name, slot.name), slot.proof))
            if slot.proof is Proof.UNREAD
            else slot
            for slot in backend.slots
        )
        return attrs.evolve(backend, slots=slots)

    return Observed({name: proven(backend) for name, backend in observed.backends.items()})


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


def with_means(observed: Observed, means: Mapping[str, Means]) -> Observed:
    """Return `observed` with how each backend can be given more servers; one `means` lacks has its slots only."""
    return Observed(
        {
            name: attrs.evolve(backend, means=means.get(name, SLOTS_ONLY))
            for name, backend in observed.backends.items()
        }
    )


def is_learning(peers: str, uptime_seconds: int) -> bool:
    """Return whether others still teach stick tables to a worker this old, by its reply to `show peers`.

    The first two flags of a section say that it has learnt from the old worker, and from other balancers; the third
    that somebody teaches it now (HAProxy's peers-t.h, the same from 2.6 to 3.5).
    """
    if uptime_seconds >= LESSON_SECONDS:
        return False
    sections = [int(flags, 16) for flags in _PEERS.findall(peers)]
    is_young = uptime_seconds < TEACHER_SECONDS
    return any(flags & _HAS_TEACHER or (is_young and not flags & _LOCAL_IS_OVER) for flags in sections)


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
        (slots if is_ours(server.name) else foreign).append(server)
    slots.sort(key=lambda slot: server_order(slot.name))
    return Backend(name, tuple(slots), tuple(foreign), exists=bool(slots or foreign), proxy_id=proxy_id)


@lru_cache(maxsize=65536)
def _free(name: str, weight: str, op_state: str, server_id: str) -> Server:
    # Most servers of a large backend may be such, and of these neither checks nor times are asked for.
    number = int(server_id)
    is_up = op_state != "0"
    return Server(name, PLACEHOLDER, AdminState.MAINT, int(weight), is_up=is_up, proof=Proof.MISSING, id=number)


def _is_placeholder(host: str, port: str) -> bool:
    return port == _PLACEHOLDER_PORT and host == PLACEHOLDER.host


_PLACEHOLDER_PORT = str(PLACEHOLDER.port)


@lru_cache(maxsize=65536)
def _address(host: str, port: str) -> Address | None:
    try:
        return Address(canonical_host(host), int(port))
    except ValueError:
        return None


def _proof(since: str, result: str, checks: str) -> Proof:
    proof = _result(result, checks)
    return Proof.UNREAD if proof is Proof.PASSED and int(since) < PROVEN_SECONDS and _is_checked(checks) else proof


@lru_cache(maxsize=256)
def _result(result: str, checks: str) -> Proof:
    # What nothing checks is proven by being ready; that is all there is.
    return Proof.PASSED if not _is_checked(checks) or result in PASSED_RESULTS else Proof.MISSING


@lru_cache(maxsize=256)
def _is_checked(checks: str) -> bool:
    return int(checks) & CHECK_BITS == CHECK_BITS


@lru_cache(maxsize=256)
def _admin(text: str) -> AdminState:
    bits = int(text)
    if bits & MAINT_BITS:
        return AdminState.MAINT
    return AdminState.DRAIN if bits & DRAIN_BITS else AdminState.READY


def _stat_rows(
    text: str, wanted: tuple[str, ...], only: Collection[tuple[str, str]] | None = None
) -> Iterator[tuple[str, ...]]:
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
        # The names come first in every version, and never need quotes.
        if not row or (only is not None and tuple(row.split(",", 2)[:2]) not in only):
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
