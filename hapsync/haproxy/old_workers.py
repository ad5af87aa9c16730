"""Old workers: their sessions, the gone servers, and the time to end sessions on gone servers.

An old worker keeps its connections and its servers, and Runtime API commands to the live worker do not reach it.
After a reload, a download may therefore go on from a server that has left since.
"""

import re
from collections.abc import Iterable, Mapping

import attrs

from hapsync.errors import RuntimeAPIError
from hapsync.haproxy.show import address_of, places
from hapsync.model.server import Address, AdminState, Backend, is_ours
from hapsync.plan.desired import Desired
from hapsync.text import plural

MANY = 5
"""More old workers than this are logged, because each takes memory."""
LONG_SECONDS = 3600
"""A worker that has been old for longer is logged."""
CUTS = 20
"""The most sessions that one round ends, so not all clients reconnect at once."""

_UPTIME = re.compile(r"(\d+)d(\d+)h(\d+)m(\d+)s")
_SESSION = re.compile(r"(0x[0-9a-f]{1,16}): ")


@attrs.frozen
class Listed:
    """A worker in the master's list (`show proc`): its number of reloads, and its uptime."""

    pid: int
    reloads: int
    uptime_seconds: int


@attrs.frozen
class OnServer:
    """The connections of a worker to one server.

    `used`: connections in use, counted by HAProxy. `connections`: established connections, idle ones included,
    counted by the kernel; None without its answer (`OldWorker.error` has the reason).
    """

    backend: str
    server: str
    address: Address
    used: int
    connections: int | None = None


@attrs.frozen
class OldWorker:
    """One old worker, `age_seconds` after another one replaced it.

    `sessions` is the number of its client connections, None without its answer. `gone` are the gone servers with
    connections of it. `error` names missing facts, and why.
    """

    pid: int
    age_seconds: int
    uptime_seconds: int
    sessions: int | None = None
    gone: tuple[OnServer, ...] = ()
    error: str | None = None


@attrs.frozen
class OldWorkers:
    """All old workers at `seen_at` (seconds of the wall clock); `error` is why they could not be listed.

    `ended` counts the sessions ended since the agent's start.
    """

    seen_at: float = 0.0
    workers: tuple[OldWorker, ...] = ()
    error: str | None = None
    ended: int = 0


NOT_LOOKED = OldWorkers()


