"""How long Consul may hold an answer back: within the configured bound, and within what the way there bears.

A proxy or a firewall between hapsync and the agent ends what it takes for idle, often after 60 s. That is no outage:
the query is asked again at once, and a shorter time from then on.
"""

import logging
import math
import threading
import time

from hapsync.errors import CutShort

log = logging.getLogger(__name__)

JITTER = 17 / 16
"""Consul adds up to a sixteenth to the wait it was asked for (api-docs/features/blocking)."""
SHORTEST_SECONDS = 1.0
"""What is cut sooner was no long wait: something else is wrong."""
MARGIN = 0.9
LIKE = 0.25
"""Two cuts that differ by less than this part came after the same time."""
ALIKE = 2
"""So many cuts in a row after the same time are a proxy's timeout, though nothing says so."""
SHORT_SECONDS = 10.0
ALIKE_SHORT = 4
"""So many it takes below `SHORT_SECONDS`: few proxies are so impatient, and short waits cost the most."""
FORGET_SECONDS = 3600.0
"""After this long the full time is tried again: the proxy may be gone, or have been a restart that looked like it."""

EARLY_FRACTION = 0.75
LEAST_USUAL_SECONDS = 0.25
MOST_IN_A_ROW = 3


class WaitLimit:
    """The bound for all blocking queries of one agent; for any number of threads."""

    def __init__(self, longest_seconds: float) -> None:
        """Take `[consul] wait_seconds`: no answer is held back longer, what Consul adds included."""
        self._configured_seconds = longest_seconds
        self._lock = threading.Lock()
        self._found_seconds = longest_seconds
        self._found_at = -math.inf

    def longest_seconds(self) -> float:
        """Return how long an answer may be held back at present, what Consul adds included."""
        with self._lock:
            if time.monotonic() - self._found_at > FORGET_SECONDS:
                self._found_seconds = self._configured_seconds
            return self._found_seconds

    def at_most(self, seconds: float) -> float:
        """Return what to ask Consul for where it may be held `seconds` at most."""
        return min(seconds, self.longest_seconds()) / JITTER

    def shorten(self, held_seconds: float) -> None:
        """Ask for less from now on, for what was held for `held_seconds` was cut."""
        shorter = max(SHORTEST_SECONDS, held_seconds * MARGIN)
        if shorter >= self.longest_seconds():
            return
        with self._lock:
            now = time.monotonic()
            if now - held_seconds < self._found_at:
                return  # asked before the last shortening, and so cut like what led to that
            self._found_seconds, self._found_at = shorter, now
        log.warning(
            "consul: a blocking query was cut after %.0f s (by a proxy or firewall?); for an hour no wait "
            "is longer than %.0f s; if this is logged again, set consul.wait_seconds to that",
            held_seconds,
            shorter,
        )


class Cuts:
    """What one watch saw of its queries being cut; it tells a proxy's timeout from an agent that went away."""

    def __init__(self, wait_limit: WaitLimit) -> None:
        self._wait_limit = wait_limit
        self._last_seconds = math.inf
        self._alike = 0

    def note(self, cut: CutShort) -> None:
        """Note a cut after which Consul answered at once: where it is of the kind that comes again, wait less long.

        A proxy that says so is sure. A connection that closes, or a 502, may be a restart, until it happens again and
        again after the same time with no blocking query answered in between.
        """
        deferred, last = cut.held_seconds, self._last_seconds
        self._last_seconds = deferred
        self._alike = self._alike + 1 if abs(deferred - last) <= LIKE * deferred else 1
        if cut.is_said or self._alike >= (ALIKE if deferred >= SHORT_SECONDS else ALIKE_SHORT):
            self._wait_limit.shorten(deferred)

    def answered(self) -> None:
        """Note a blocking query that was answered: whatever cut one before does not do so each time."""
        self._last_seconds, self._alike = math.inf, 0


class Holding:
    """How long Consul holds back answers in which nothing is new, so that one that came early is noticed.

    It may be less than was asked for: servers have a bound of their own (`max_query_time`). Then it is the same each
    time. Where none is held at all, that is no evidence of anything.
    """

    def __init__(self) -> None:
        self._last_seconds = 0.0
        self._in_a_row = 0

    def is_early(self, seconds: float, wait_seconds: float) -> bool:
        """Take an answer with nothing new that came after `seconds`; return whether something else had it end."""
        last, self._last_seconds = self._last_seconds, seconds
        is_usual = last >= LEAST_USUAL_SECONDS and EARLY_FRACTION <= seconds / last <= 1 / EARLY_FRACTION
        is_early = seconds < EARLY_FRACTION * wait_seconds and not is_usual
        self._in_a_row = self._in_a_row + 1 if is_early else 0
        return is_early and self._in_a_row <= MOST_IN_A_ROW
