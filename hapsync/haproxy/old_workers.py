"""Workers that a reload left behind: their sessions, gone servers, and the time to end the former.

An old worker keeps the connections it has, and the servers it had: nothing that the Runtime API does to the live
worker reaches it. So after a reload a download may run on to a server that has left since.
"""

import re
from collections.abc import Iterable, Mapping

import attrs

from hapsync.errors import RuntimeAPIError
from hapsync.haproxy.show import address_of
from hapsync.model.server import Address, AdminState, Backend, is_ours
from hapsync.plan.desired import Desired
from hapsync.text import plural

MANY = 5
"""More old workers than this are logged; each has memory of its own."""
LONG_SECONDS = 3600
"""A worker that has been old for longer is told in the log."""
CUTS = 20
"""How many sessions one round ends, at most: a server must not get all its clients back at once."""

_UPTIME = re.compile(r"(\d+)d(\d+)h(\d+)m(\d+)s")
_SESSION = re.compile(r"(0x[0-9a-f]{1,16}): ")


@attrs.frozen
class Listed:
    """A worker in the master's list (`show proc`): how many reloads it has outlived, how long it has run."""

    pid: int
    reloads: int
    uptime_seconds: int


@attrs.frozen
class OnServer:
    """A worker's load on one server: its address (None where it is no IP literal), connections in use."""

    backend: str
    server: str
    address: Address | None
    used: int


@attrs.frozen
class Gone:
    """A gone server with connections of an old worker.

    `used`: connections in use, as HAProxy says. `connections`: established ones, idle ones too, as the kernel says;
    None where it could not be asked (`OldWorker.error` tells why).
    """

    backend: str
    server: str
    address: Address
    used: int
    connections: int | None = None


@attrs.frozen
class OldWorker:
    """One old worker, `age_seconds` after another took its place.

    `sessions` is how many connections of clients it has, None where it did not answer; `error` is what could not be
    found out, and why.
    """

    pid: int
    age_seconds: int
    uptime_seconds: int
    sessions: int | None = None
    gone: tuple[Gone, ...] = ()
    error: str | None = None


@attrs.frozen
class OldWorkers:
    """All old workers as of `seen_at` (seconds of the wall clock); `error` is why they could not be listed.

    `ended` counts the sessions that were ended since the agent started.
    """

    seen_at: float = 0.0
    workers: tuple[OldWorker, ...] = ()
    error: str | None = None
    ended: int = 0


NOT_LOOKED = OldWorkers()


def uptime_seconds(text: str) -> int:
    """Return the seconds of an uptime as `show proc` writes it, `0d01h02m03s`; 0 for anything else."""
    found = _UPTIME.fullmatch(text)
    if found is None:
        return 0
    days, hours, minutes, seconds = map(int, found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def old_among(listed: Iterable[Listed], live_pid: int) -> tuple[OldWorker, ...]:
    """Return the old ones of the master's workers, the oldest first.

    The heading in the list does not tell: after a reload that failed, the live worker stands under `# old workers`
    with 2.2, 3.2 and 3.4. A worker is old if it has outlived more reloads than the worker on HAProxy's socket. Where
    that one is not in the list, a reload goes on, and nothing is known. The age is the uptime of the next younger
    worker there is: that one, or one before it, took the place.
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
    """Return what a worker has on each of its servers, from the reply to `show servers conn`.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    lines = text.strip("\n").split("\n")
    header = lines[0].removeprefix("# ").split()
    try:
        names, address, port, used = map(header.index, ("bkname/svname", "addr", "port", "used_cur"))
        found = []
        for line in filter(None, lines[1:]):
            fields = line.split()
            backend, server = fields[names].split("/")
            found.append(OnServer(backend, server, address_of(fields[address], fields[port]), int(fields[used])))
    except (ValueError, IndexError) as error:
        raise RuntimeAPIError(f"`show servers conn` answered {text[:80]!r}, which is no list: {error}") from error
    return tuple(found)


def parse_session_count(text: str) -> int:
    """Return how many connections of clients a worker has, from the reply to `show info`.

    Raises RuntimeAPIError when the text is not such a reply.
    """
    found = re.search(r"(?m)^CurrConns: (\d+)$", text)
    if found is None:
        raise RuntimeAPIError(f"`show info` answered {text[:80]!r}, which lacks CurrConns")
    return int(found[1])


def parse_sessions(text: str) -> tuple[tuple[str, str, str], ...]:
    """Return id, backend and server of each session that has a server, from the reply to `show sess`.

    A line of it: `0x55f0c0de: proto=tcpv4 src=... fe=public be=web srv=srv1 ts=00 ...` (2.2 to 3.4).
    """
    sessions = []
    for line in text.split("\n"):
        start = _SESSION.match(line)
        if start is not None:
            fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if fields.get("srv", "<none>") != "<none>" and "be" in fields:
                sessions.append((start[1], fields["be"], fields["srv"]))
    return tuple(sessions)


def gone_among(servers: Iterable[OnServer], wanted: Desired, live: Mapping[str, Backend]) -> tuple[Gone, ...]:
    """Return which of an old worker's `servers` are gone while it has connections to them in use.

    Gone is a server of ours whose address the catalog does not name any more, and to which no server of the `live`
    worker points but one in maint. Critical, deferred, drained and foreign servers are not gone, and neither are
    servers of a backend without a reading, or with one in doubt.
    """
    found = []
    for one in servers:
        want, have = wanted.backends.get(one.backend), live.get(one.backend)
        if not one.used or one.address is None or not is_ours(one.server) or have is None or not have.exists:
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
        found.append(Gone(one.backend, one.server, one.address, one.used))
    return tuple(found)


@attrs.frozen
class Graces:
    """Since when each old worker's server has been seen gone, by pid, backend and address (monotonic seconds)."""

    since: Mapping[tuple[int, str, Address], float] = attrs.field(factory=dict)

    def seen(self, workers: Iterable[OldWorker], now: float) -> "Graces":
        """Return what is known after a look that showed `workers`; what is not gone any more begins anew.

        A worker that did not answer in full tells nothing, so what was known of it stays.
        """
        since = {}
        for worker in workers:
            if worker.sessions is None:
                since.update({key: at for key, at in self.since.items() if key[0] == worker.pid})
            for gone in worker.gone:
                key = (worker.pid, gone.backend, gone.address)
                since[key] = self.since.get(key, now)
        return Graces(since)

    def is_over(self, worker: OldWorker, gone: Gone, now: float, grace_seconds: float) -> bool:
        """Return whether the sessions on `gone` may be ended; never with a grace of 0, which means none ever are."""
        since = self.since.get((worker.pid, gone.backend, gone.address))
        return grace_seconds > 0 and since is not None and now - since >= grace_seconds


def alarms(workers: Iterable[OldWorker]) -> tuple[str, ...]:
    """Return the log line about the old workers; nothing while they are few and young."""
    found = tuple(workers)
    said = []
    if len(found) > MANY:
        said.append(f"more than {MANY} old workers of HAProxy run on")
    said += [
        f"old worker {one.pid} of HAProxy has run on for over {plural(LONG_SECONDS // 60, 'minute')} after a reload"
        for one in found
        if one.age_seconds > LONG_SECONDS
    ]
    return tuple(said)
