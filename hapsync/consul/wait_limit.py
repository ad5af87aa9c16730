"""The longest wait of a blocking query, by the configuration and by the timeouts of proxies on the way.

A proxy or a firewall between hapsync and the agent ends idle connections, often after 60 s. The end of such a query
is no outage: the watch asks again at once, and uses a shorter wait from then on.
"""

import logging
import math
import threading
import time

from hapsync.errors import CutShort

log = logging.getLogger(__name__)

JITTER = 17 / 16
"""Consul adds up to a sixteenth to the requested wait (api-docs/features/blocking)."""
SHORTEST_SECONDS = 1.0
"""A query cut sooner did not end by a timeout for idle connections, but by another fault."""
MARGIN = 0.9
LIKE = 0.25
"""Two cuts count as equal if their times differ by less than this part."""
ALIKE = 2
"""The number of equal cuts in a row that count as a proxy's timeout without a status of a proxy."""
SHORT_SECONDS = 10.0
ALIKE_SHORT = 4
"""The number needed below `SHORT_SECONDS`: few proxies have so short a timeout, and short waits cost the most."""
FORGET_SECONDS = 3600.0
"""After this time the full wait is tried again: the proxy may be gone, or the cuts were restarts."""

EARLY_FRACTION = 0.75
LEAST_USUAL_SECONDS = 0.25
MOST_IN_A_ROW = 3


class WaitLimit:
    """The bound for all blocking queries of one agent; for any number of threads."""

    def __init__(self, longest_seconds: float) -> None:
        """Take `[consul] wait_seconds`, the longest wait, with Consul's addition included."""
        self._configured_seconds = longest_seconds
        self._lock = threading.Lock()
        self._found_seconds = longest_seconds
        self._found_at = -math.inf

    def longest_seconds(self) -> float:
        """Return the longest wait at present, with Consul's addition included."""
        with self._lock:
            if time.monotonic() - self._found_at > FORGET_SECONDS:
                self._found_seconds = self._configured_seconds
            return self._found_seconds

    def at_most(self, seconds: float) -> float:
        """Return the wait to request of Consul so that its answer comes within `seconds`."""
        return min(seconds, self.longest_seconds()) / JITTER

    def shorten(self, held_seconds: float) -> None:
        """Shorten the wait, because a query was cut after `held_seconds`."""
        shorter = max(SHORTEST_SECONDS, held_seconds * MARGIN)
        if shorter >= self.longest_seconds():
            return
        with self._lock:
            now = time.monotonic()
            if now - held_seconds < self._found_at:
                return  # sent before the last shortening, so this cut has the same cause
            self._found_seconds, self._found_at = shorter, now
        log.warning(
            "consul: a blocking query was cut after %.0f s (by a proxy or firewall?); for an hour no wait "
            "is longer than %.0f s; if this is logged again, set consul.wait_seconds to that",
            held_seconds,
            shorter,
        )


class Cuts:
    """The cut queries of one watch; they tell a proxy's timeout from an agent that went away."""

    def __init__(self, wait_limit: WaitLimit) -> None:
        self._wait_limit = wait_limit
        self._last_seconds = math.inf
        self._alike = 0

    def note(self, cut: CutShort) -> None:
        """Note a cut after which Consul answered at once, and shorten the wait if the cause is a proxy's timeout.

        A proxy's own status is proof. A closed connection or a 502 may be a restart, unless it repeats after the same
        time, with no answered blocking query in between.
        """
        seconds, last = cut.held_seconds, self._last_seconds
        self._last_seconds = seconds
        self._alike = self._alike + 1 if abs(seconds - last) <= LIKE * seconds else 1
        if cut.is_said or self._alike >= (ALIKE if seconds >= SHORT_SECONDS else ALIKE_SHORT):
            self._wait_limit.shorten(seconds)

    def answered(self) -> None:
        """Note an answered blocking query, so an earlier cut had no constant cause."""
        self._last_seconds, self._alike = math.inf, 0


class Holding:
    """The usual wait of Consul's answers without news, by which an early answer is noticed.

    The wait may be shorter than requested, for servers have a limit of their own (`max_query_time`), but it is the
    same each time. Where no answer is held back at all, an early one is no evidence.
    """

    def __init__(self) -> None:
        self._last_seconds = 0.0
        self._in_a_row = 0

    def is_early(self, seconds: float, wait_seconds: float) -> bool:
        """Take an answer without news after `seconds`; return whether another cause than the wait ended the query."""
        last, self._last_seconds = self._last_seconds, seconds
        is_usual = last >= LEAST_USUAL_SECONDS and EARLY_FRACTION <= seconds / last <= 1 / EARLY_FRACTION
        is_early = seconds < EARLY_FRACTION * wait_seconds and not is_usual
        self._in_a_row = self._in_a_row + 1 if is_early else 0
        return is_early and self._in_a_row <= MOST_IN_A_ROW
