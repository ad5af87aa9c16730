"""Keep to the stated budget on Consul, by waiting before a read."""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence

import attrs


@attrs.frozen
class Rate:
    """How often one service may be read: `burst` times at once after a rest, and then `per_second`."""

    burst: int
    per_second: float


CACHED = Rate(50, 5.0)
"""Through the agent's cache. A burst costs the servers nothing: the agent asks them once a change, whoever reads."""
UNCACHED = Rate(10, 1.0)
BURST_SECONDS, GAP_SECONDS = 0.1, 0.025
"""So soon after the last but one a read is of a burst, and waits so long. A read for each change would only delay the
passes: on two cores, 10 instances that become 100 were live no sooner, for three times the reads.
"""
ALL_PER_SECOND = 50
LAST_IN_WINDOW = 20
"""How many of these are for services without instances, at most."""
WINDOW_SECONDS = 1.25
"""Over the second the budget speaks of: between leave and request a busy thread may lose a quarter of one."""


class Pace:
    """When one service may be read next (a token bucket)."""

    def __init__(self) -> None:
        self._tokens = math.inf
        self._at_seconds = time.monotonic()

    def delay_seconds(self, rate: Rate) -> float:
        """Take the place of one read at `rate`, which may be another each time; return how long it has to wait."""
        now = time.monotonic()
        self._tokens = min(rate.burst, self._tokens + (now - self._at_seconds) * rate.per_second) - 1
        self._at_seconds = now
        return max(0.0, -self._tokens / rate.per_second)


class Burst:
    """Whether changes of one service come in quick succession; then the next read waits, and sees several at once."""

    def __init__(self) -> None:
        self._asked: deque[float] = deque((-math.inf, -math.inf), maxlen=2)

    def delay_seconds(self) -> float:
        """Take the place of one read that waits for a change; return how long it has to wait before that."""
        now = time.monotonic()
        delay = GAP_SECONDS if now - self._asked[0] < BURST_SECONDS else 0.0
        self._asked.append(now + delay)
        return delay


class Budget:
    """How often the whole process may read: never more than `ALL_PER_SECOND` in any one second.

    Where more want to read, the service that was read longest ago goes first. Services without instances go last, and
    have a part of the budget only: before 1.9 Consul ends their blocking queries at every change of the catalog.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=ALL_PER_SECOND)
        self._recent_last: deque[float] = deque(maxlen=LAST_IN_WINDOW)
        self._read_at: dict[str, float] = {}
        self._waiting: dict[str, bool] = {}

    def take_or_delay_seconds(self, who: str = "", *, is_last: bool = False) -> float:
        """Return 0 if a read of the service `who` may go out now, which then counts; else how long to wait.

        Who is told to wait has a place in the line, until it asks again or leaves.
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
        """Forget `who`, which does not wait any more."""
        with self._lock:
            self._waiting.pop(who, None)
            self._read_at.pop(who, None)

    def _ahead(self, who: str, *, is_last: bool) -> list[bool]:
        """Return of everyone who goes before `who` whether it is of the last."""
        mine = (is_last, self._read_at.get(who, -math.inf), who)
        return [
            is_other_last
            for other, is_other_last in self._waiting.items()
            if other != who and (is_other_last, self._read_at.get(other, -math.inf), other) < mine
        ]


def _until_free(recent: Sequence[float], limit: int, before: int, now: float) -> float:
    """Return how long until `before` others and one more may read, where `recent` are the last reads."""
    inside = [read for read in recent if read + WINDOW_SECONDS > now]
    needed = len(inside) + before + 1 - limit
    if needed <= 0:
        return 0.0
    return (inside[needed - 1] if needed <= len(inside) else now) + WINDOW_SECONDS - now
