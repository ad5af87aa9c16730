"""The agent's schedule: the work that each finding makes due, and its time."""

import enum
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

import attrs

from hapsync.agent.consumer import Consumer, Left
from hapsync.errors import HapsyncError

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.25
FEW_PARTS = 8
"""The most parts assessed each time, where time may end a deferral in them."""
DEFERRED_SECONDS = 2.0
"""The pause between two assessments of more such parts than these."""


class Finding(enum.Enum):
    """A finding of the agent's thread about HAProxy, its file, the settings or the agent itself."""

    STARTED = "hapsync was started"
    HAPROXY_ANSWERS = "another worker answers, or one that did not answer before"
    NO_HAPROXY = "HAProxy does not answer any more"
    SERVERS_CHANGED = "HAProxy has other servers than the file, or is to be started with others"
    FILE_CHANGED = "somebody else wrote the file, or it could not be written"
    SETTINGS_READ = "hapsync.toml and the template were read again"
    OTHER_SETTINGS = "the agent goes on with other settings"
    BACKENDS_ADDED = "backends were added or deleted live, and the next ones are measured by the file"
    RELEASED = "a released override is not in the file yet"
    NOT_RELOADED = "a reload was refused or failed"
    STOPPED_OR_NOT = "changes are stopped, or made again"
    RESYNC = "everything is to be compared again"
    DEFECT = "a step of the agent failed by a defect"
    NEWS = "the report is behind"


class FileDue(enum.Enum):
    """How the file is due."""

    SOON = "soon"
    LIVE = "soon, and not any more for HAProxy's next start, because HAProxy has started"
    ANEW = "soon, even where it was refused before"
    NOW = "now, refused or not"


@attrs.frozen
class Due:
    """The work due: an assessment of all `backends`, the `file`, the `report`."""

    backends: bool = False
    file: FileDue | None = None
    report: bool = False


DUE: Mapping[Finding, Due] = {
    Finding.STARTED: Due(file=FileDue.SOON),
    Finding.HAPROXY_ANSWERS: Due(backends=True, file=FileDue.LIVE),
    Finding.NO_HAPROXY: Due(file=FileDue.SOON, report=True),
    Finding.SERVERS_CHANGED: Due(file=FileDue.SOON),
    Finding.FILE_CHANGED: Due(file=FileDue.SOON),
    Finding.SETTINGS_READ: Due(file=FileDue.ANEW),
    Finding.OTHER_SETTINGS: Due(file=FileDue.SOON),
    Finding.BACKENDS_ADDED: Due(file=FileDue.NOW, report=True),
    Finding.RELEASED: Due(file=FileDue.SOON),
    Finding.NOT_RELOADED: Due(file=FileDue.SOON),
    Finding.STOPPED_OR_NOT: Due(backends=True, file=FileDue.SOON, report=True),
    Finding.RESYNC: Due(backends=True, report=True),
    Finding.DEFECT: Due(backends=True, file=FileDue.SOON),  # the step may have been about the file
    Finding.NEWS: Due(report=True),
}
"""The work that each finding makes due; no other place says it."""

Done = TypeVar("Done")


class Schedule:
    """The parts due now, the parts to try again later, and the parts where time may end a deferral."""

    def __init__(self) -> None:
        self.now: set[str] = set()
        self.retry_at: float | None = None
        self._retry_seconds = 0.0
        self._unfinished: set[str] = set()
        self._waiting: set[str] = set()
        self._waiting_at = 0.0

    @property
    def is_unfinished(self) -> bool:
        """Whether some due changes could not be made."""
        return bool(self._unfinished)

    def add(self, parts: Iterable[str]) -> None:
        """Make `parts` due for the next `apply`."""
        self.now |= set(parts)

    def take(self) -> set[str]:
        """Return the due parts, and take them off the schedule."""
        now, self.now = self.now, set()
        return now

    def only(self, parts: Iterable[str]) -> None:
        """Forget all parts but `parts`, and make all of these due."""
        self.now = set(parts)
        self._unfinished &= self.now
        self._waiting &= self.now

    def look(self) -> None:
        """Make the parts due whose next try has come."""
        if self.retry_at is not None and time.monotonic() >= self.retry_at:
            self.retry_at = None
            self.now |= self._unfinished

    def look_at_waiting(self) -> None:
        """Make the parts due where time may have ended a deferral."""
        now = time.monotonic()
        if self._waiting and (len(self._waiting) <= FEW_PARTS or now >= self._waiting_at):
            self._waiting_at = now + DEFERRED_SECONDS
            self.now |= self._waiting

    def note(self, left: Left, longest_seconds: float) -> None:
        """Record the changes `left` undone.

        The next try comes at once where the changes made lead to more, else after ever longer pauses,
        `longest_seconds` at most: a consumer that claims success without an effect is not asked without end.
        """
        self._waiting = (self._waiting - left.parts) | left.waiting
        self._unfinished = (self._unfinished - left.parts) | left.again
        if not self._unfinished:
            self.retry_at, self._retry_seconds = None, 0.0
        elif self.retry_at is None:
            pause_seconds = self._retry_seconds if left.has_done else max(RETRY_SECONDS, self._retry_seconds)
            self.retry_at = time.monotonic() + pause_seconds
            self._retry_seconds = min(max(RETRY_SECONDS, 2 * self._retry_seconds), longest_seconds)


class Follower(Generic[Done]):
    """A consumer beside HAProxy's backends, and the schedule of its parts."""

    def __init__(self, consumer: Consumer[object, Done]) -> None:
        self.consumer = consumer
        self.schedule = Schedule()

    def step(self, longest_seconds: float, *, is_full: bool, may_act: bool) -> None:
        """Apply the parts due by now (`is_full`: all parts) where `may_act` is set; an error is logged."""
        schedule = self.schedule
        schedule.add(self.consumer.parts() if is_full else ())
        schedule.look()
        schedule.look_at_waiting()
        due = frozenset(schedule.now)
        if not due or not may_act:
            return
        try:
            done = self.consumer.apply(schedule.take(), is_full=is_full)
        except HapsyncError as error:
            log.warning("%s: %s", type(self.consumer).__name__, error)
            schedule.note(Left(due, again=due), longest_seconds)
        else:
            if done is not None:
                schedule.note(self.consumer.verify(done), longest_seconds)
