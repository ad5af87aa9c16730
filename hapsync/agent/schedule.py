"""What is due, by which finding, and when."""

import enum
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import attrs

from hapsync.agent.consumer import Consumer, Left

RETRY_SECONDS = 0.25
FEW_PARTS = 8
"""So many parts are assessed each time while something there is deferred that time may release."""
DEFERRED_SECONDS = 2.0
"""More of them are assessed this often."""


class Finding(enum.Enum):
    """What the agent's thread finds, of HAProxy, its file, the settings or itself."""

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
    """How the file is due: soon; soon, also where it was refused before; or now, refused or not."""

    SOON = enum.auto()
    ANEW = enum.auto()
    NOW = enum.auto()


@attrs.frozen
class Due:
    """What is due: an assessment of all `backends`, the `file`, the `report`."""

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
"""The only place that says what a finding makes due."""

Done = TypeVar("Done")


class Schedule:
    """The parts due now, those to be tried again later, and those where time may release what is deferred."""

    def __init__(self) -> None:
        self.now: set[str] = set()
        self.retry_at: float | None = None
        self._retry_seconds = 0.0
        self._unfinished: set[str] = set()
        self._waiting: set[str] = set()
        self._waiting_at = 0.0

    @property
    def is_unfinished(self) -> bool:
        """Not all of what was due could be done."""
        return bool(self._unfinished)

    def add(self, parts: Iterable[str]) -> None:
        """Have `parts` applied next."""
        self.now |= set(parts)

    def take(self) -> set[str]:
        """Return the parts that are due, which then are not any more."""
        now, self.now = self.now, set()
        return now

    def only(self, parts: Iterable[str]) -> None:
        """Forget all but `parts`, which are due."""
        self.now = set(parts)
        self._unfinished &= self.now
        self._waiting &= self.now

    def look(self) -> None:
        """Make due what is to be tried again by now."""
        if self.retry_at is not None and time.monotonic() >= self.retry_at:
            self.retry_at = None
            self.now |= self._unfinished

    def look_at_waiting(self) -> None:
        """Make due where something is deferred that time may have released."""
        now = time.monotonic()
        if self._waiting and (len(self._waiting) <= FEW_PARTS or now >= self._waiting_at):
            self._waiting_at = now + DEFERRED_SECONDS
            self.now |= self._waiting

    def note(self, left: Left, longest_seconds: float) -> None:
        """Note what is `left` undone.

        The next try comes at once where what was done leads to more, and else ever later, up to `longest_seconds`:
        whoever only says to have done something is not asked without end.
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
    """A consumer, and which of its parts are due."""

    def __init__(self, consumer: Consumer[object, Done]) -> None:
        self.consumer = consumer
        self.schedule = Schedule()

    def step(
        self, longest_seconds: float, *, is_full: bool = False, before_acting: Callable[[], None] = lambda: None
    ) -> Done | None:
        """Apply what is due, and note what is left of it; None where nothing was asked.

        Raises HapsyncError where nobody answers, and what `before_acting` raises.
        """
        done = self.consumer.apply(self.schedule.take(), is_full=is_full, before_acting=before_acting)
        if done is not None:
            self.schedule.note(self.consumer.verify(done), longest_seconds)
        return done


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
