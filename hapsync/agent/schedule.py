"""Which backends the next pass has to look at, and when."""

import time
from collections.abc import Iterable

from hapsync.agent.reconcile import Outcome
from hapsync.model.changes import Reason

RETRY_SECONDS = 0.25
FEW_BACKENDS = 8
"""So many backends are looked at each time while something there is held that time may release."""
HELD_SECONDS = 2.0
"""More of them are looked at this often."""
RELEASED_BY_TIME = frozenset({Reason.MIN_READY, Reason.MAX_LOSS, Reason.CHECKED_FIRST})


class Schedule:
    """The backends due now, those to be tried again later, and those where time may release what is held."""

    def __init__(self) -> None:
        self.now: set[str] = set()
        self.retry_at: float | None = None
        self._retry_seconds = 0.0
        self._unfinished: set[str] = set()
        self._held: set[str] = set()
        self._held_at = 0.0

    @property
    def is_unfinished(self) -> bool:
        """A pass could not do all of what was due."""
        return bool(self._unfinished)

    def add(self, backends: Iterable[str]) -> None:
        """Have the next pass look at `backends`."""
        self.now |= set(backends)

    def take(self) -> set[str]:
        """Return the backends that are due, which then are not any more."""
        now, self.now = self.now, set()
        return now

    def only(self, backends: Iterable[str]) -> None:
        """Forget all but `backends`, which are due."""
        self.now = set(backends)
        self._unfinished &= self.now
        self._held &= self.now

    def look(self) -> None:
        """Make due what is to be tried again by now."""
        if self.retry_at is not None and time.monotonic() >= self.retry_at:
            self.retry_at = None
            self.now |= self._unfinished

    def look_at_held(self) -> None:
        """Make due where something is held that time may have released."""
        now = time.monotonic()
        if self._held and (len(self._held) <= FEW_BACKENDS or now >= self._held_at):
            self._held_at = now + HELD_SECONDS
            self.now |= self._held

    def note(
        self,
        outcome: Outcome,
        backends: set[str],
        *,
        waiting: Iterable[str],
        short: frozenset[str],
        longest_seconds: float,
    ) -> None:
        """Note what a pass over `backends` left undone; those in `short` wait for slots, not for another try.

        In the backends `waiting` something else ends with time: a hold-down, or a refill.

        The next try comes at once where what was done leads to more, and else ever later, up to `longest_seconds`:
        a HAProxy that only says it did something is not asked without end.
        """
        left = outcome.last.plan
        self._held -= backends
        self._held |= {one.change.backend for one in left.deferred if one.reason in RELEASED_BY_TIME}
        self._held |= set(waiting)
        self._unfinished -= backends
        self._unfinished |= {change.backend for change in left.changes} - short
        if not self._unfinished:
            self.retry_at, self._retry_seconds = None, 0.0
        elif self.retry_at is None:
            pause_seconds = self._retry_seconds if outcome.done else max(RETRY_SECONDS, self._retry_seconds)
            self.retry_at = time.monotonic() + pause_seconds
            self._retry_seconds = min(max(RETRY_SECONDS, 2 * self._retry_seconds), longest_seconds)


class Soon:
    """Something that is to be done soon after it was asked for, but not more often than each `every_seconds`."""

    def __init__(self, every_seconds: float) -> None:
        self.due_seconds: float | None = None
        self._every_seconds = every_seconds
        self._done_seconds = 0.0

    def soon(self) -> None:
        """Ask for it."""
        if self.due_seconds is None:
            self.due_seconds = max(time.monotonic(), self._done_seconds + self._every_seconds)

    @property
    def is_due(self) -> bool:
        """It was asked for, and the time has come."""
        return self.due_seconds is not None and time.monotonic() >= self.due_seconds

    def done(self) -> None:
        """It was done, asked for or not."""
        self.due_seconds, self._done_seconds = None, time.monotonic()
