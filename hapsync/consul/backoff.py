"""How long a watch pauses after a read that failed, or an answer that could not be believed."""

import random
import time

FIRST_SECONDS = 0.25
LOCAL_SECONDS = 1.0
REMOTE_SECONDS = 30.0
QUIET_SECONDS = 5.0
"""Without a failure for this long, the next one is the first again."""
DOUBT_CAP_SECONDS = 2.0
"""While Consul answers, but cannot be believed, it is asked again this often."""


class Backoff:
    """Pauses after failures, each longer than the one before; an agent on the same host is asked more often."""

    def __init__(self, *, is_local: bool) -> None:
        self._cap_seconds = LOCAL_SECONDS if is_local else REMOTE_SECONDS
        self._failures = 0
        self._failed_at = -QUIET_SECONDS

    def failed_seconds(self) -> float:
        """Take another failure; return how long to pause after it."""
        # Not the first good answer ends a run of failures, but some time without one.
        self._failures = 0 if time.monotonic() - self._failed_at > QUIET_SECONDS else self._failures + 1
        pause = random.uniform(0.05, min(self._cap_seconds, FIRST_SECONDS * 2.0 ** min(self._failures, 10)))  # noqa: S311
        self._failed_at = time.monotonic() + pause
        return pause


def doubted_seconds(times: int) -> float:
    """Return how long to pause after an answer that could not be believed, as so many `times` before."""
    longest = min(DOUBT_CAP_SECONDS, FIRST_SECONDS * 2.0 ** min(times, 10))
    return random.uniform(0.5, 1.0) * longest  # noqa: S311
