"""Keep to the stated budget on Consul, by waiting before a read."""

import math
import threading
import time
from collections import deque

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
    """How often the whole process may read: never more than `ALL_PER_SECOND` in any one second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=ALL_PER_SECOND)

    def take_or_delay_seconds(self) -> float:
        """Return 0 if a read may go out now, which then counts; else how long to wait before asking again."""
        with self._lock:
            now = time.monotonic()
            if len(self._recent) == ALL_PER_SECOND and now < self._recent[0] + WINDOW_SECONDS:
                return self._recent[0] + WINDOW_SECONDS - now
            self._recent.append(now)
            return 0.0
