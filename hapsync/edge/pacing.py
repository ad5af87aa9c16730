"""Keep to the stated budget on Consul, by waiting before a read."""

import threading
import time
from collections import deque

SERVICE_BURST = 10
CACHED_PER_SECOND = 5.0
UNCACHED_PER_SECOND = 1.0
ALL_PER_SECOND = 50
WINDOW_SECONDS = 1.25
"""Over the second the budget speaks of: between leave and request a busy thread may lose a quarter of one."""


class Pace:
    """How often one service may be read: `SERVICE_BURST` at once, then so many a second (a token bucket)."""

    def __init__(self) -> None:
        self._tokens = float(SERVICE_BURST)
        self._at_seconds = time.monotonic()

    def delay_seconds(self, per_second: float) -> float:
        """Take the place of one read and return how long it has to wait."""
        now = time.monotonic()
        self._tokens = min(SERVICE_BURST, self._tokens + (now - self._at_seconds) * per_second) - 1
        self._at_seconds = now
        return max(0.0, -self._tokens / per_second)


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
