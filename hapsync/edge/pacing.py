"""Keep to the stated budget on Consul, by waiting before a read."""

import threading
import time
from collections import deque

SERVICE_BURST = 10
CACHED_PER_SECOND = 5.0
UNCACHED_PER_SECOND = 1.0
ALL_PER_SECOND = 50


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

    def delay_seconds(self) -> float:
        """Take the place of one read and return how long it has to wait."""
        with self._lock:
            now = time.monotonic()
            full = len(self._recent) == ALL_PER_SECOND
            at = max(now, self._recent[0] + 1.0) if full else now
            self._recent.append(at)
            return at - now
