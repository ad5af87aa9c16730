"""HAProxy's replies in, `Observed` out: `show servers state`, `show stat`, `show info`.

Columns are found by name, never by position: `show servers state` has 20 columns in 2.2 and 25 in 2.4 and newer, and
`show stat` grows with every release.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

import attrs

from hapsync.errors import RuntimeAPIError
from hapsync.model.server import (
    PLACEHOLDER,
    SLOTS_ONLY,
    Address,
    AdminState,
    Backend,
    FirstCheck,
    HAProxyProcess,
    Load,
    Observed,
    Scaling,
    Server,
    canonical_host,
    is_ours,
    server_order,
)
from hapsync.text import shown

MAINT_BITS = 0x23
"""FMAINT, IMAINT and RMAINT (management manual, `show servers state`). CMAINT (0x04) is left out: it means `disabled`
in the file, and stays set while the server serves (measured on 2.6.12: 5 becomes 4 after `state ready`)."""
DRAIN_BITS = 0x18
CHECK_BITS = 0x06
"""A check is configured (0x02) and enabled (0x04); management manual, `show servers state`, srv_check_state."""
_AGENT_BITS = 0x1F
"""The bits of the agent check; other bits leaked into the field before 2.7 (HAProxy's commit 99521abd5)."""
PASSED_RESULTS = ("3", "4")
"""CHK_RES_PASSED and CHK_RES_CONDPASS of srv_check_result."""
FIRST_CHECK_SECONDS = 60
"""A server with checks that has been up for this time has passed one. A younger result may belong to an earlier
address of the slot, for an entry resets only the counter (2.6.12: the result stays, the health falls to `rise`)."""

LESSON_SECONDS = 15
"""The longest time of a new worker to learn its stick tables: 5 s from the old worker, 5 s from other peers
(HAProxy's src/peers.c, PEER_RESYNC_TIMEOUT)."""
TEACHER_SECONDS = 2
"""The longest time until the old worker has begun to teach a new one (measured on 2.6 to 3.4: 0.2 s)."""
_PEERS = re.compile(r"(?m)^0x[0-9a-f]+: \[[^\]]*\] id=\S+ disabled=0 flags=0x([0-9a-f]+) ")
_LOCAL_IS_OVER = 0x1
_HAS_TEACHER = 0x4

_UNREADABLE_STATE = "`show servers state` gave a line that cannot be read: "
_UNREADABLE_COUNTERS = "`show stat` gave a line that cannot be read: "
NO_SUCH_BACKEND = "Can't find backend."
_STATE_COLUMNS = (
    *("be_id", "be_name", "srv_id", "srv_name", "srv_addr", "srv_port", "srv_op_state", "srv_admin_state"),
    *("srv_uweight", "srv_time_since_last_change", "srv_check_result", "srv_check_state"),
)
_STAT_COLUMNS = (
    *("pxname", "svname", "type", "status", "check_status", "check_desc"),
    *("scur", "qcur", "used_conn_cur", "idle_conn_cur", "check_health", "check_rise", "check_fall", "lastchg"),
)
_SERVER_ROW = "2"
"""The type of a server's row; 0 is a frontend, 1 a backend."""
_PLACEHOLDER = (PLACEHOLDER.host, str(PLACEHOLDER.port))


@attrs.frozen
class Health:
    """HAProxy's view of a server, for operators: its status, and the result of its last check."""

    status: str
    check: str
    since_seconds: int


@attrs.frozen
class Stat:
    """The counters of servers (`show stat`), by backend and name.

    `unread` has the backends with unreadable rows, and why; such a row is left out of the rest.
    """

    loads: Mapping[tuple[str, str], Load]
    first_checks: Mapping[tuple[str, str], FirstCheck]
    health: Mapping[tuple[str, str], Health]
    unread: Mapping[str, str]


def places(command: str, text: str, columns: Sequence[str], wanted: Sequence[str]) -> Sequence[int]:
    """Return the places of the `wanted` columns among `columns`, the header in `text`, the reply to `command`.

    Raises RuntimeAPIError when a column is missing.
    """
    try:
        return [columns.index(name) for name in wanted]
    except ValueError as error:
        raise RuntimeAPIError(f"`{command}` answered {text[:80]!r}, not a reading: {error}") from error


def parse_servers_state(
    text: str, backends: Collection[str], only: Collection[tuple[str, str]] | None = None
) -> Observed:
    """Return the reading of `backends` in `text`, the reply to `show servers state`.

    Other backends are ignored, and a backend missing in the text counts as not existing. With `only`, all servers but
    these, by backend and name, are ignored. An unreadable line costs its own backend alone, which is then in
    `unread`: a DNS server names the host of an SRV record, and HAProxy prints this name unquoted (2.6 to 3.4).

    Raises RuntimeAPIError when the text is not such a reply.
    """
    servers: dict[str, dict[str, Server]] = {name: {} for name in backends}
    ids: dict[str, int] = {}
    unread: dict[str, str] = {}
    lines = iter(text.split("\n"))
    if next(lines, "") != "1":
        raise RuntimeAPIError(f"`show servers state` answered {text[:80]!r}, not a reading of version 1")
    columns = next(lines, "").removeprefix("# ").split(" ")
    proxy_id, name, server_id, server, address, port, op_state, admin, weight, since, result, checks = places(
        "show servers state", text, columns, _STATE_COLUMNS
    )
    agent = columns.index("srv_agent_state") if "srv_agent_state" in columns else None
    for line in lines:
        fields = line.split(" ")
        found = servers.get(fields[name]) if len(fields) > name else None
        if found is None:
            continue
        if len(fields) != len(columns) or fields[server] in found:
            unread[fields[name]] = f"{_UNREADABLE_STATE}{shown(line)}"
            continue
        if only is not None and (fields[name], fields[server]) not in only:
            continue
        said = "0" if agent is None else fields[agent]
        try:
            ids[fields[name]] = int(fields[proxy_id])
            state = _admin(fields[admin])
            if state is AdminState.MAINT and (fields[address], fields[port]) == _PLACEHOLDER:
                one = _free(fields[server], fields[op_state], fields[server_id], said)
            else:
                one = Server(
                    fields[server],
                    address_of(fields[address], fields[port]),
                    state,
                    int(fields[weight]),
                    is_up=fields[op_state] != "0",
                    first_check=_first_check(
                        fields[result], fields[checks], int(fields[since]) < FIRST_CHECK_SECONDS
                    ),
                    since_seconds=int(fields[since]),
                    id=int(fields[server_id]),
                    agent=int(said) & _AGENT_BITS,
                )
            found[fields[server]] = one
        except ValueError as error:
            unread[fields[name]] = f"{_UNREADABLE_STATE}{shown(line)}: {shown(str(error))}"
    return Observed(
        {
            name: _backend(name, ids.get(name, 0), found.values())
            for name, found in servers.items()
            if name not in unread
        },
        unread,
    )


def parse_stat(
    texts: Iterable[str], backends: Iterable[str], only: Collection[tuple[str, str]] | None = None
) -> Stat:
    """Return the counters of the servers of `backends` in `texts`, replies to `show stat`.

    Other backends are ignored. With `only`, all servers but these, by backend and name, are ignored.

    Raises RuntimeAPIError when a text is not such a reply.
    """
    names = frozenset(backends)
    loads, first_checks, health, unread = {}, {}, {}, dict[str, str]()
    for text in filter(str.strip, texts):
        header, _, body = text.lstrip("\n").partition("\n")
        backend, server, *others = places("show stat", text, header.removeprefix("# ").split(","), _STAT_COLUMNS)
        for row in _rows(body, only):
            if len(row) <= backend or len(row) <= server:
                continue
            key = row[backend], row[server]
            if key[0] not in names or (only is not None and key not in only):
                continue
            try:
                kind, status, check, description, *counts = (row[place] for place in others)
                if kind != _SERVER_ROW:
                    continue
                sessions, queued, used, idle, *checked, since = (int(one or 0) for one in counts)
            except (ValueError, IndexError) as error:
                unread[key[0]] = f"{_UNREADABLE_COUNTERS}{shown(','.join(row))}: {shown(str(error))}"
                continue
            loads[key] = Load(sessions, queued, used, idle)
            first_checks[key] = _first_check_by_counter(checked, since, has_check=counts[4] != "")
            health[key] = Health(status, " ".join(filter(None, (check, description))), since)
    return Stat(loads, first_checks, health, unread)


def _first_check_by_counter(checked: Sequence[int], since_seconds: int, *, has_check: bool) -> FirstCheck:
    """Return whether a server's first check has passed, by its check counter, `rise` and `fall`.

    At the entry, the counter is at `rise`, and the first passed check lifts it to `rise + fall - 1` (2.6.12). With
    `fall 1` both are the same, and only time shows a first check.
    """
    counter, rise, fall = checked
    has_passed = not has_check or since_seconds >= FIRST_CHECK_SECONDS or (fall > 1 and counter >= rise + fall - 1)
    return FirstCheck.PASSED if has_passed else FirstCheck.MISSING


def with_first_checks(observed: Observed, first_checks: Mapping[tuple[str, str], FirstCheck]) -> Observed:
    """Return `observed` with `first_checks` in the slots whose first check was not read; others stay unread."""

    def first_checked(backend: Backend) -> Backend:
        if all(slot.first_check is not FirstCheck.UNREAD for slot in backend.slots):
            return backend
        slots = tuple(
            attrs.evolve(slot, first_check=first_checks.get((backend.name, slot.name), slot.first_check))
            if slot.first_check is FirstCheck.UNREAD
            else slot
            for slot in backend.slots
        )
        return attrs.evolve(backend, slots=slots)

    return observed.mapped(first_checked)


def with_loads(observed: Observed, loads: Mapping[tuple[str, str], Load]) -> Observed:
    """Return `observed` with the loads of its slots; the load of a slot missing in `loads` stays unknown."""

    def filled(backend: Backend) -> Backend:
        def loaded(servers: Iterable[Server]) -> tuple[Server, ...]:
            return tuple(server.with_load(loads.get((backend.name, server.name), server.load)) for server in servers)

        return attrs.evolve(backend, slots=loaded(backend.slots), foreign=loaded(backend.foreign))

    return observed.mapped(filled)


def with_scaling(observed: Observed, scaling: Mapping[str, Scaling]) -> Observed:
    """Return `observed` with the scaling of each backend; a backend missing in `scaling` has its slots only."""
    return observed.mapped(lambda backend: attrs.evolve(backend, scaling=scaling.get(backend.name, SLOTS_ONLY)))


def is_learning(peers: str, uptime_seconds: int) -> bool:
    """Return whether a worker of this age still learns stick tables, by `peers`, its reply to `show peers`.

    The first two flags of a section mean lessons from the old worker and from other balancers, the third a running
    lesson (HAProxy's peers-t.h, the same from 2.6 to 3.5).
    """
    if uptime_seconds >= LESSON_SECONDS:
        return False
    sections = [int(flags, 16) for flags in _PEERS.findall(peers)]
    is_young = uptime_seconds < TEACHER_SECONDS
    return any(flags & _HAS_TEACHER or (is_young and not flags & _LOCAL_IS_OVER) for flags in sections)


def parse_info(text: str) -> HAProxyProcess:
    """Return the process that answered, from the reply to `show info`.

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
def _free(name: str, op_state: str, server_id: str, agent: str) -> Server:
    # Most servers of a large backend may be free slots, whose weight, checks and times are not needed.
    return Server(
        name,
        PLACEHOLDER,
        AdminState.MAINT,
        1,
        is_up=op_state != "0",
        first_check=FirstCheck.MISSING,
        id=int(server_id),
        agent=int(agent) & _AGENT_BITS,
    )


@lru_cache(maxsize=65536)
def address_of(host: str, port: str) -> Address | None:
    """Return the address of a server; None for a name, a socket or a variable instead of an IP literal."""
    try:
        return Address(canonical_host(host), int(port))
    except ValueError:
        return None


@lru_cache(maxsize=256)
def _first_check(result: str, checks: str, is_young: bool) -> FirstCheck:  # noqa: FBT001  (a key of the cache)
    # A server without checks counts as checked once it is ready; HAProxy has no more evidence.
    if int(checks) & CHECK_BITS != CHECK_BITS:
        return FirstCheck.PASSED
    if result not in PASSED_RESULTS:
        return FirstCheck.MISSING
    return FirstCheck.UNREAD if is_young else FirstCheck.PASSED


@lru_cache(maxsize=256)
def _admin(text: str) -> AdminState:
    bits = int(text)
    if bits & MAINT_BITS:
        return AdminState.MAINT
    return AdminState.DRAIN if bits & DRAIN_BITS else AdminState.READY


def _rows(body: str, only: Collection[tuple[str, str]] | None) -> Iterable[Sequence[str]]:
    """Return the rows of a CSV text, in which a quoted field may contain line ends (up to 2.8).

    Raises RuntimeAPIError when it is no CSV.
    """
    if '"' in body:
        try:
            return list(csv.reader(io.StringIO(body, newline="")))
        except csv.Error as error:
            raise RuntimeAPIError(f"`show stat` gave no CSV: {error}") from error
    # Without quotes each row is a line, which costs a third; most rows of a large backend are not wanted anyway.
    lines = body.split("\n")
    return (line.split(",") for line in lines if only is None or tuple(line.split(",", 2)[:2]) in only)
