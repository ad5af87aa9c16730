"""The time to act on a need that may still change: after a short quiet, and at a limit at the latest.

Times are seconds of one monotonic clock, which the caller reads.
"""

from collections.abc import Sequence

import attrs

from hapsync.model.changes import Shortage
from hapsync.model.server import AdminState, Backend
from hapsync.plan.desired import DesiredBackend

NEED_QUIET_SECONDS = 0.2
NEED_LIMIT_SECONDS = 1.0
"""The longest wait for a growing need, so that one deploy costs one reload; slots may become free meanwhile."""
FILE_QUIET_SECONDS = 1.0
FILE_LIMIT_SECONDS = 5.0
"""The longest delay of the file, so that a burst of changes costs one check."""
FILE_FIRST_QUIET_SECONDS = 0.2
FILE_FIRST_LIMIT_SECONDS = 1.0
FILE_REST_SECONDS = 5.0
"""After a rest of this length the file is written sooner, so that a restarted HAProxy has the current servers."""


WARN_FRACTION = 0.8
"""The share of slots in use from which an operator is warned, where growth needs a reload."""


def is_filling(want: DesiredBackend, have: Backend) -> bool:
    """Return whether `have` is almost out of slots, and more slots need a reload."""
    if have.scaling.can_add:
        return False
    slots = [slot for slot in have.slots if slot.is_slot]
    wanted = want.by_address
    used = (slot for slot in slots if not slot.is_free)
    taken = sum(slot.admin is not AdminState.MAINT or slot.is_overridden or slot.address in wanted for slot in used)
    return bool(slots) and taken >= WARN_FRACTION * len(slots)


@attrs.frozen
class Pending:
    """A waiting need: its beginning, and its last change."""

    since_seconds: float
    changed_seconds: float

    def due_seconds(self, quiet_seconds: float, limit_seconds: float) -> float:
        """Return the time to act: after the quiet, at the limit at the latest."""
        return min(self.changed_seconds + quiet_seconds, self.since_seconds + limit_seconds)


def file_due_seconds(pending: Pending, written_seconds: float) -> float:
    """Return the time of the next write of the file; the last write was at `written_seconds`."""
    if pending.since_seconds - written_seconds >= FILE_REST_SECONDS:
        return pending.due_seconds(FILE_FIRST_QUIET_SECONDS, FILE_FIRST_LIMIT_SECONDS)
    return pending.due_seconds(FILE_QUIET_SECONDS, FILE_LIMIT_SECONDS)


def touched(pending: Pending | None, now_seconds: float) -> Pending:
    """Return `pending` with one more change now."""
    return Pending(pending.since_seconds if pending else now_seconds, now_seconds)


@attrs.frozen
class Need:
    """The shortages that wait for a reload."""

    shortages: tuple[Shortage, ...]
    pending: Pending

    @property
    def due_seconds(self) -> float:
        return self.pending.due_seconds(NEED_QUIET_SECONDS, NEED_LIMIT_SECONDS)


def needed(need: Need | None, shortages: Sequence[Shortage], now_seconds: float) -> Need | None:
    """Return the need after a reading that was short of `shortages`; None when nothing is short any more."""
    if not shortages:
        return None
    if need is not None and need.shortages == tuple(shortages):
        return need
    return Need(tuple(shortages), touched(need.pending if need else None, now_seconds))
