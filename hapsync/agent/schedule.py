"""The agent's schedule: the work that each finding makes due, and its time."""

import enum
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import attrs

from hapsync.agent.consumer import Consumer, Left

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
    """How the file is due: soon; soon, even where it was refused before; or now, refused or not."""

    SOON = enum.auto()
    ANEW = enum.auto()
    NOW = enum.auto()


@attrs.frozen
class Due:
    """The work due: an assessment of all `backends`, the `file`, the `report`."""

    backends: bool = False
    file: FileDue | None = None
    report: bool = False


DUE: Mapping[Finding, Due] = {
    Finding.STARTED: Due(file=FileDue.SOON),
    Finding.HAPROXY_ANSWERS: Due(backends=True, file=FileDue.SOON),
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
    """A consumer, and the schedule of its parts."""

    def __init__(self, consumer: Consumer[object, Done]) -> None:
        self.consumer = consumer
        self.schedule = Schedule()

    def step(
        self, longest_seconds: float, *, is_full: bool = False, before_acting: Callable[[], None] = lambda: None
    ) -> Done | None:
        """Apply the due parts, and record the changes left undone; None where nothing was asked of them.

        Raises HapsyncError where the outside does not answer, and every error of `before_acting`.
        """
        done = self.consumer.apply(self.schedule.take(), is_full=is_full, before_acting=before_acting)
        if done is not None:
            self.schedule.note(self.consumer.verify(done), longest_seconds)
        return done


class Soon:
    """Work that is done soon after a request, with at least `every_seconds` from one time to the next."""

    def __init__(self, every_seconds: float) -> None:
        self.due_seconds: float | None = None
        self._every_seconds = every_seconds
        self._done_seconds = 0.0

    def soon(self) -> None:
        """Ask for the work."""
        if self.due_seconds is None:
            self.due_seconds = max(time.monotonic(), self._done_seconds + self._every_seconds)

    @property
    def is_due(self) -> bool:
        """Whether the work was asked for, and its time has come."""
        return self.due_seconds is not None and time.monotonic() >= self.due_seconds

    def done(self) -> None:
        """Record that the work was done, asked for or not."""
        self.due_seconds, self._done_seconds = None, time.monotonic()
