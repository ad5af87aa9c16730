"""Looks at HAProxy fifty times a second, with none of hapsync's code, and notes whatever hapsync must never do.

What else moves HAProxy is told here before it happens: people's hands, restarts, reloads by others. So what is left
is hapsync's doing, or HAProxy's own checks', and those change no administrative state.
"""

import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import field, frozen

from tests.harness.looks import Looks

KEPT_SECONDS = 30.0
FREE = "127.0.0.1:1"
SUSTAINED_SECONDS = 2.0
"""A capacity counts when it stood this long: the agent reads all once a second, and passes wait for a reload."""
EDGE_SECONDS = 0.3
"""A capacity seen last so shortly before the guard's window began may count there or not."""
Key = tuple[str, str]


@frozen
class Slot:
    """One server, as HAProxy shows it."""

    address: str
    admin: str  # "ready", "drain" or "maint"
    weight: int
    is_up: bool
    is_proven: bool  # its check has passed
    sessions: int

    @property
    def serves(self) -> bool:
        return self.admin == "ready" and self.weight > 0

    @property
    def is_capacity(self) -> bool:
        return self.serves and self.is_up and self.is_proven

    @property
    def is_overridden(self) -> bool:
        return self.admin != "ready" and self.weight > 0 and self.address != FREE

    @property
    def set_to(self) -> tuple[str, str, int]:
        """What somebody set it to."""
        return self.address, self.admin, self.weight


@frozen
class Sample:
    """All servers at one moment, by backend and name."""

    at: float
    pid: int
    slots: Mapping[Key, Slot]

    def of(self, backend: str) -> dict[str, Slot]:
        return {name: slot for (where, name), slot in self.slots.items() if where == backend}

    def capacity(self, backend: str) -> set[str]:
        return {slot.address for slot in self.of(backend).values() if slot.is_capacity}


@frozen
class Slow:
    """A request that took long, as its client saw it, and the worker that answered when it was sent."""

    pid: int
    backend: str
    address: str
    began: float
    ended: float


@frozen
class Laws:
    """What the agent was told to heed."""

    window_seconds: float
    max_loss_fraction: float
    min_ready: int
    backends: tuple[str, ...]