def uptime_seconds(text: str) -> int:
    """Return the seconds of an uptime in the form of `show proc`, `0d01h02m03s`; 0 for any other text."""
    found = _UPTIME.fullmatch(text)
    if found is None:
        return 0
    days, hours, minutes, seconds = map(int, found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def old_among(listed: Iterable[Listed], live_pid: int) -> tuple[OldWorker, ...]:
    """Return the old workers among the master's workers, the oldest first.

    The headings of the list are not reliable: after a failed reload, the live worker stands under `# old workers`
    with 2.2, 3.2 and 3.4. A worker is old if it has more reloads than the worker on HAProxy's socket. Where that
    worker is not in the list, a reload is running, and the result is empty. The age is the uptime of the next younger
    worker in the list, because that worker, or one before it, replaced the old one.
    """
    youngest_first = sorted(listed, key=lambda one: (one.reloads, one.uptime_seconds))
    live = next((one for one in youngest_first if one.pid == live_pid), None)
    if live is None:
        return ()
    old = []
    for worker in youngest_first:
        if worker.reloads > live.reloads:
            successor = [one for one in youngest_first if live.reloads <= one.reloads < worker.reloads][-1]
            old.append(OldWorker(worker.pid, successor.uptime_seconds, worker.uptime_seconds))
    return tuple(reversed(old))


def parse_connections(text: str) -> tuple[OnServer, ...]:
    """Return a worker's connections to each of its servers with an IP address, from the reply to `show servers conn`.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    lines = text.strip("\n").split("\n")
    header = lines[0].removeprefix("# ").split()
    columns = ("bkname/svname", "addr", "port", "used_cur")
    names, host, port, used = places("show servers conn", text, header, columns)
    found = []
    try:
        for fields in map(str.split, filter(None, lines[1:])):
            backend, server = fields[names].split("/")
            if (address := address_of(fields[host], fields[port])) is not None:
                found.append(OnServer(backend, server, address, int(fields[used])))
    except (ValueError, IndexError) as error:
        raise RuntimeAPIError(f"`show servers conn` answered {text[:80]!r}, which is no list: {error}") from error
    return tuple(found)


def parse_session_count(text: str) -> int:
    """Return the number of a worker's client connections, from the reply to `show info`.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    found = re.search(r"(?m)^CurrConns: (\d+)$", text)
    if found is None:
        raise RuntimeAPIError(f"`show info` answered {text[:80]!r}, which lacks CurrConns")
    return int(found[1])


def parse_sessions(text: str) -> tuple[tuple[str, str, str], ...]:
    """Return id, backend and server of each session that has a server, from the reply to `show sess`.

    An example of a line: `0x55f0c0de: proto=tcpv4 src=... fe=public be=web srv=srv1 ts=00 ...` (2.2 to 3.4).
    """
    sessions = []
    for line in text.split("\n"):
        start = _SESSION.match(line)
        if start is not None:
            fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if fields.get("srv", "<none>") != "<none>" and "be" in fields:
                sessions.append((start[1], fields["be"], fields["srv"]))
    return tuple(sessions)


def gone_among(servers: Iterable[OnServer], wanted: Desired, live: Mapping[str, Backend]) -> tuple[OnServer, ...]:
    """Return the gone servers among an old worker's `servers` to which it has connections in use.

    A server of hapsync's is gone if its address is not in the catalog any more, and the `live` worker has it in no
    server except in maint. Critical, deferred, drained and foreign servers are not gone, nor are servers of a backend
    without a reading or with a reading in doubt.
    """
    found = []
    for one in servers:
        want, have = wanted.backends.get(one.backend), live.get(one.backend)
        if not one.used or not is_ours(one.server) or have is None or not have.exists:
            continue
        if want is None or want.doubt is not None:
            continue
        points_there = {
            server.address
            for server in (*have.slots, *have.foreign)
            if server.admin is not AdminState.MAINT or server.is_overridden
        }
        overrides = wanted.overrides.get(one.backend, {})
        if one.address in want.by_address or one.address in points_there or one.address in overrides:
            continue
        found.append(one)
    return tuple(found)


@attrs.frozen
class Graces:
    """The times since when servers of old workers are gone, by pid, backend and address (monotonic seconds)."""

    since: Mapping[tuple[int, str, Address], float] = attrs.field(factory=dict)

    def seen(self, workers: Iterable[OldWorker], now: float) -> "Graces":
        """Return the value after a reading of `workers`; the time of a server that is not gone any more is forgotten.

        The times of a worker without a full answer stay.
        """
        since = {}
        for worker in workers:
            if worker.sessions is None:
                since.update({key: at for key, at in self.since.items() if key[0] == worker.pid})
            for gone in worker.gone:
                key = (worker.pid, gone.backend, gone.address)
                since[key] = self.since.get(key, now)
        return Graces(since)

    def is_over(self, worker: OldWorker, gone: OnServer, now: float, grace_seconds: float) -> bool:
        """Return whether the sessions on `gone` may be ended; a grace of 0 means never."""
        since = self.since.get((worker.pid, gone.backend, gone.address))
        return grace_seconds > 0 and since is not None and now - since >= grace_seconds


def alarms(workers: Iterable[OldWorker]) -> tuple[str, ...]:
    """Return the log line about the old workers; empty while they are few and young."""
    found = tuple(workers)
    many = (f"more than {MANY} old workers of HAProxy run on",) if len(found) > MANY else ()
    long = f"of HAProxy has run on for over {plural(LONG_SECONDS // 60, 'minute')} after a reload"
    return (*many, *(f"old worker {one.pid} {long}" for one in found if one.age_seconds > LONG_SECONDS))
