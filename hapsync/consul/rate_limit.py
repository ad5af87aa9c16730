"""The limits on reads of Consul: a read waits until the budget has room."""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence

import attrs


@attrs.frozen
class Rate:
    """The rate of reads of one service: `burst` reads at once after a rest, then `per_second`."""

    burst: int
    per_second: float


CACHED = Rate(50, 5.0)
"""The rate through the agent's cache. A burst costs the servers nothing: the agent asks them once for each change."""
UNCACHED = Rate(10, 1.0)
BURST_SECONDS, GAP_SECONDS = 0.1, 0.025
"""A read within `BURST_SECONDS` of the read before last belongs to a burst, and waits `GAP_SECONDS` to pick up
several changes. A read for each change would only delay the passes: on two cores, 10 instances that become 100 were
live no sooner, with three times the reads.
"""
ALL_PER_SECOND = 50
LAST_IN_WINDOW = 20
"""The most reads of services without instances among `ALL_PER_SECOND`."""
WINDOW_SECONDS = 1.25
"""The window is longer than the budget's second, because a busy thread may send its request a quarter of a second
late."""


class Pace:
    """The time of the next read of one service (a token bucket)."""

    def __init__(self) -> None:
        self._tokens = math.inf
        self._at_seconds = time.monotonic()

    def delay_seconds(self, rate: Rate) -> float:
        """Count one read at `rate`, which may differ each time; return the seconds of its wait."""
        now = time.monotonic()
        self._tokens = min(rate.burst, self._tokens + (now - self._at_seconds) * rate.per_second) - 1
        self._at_seconds = now
        return max(0.0, -self._tokens / rate.per_second)


class Burst:
    """The detector of quick successive changes of one service; the next read then waits, and picks up several."""

    def __init__(self) -> None:
        self._asked: deque[float] = deque((-math.inf, -math.inf), maxlen=2)

    def delay_seconds(self) -> float:
        """Count one blocking query; return the seconds before it may be sent."""
        now = time.monotonic()
        delay = GAP_SECONDS if now - self._asked[0] < BURST_SECONDS else 0.0
        self._asked.append(now + delay)
        return delay


class Budget:
    """The rate of reads of the whole process: never more than `ALL_PER_SECOND` in any second.

    Where more services wait, the one with the oldest read goes first. Services without instances go last and have
    only a part of the budget, because Consul before 1.9 ends their blocking queries at every change of the catalog.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=ALL_PER_SECOND)
        self._recent_last: deque[float] = deque(maxlen=LAST_IN_WINDOW)
        self._read_at: dict[str, float] = {}
        self._waiting: dict[str, bool] = {}

    def take_or_delay_seconds(self, who: str = "", *, is_last: bool = False) -> float:
        """Return 0 and count the read if the service `who` may be read now; else return the seconds to wait.

        A waiting service keeps its place in the queue until it asks again or leaves.
        """
        with self._lock:
            now = time.monotonic()
            ahead = self._ahead(who, is_last=is_last)
            delay = _until_free(self._recent, ALL_PER_SECOND, len(ahead), now)
            if is_last:
                delay = max(delay, _until_free(self._recent_last, LAST_IN_WINDOW, sum(ahead), now))
            if delay > 0:
                self._waiting[who] = is_last
                return delay
            self._waiting.pop(who, None)
            self._read_at[who] = now
            self._recent.append(now)
            if is_last:
                self._recent_last.append(now)
            return 0.0

    def leave(self, who: str) -> None:
        """Remove `who` from the queue."""
        with self._lock:
            self._waiting.pop(who, None)
            self._read_at.pop(who, None)

    def _ahead(self, who: str, *, is_last: bool) -> list[bool]:
        """Return, for each service before `who` in the queue, whether it is one without instances."""
        mine = (is_last, self._read_at.get(who, -math.inf), who)
        return [
            is_other_last
            for other, is_other_last in self._waiting.items()
            if other != who and (is_other_last, self._read_at.get(other, -math.inf), other) < mine
        ]


def _until_free(recent: Sequence[float], limit: int, before: int, now: float) -> float:
    """Return the seconds until `before` other reads and one more may go; `recent` are the times of the last reads."""
    inside = [read for read in recent if read + WINDOW_SECONDS > now]
    needed = len(inside) + before + 1 - limit
    if needed <= 0:
        return 0.0
    return (inside[needed - 1] if needed <= len(inside) else now) + WINDOW_SECONDS - now