class Watcher(Looks):
    """The watching, and what it was told; `violations` are what it has seen."""

    def __init__(self, path: Path, laws: Laws) -> None:
        super().__init__()
        self.violations: list[str] = []
        self.samples: deque[Sample] = deque()
        self.given: dict[str, set[str]] = {name: set() for name in laws.backends}
        """Every address that Consul or a hand ever gave a backend."""
        self.overridden: dict[Key, str] = {}
        """By backend and address, the slot that a person set aside."""
        self.deferred: set[Key] = set()
        """Backend and address of what hapsync was asked to hold: it sets it aside again and again."""
        self.is_frozen = False
        self.is_agent_up = False
        self._laws = laws
        self._path = path
        self._lock = threading.RLock()
        self._released: set[str] = set()
        self._is_restarting = False
        self._history: dict[str, list[tuple[float, int]]] = {name: [] for name in laws.backends}
        self._left_at = 0.0
        self._last: Sample | None = None

    # What others do

    def reset(self) -> None:
        """Begin anew, with another HAProxy."""
        with self._lock:
            self.samples.clear()
            for backend in self._laws.backends:
                self.given[backend].clear()
                self._history[backend].clear()
            self.overridden.clear()
            self.deferred.clear()
            self.violations.clear()
            self.is_frozen = self.is_agent_up = self._is_restarting = False
            self._released.clear()
            self._last = None

    @contextmanager
    def hand(self) -> Iterator[Sample]:
        """A person changes HAProxy within the block; gives how it is."""
        with self._lock:
            yield self._look_at_once()
            self._last = self._look_at_once()

    @contextmanager
    def restart(self) -> Iterator[None]:
        """HAProxy is restarted, or reloaded by others, within the block."""
        with self._lock:
            self._is_restarting = True
        try:
            yield
        finally:
            with self._lock:
                self._last = self._look_at_once()
                self._rebase(self._last)
                self._is_restarting = False

    @contextmanager
    def released(self, backend: str) -> Iterator[None]:
        """A person lets go what the guard holds back in `backend`."""
        with self._lock:
            self._released.add(backend)
        try:
            yield
        finally:
            with self._lock:
                self._last = self._look_at_once()
                self._released.discard(backend)
                self._history[backend].clear()

    def agent_ended(self, *, is_killed: bool) -> None:
        """The agent runs no more; killed, it remembers what it knew when it last took something out."""
        with self._lock:
            self.is_agent_up = False
            if is_killed:
                for history in self._history.values():
                    history[:] = [one for one in history if one[0] <= self._left_at]

    def told(self, change: Callable[[], None]) -> None:
        """Change what is known, between two looks."""
        with self._lock:
            change()

    @property
    def last(self) -> Sample:
        with self._lock:
            return self._look_at_once()

    def slow(self, one: Slow) -> None:
        """A request ended that took long: all the while its server was in a slot of the worker that had it."""
        with self._lock:
            for sample in self.samples:
                there = {slot.address for slot in sample.of(one.backend).values()}
                is_meant = sample.pid == one.pid and one.began <= sample.at <= one.ended
                if is_meant and one.address not in there:
                    self._violated("busy", f"{one.backend} {one.address} had a request and lost its slot")
                    return

    # Looking

    def note(self) -> None:
        with suppress(OSError, LookupError, ValueError), self._lock:
            self._look()

    def _look(self) -> None:
        now = look(self._path)
        before, self._last = self._last, now
        self.samples.append(now)
        while self.samples[0].at < now.at - KEPT_SECONDS:
            self.samples.popleft()
        if before is not None and before.pid != now.pid and self._is_restarting:
            self._rebase(now)
            before = None
        self._judge_addresses(now)
        self._judge_hands(now)
        if before is not None:
            if self.is_frozen:
                self._judge_frozen(before, now)
            for backend in self._laws.backends:
                self._judge_capacity(backend, before, now)
        for backend, history in self._history.items():
            if self.is_agent_up:
                history.append((now.at, len(now.capacity(backend))))
            while history and history[0][0] < now.at - self._laws.window_seconds:
                history.pop(0)

    def _look_at_once(self) -> Sample:
        deadline = time.monotonic() + 5
        while True:
            try:
                return look(self._path)
            except (OSError, LookupError, ValueError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _rebase(self, now: Sample) -> None:
        """What a person set aside may be lost where others start HAProxy from a file that does not say it yet."""
        self.overridden = {
            (backend, address): name
            for backend, address in self.overridden
            for name, slot in now.of(backend).items()
            if slot.address == address and slot.is_overridden
        }

    # Laws

    def _violated(self, law: str, what: str) -> None:
        self.violations.append(f"{time.strftime('%H:%M:%S')} {law}: {what}")

    def _judge_addresses(self, now: Sample) -> None:
        for (backend, name), slot in now.slots.items():
            if slot.serves and slot.address not in self.given[backend]:
                self._violated("address", f"{backend}/{name} serves {slot.address}, which nobody gave it")

    def _judge_hands(self, now: Sample) -> None:
        for (backend, address), name in list(self.overridden.items()):
            slots = now.of(backend)
            there = slots.get(name)
            if there is None or there.address != address or not there.is_overridden:
                self._violated("by hand", f"{backend}/{name} {address} was set aside and is {there}")
                del self.overridden[backend, address]

    def _judge_frozen(self, before: Sample, now: Sample) -> None:
        if before.pid != now.pid:
            self._violated("frozen", "HAProxy was reloaded")
            return
        for (backend, name), slot in now.slots.items():
            was = before.slots.get((backend, name))
            if was is not None and was.set_to != slot.set_to:
                self._violated("frozen", f"{backend}/{name} was {was.set_to} and is {slot.set_to}")

    def _judge_capacity(self, backend: str, before: Sample, now: Sample) -> None:
        """What was taken out, by whom else than a person, leaves the guard's floor."""
        still = {slot.address for slot in now.of(backend).values() if slot.serves}
        aside = {address for where, address in (*self.overridden, *self.deferred) if where == backend}
        gone = {one.address for one in before.of(backend).values() if one.serves} - still - aside
        if not gone:
            return
        lost = gone & before.capacity(backend)
        self._left_at = now.at
        if not lost or backend in self._released:
            return
        left = len((before.capacity(backend) | now.capacity(backend)) - gone)
        most = max(len(before.capacity(backend)), self._sustained(backend, now.at))
        floor = max(self._laws.min_ready, math.ceil(round(most * (1 - self._laws.max_loss_fraction), 9)))
        if left < floor:
            self._violated("capacity", f"{backend} lost {sorted(lost)}; {left} are left of {most}, {floor} must be")

    def _sustained(self, backend: str, now: float) -> int:
        """The most capacity that stood long enough within the guard's window to be known to the agent."""
        begin = now - self._laws.window_seconds + EDGE_SECONDS
        seen = [one for one in self._history[backend] if one[0] >= begin]
        best = 0
        for place, (at, _) in enumerate(seen):
            least, previous = seen[place][1], at
            for later, amount in seen[place:]:
                if later - previous > 0.3:
                    break
                least, previous = min(least, amount), later
                if later - at >= SUSTAINED_SECONDS:
                    best = max(best, least)
                    break
        return best


def look(path: Path) -> Sample:
    """Ask HAProxy; `LookupError` when a worker answers that is stopping, `OSError` when none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(b"show info;show servers state;show stat -1 4 -1\n")
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    info, _, rest = text.partition("\n1\n# ")
    states, _, stats = rest.partition("\n# ")
    said = dict(line.split(": ", 1) for line in info.splitlines() if ": " in line)
    if said["Stopping"] != "0" or not stats:
        raise LookupError("no worker that serves")
    checks = {(one["pxname"], one["svname"]): one for one in _rows(stats, ",")}
    slots = {}
    for one in _rows(states, " "):
        key = one["be_name"], one["srv_name"]
        bits, stat = int(one["srv_admin_state"]), checks[key]
        slots[key] = Slot(
            address=f"{one['srv_addr']}:{one['srv_port']}",
            admin="maint" if bits & 0x23 else "drain" if bits & 0x18 else "ready",
            weight=int(one["srv_uweight"]),
            is_up=one["srv_op_state"] == "2",
            is_proven=stat["check_status"].removeprefix("* ") in {"L4OK", "L6OK", "L7OK", "L7OKC"},
            sessions=int(stat["scur"]),
        )
    return Sample(time.monotonic(), int(said["Pid"]), slots)


def _rows(text: str, separator: str) -> list[dict[str, str]]:
    header, *lines = (line.split(separator) for line in text.splitlines() if line)
    return [dict(zip(header, line, strict=False)) for line in lines]


@frozen
class Trace:
    """What was done, for whoever reads a failure."""

    lines: list[str] = field(factory=list)

    def note(self, what: str) -> None:
        self.lines.append(f"{time.strftime('%H:%M:%S')}.{int(time.time() * 1000) % 1000:03d} {what}")
