"""How many reloads may be made for what others choose: whoever registers services decides when one is asked for."""

import time

BURST = 5
"""So many may be made one after another, where none was for long enough."""


class Allowance:
    """A bucket of `BURST` reloads, filled again at so many an hour."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at = time.monotonic()

    def wait_seconds(self, per_hour: int) -> float:
        """Return how long the next one has to wait with `per_hour` of them an hour; 0 where it may be made now."""
        self._fill(per_hour)
        return max(0.0, 1 - self._left) * 3600 / per_hour

    def spend(self, per_hour: int) -> None:
        """One was made or tried."""
        self._fill(per_hour)
        self._left = max(0.0, self._left - 1)

    def _fill(self, per_hour: int) -> None:
        now = time.monotonic()
        self._left = min(float(BURST), self._left + (now - self._at) * per_hour / 3600)
        self._at = now
