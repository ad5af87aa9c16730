"""Keeps haproxy.cfg current: when to write it, and the job that checks and installs it while passes go on."""

import logging
import math
import threading
import time
from concurrent.futures import Future

import attrs

from hapsync.agent.config_file import Seen, is_applied, new_text
from hapsync.agent.executor import Executor, value_of
from hapsync.agent.settings import Settings
from hapsync.errors import ConfigError, ConfigRefused, HapsyncError
from hapsync.haproxy.reload import install
from hapsync.model.server import Observed
from hapsync.plan.desired import Desired
from hapsync.plan.growth import Pending, file_due_seconds, touched
from hapsync.plan.guard import Cautions
from hapsync.system.files import read_text_or_none, signature

log = logging.getLogger(__name__)

REFUSED_SECONDS = 60.0
"""What the check command refused is tried again after this long: a certificate or a map that the file names may have
been unreadable for a moment."""


@attrs.frozen
class _Job:
    """A text that is being checked and installed beside the passes; the value is whether it was put in place.

    It speaks to no HAProxy, and installs nothing once `is_wanted` was cleared. `wanted` and `settings` are what the
    text was made from. `is_for_start`: of other settings than the file it replaces, which is right only as long as
    no HAProxy was started from that.
    """

    wanted: Desired
    settings: Settings
    is_for_start: bool
    is_wanted: threading.Event
    installed: Future[bool | HapsyncError]


class FileKeeper:
    """What the worker knows of the file: whether it is behind, when to write it, and why it could not be written.

    `error` is None while the file can be written. `made_of` is the live HAProxy it was last made of,
    if it was. `was_late`: the job that ended last put a file of other settings in place for a HAProxy to start with,
    and one had started by then. All methods are the worker's; only the job runs beside it.
    """

    def __init__(self, executor: Executor) -> None:
        """Take what checks and installs files beside the passes."""
        self.error: str | None = None
        self.made_of: Observed | None = None
        self.was_late = False
        self._executor = executor
        self._pending: Pending | None = None
        self._written_at = -math.inf
        self._seen: tuple[int, int, int] | None = None
        self._refused: tuple[Desired, Settings] | None = None
        self._refused_until = 0.0
        self._job: _Job | None = None
        self._live: object = None
        self._is_hurried = False

    @property
    def is_behind(self) -> bool:
        """The file may not say what HAProxy should start with, or could not be written."""
        return bool(self._pending or self._job or self.error)

    @property
    def is_working(self) -> bool:
        """A job is at it, or will be in a moment."""
        return self._job is not None or self._is_hurried

    @property
    def due_seconds(self) -> float | None:
        """When to call `write`, on the monotonic clock; None while there is nothing to write, or a job is at it."""
        if self._pending is None or self._job is not None:
            return None
        return file_due_seconds(self._pending, self._written_at)

    def touch(self, *, anew: bool = False) -> None:
        """Something changed that the file should say; `anew`: also what was refused is worth another try."""
        if anew:
            self._refused = None
        self._pending = touched(self._pending, time.monotonic())

    def hurry(self) -> None:
        """Backends were added or deleted live: the file is what the next ones are measured by, so write it now."""
        self.touch(anew=True)
        self._pending = Pending(-math.inf, -math.inf)
        self._is_hurried = True

    def forget(self, *, is_current: bool = False) -> None:
        """Let go of what was pending: a reload writes the file, or (`is_current`) has just written it."""
        self._pending = None
        self._is_hurried = False
        if is_current:
            self.error = self._refused = None

    def stop(self) -> None:
        """Let a job that is at it install nothing: from now on nothing may be changed."""
        if self._job is not None:
            self._job.is_wanted.clear()

    def stop_for_start(self) -> None:
        """HAProxy was started: a file that was to be there before comes too late."""
        if self._job is not None and self._job.is_for_start:
            self._job.is_wanted.clear()

    def look(self, settings: Settings) -> None:
        """Remember the file as it is now."""
        self._seen = signature(settings.config.haproxy.config)

    def is_suspect(self, settings: Settings) -> bool:
        """Return whether somebody else wrote the file since, or it could not be written."""
        return self.error is not None or signature(settings.config.haproxy.config) != self._seen

    def is_new_to(self, observed: Observed) -> bool:
        """Return whether the live HAProxy is another than when this was last asked, by whomever it was changed."""
        live = tuple(
            (backend.name, tuple((slot.name, slot.address, slot.admin, slot.weight) for slot in backend.slots))
            for backend in observed.backends.values()
        )
        is_new, self._live = live != self._live, live
        return is_new

    def cannot(self, error: OSError, settings: Settings) -> None:
        """Note that the file could not be read: it is tried again by itself."""
        self._pending = None
        self._is_hurried = False
        self._failed(error, None, settings)

    def write(self, settings: Settings, wanted: Desired, cautions: Cautions, seen: Seen | None) -> None:
        """Begin to write what a HAProxy started now should be, if the file does not say so already.

        `seen` is the live HAProxy, None while it is away.
        """
        self._pending = None
        self._is_hurried = False
        self.made_of = seen.observed if seen is not None else None
        if not wanted.backends or (self._refused == (wanted, settings) and time.monotonic() < self._refused_until):
            return
        try:
            text = new_text(settings, wanted, cautions, seen)
            current = read_text_or_none(settings.config.haproxy.config)
            is_for_start = seen is None and not is_applied(settings, current)
        except (HapsyncError, OSError, ValueError) as error:
            self._failed(error, wanted, settings)
            return
        if text is None:
            self._written(settings)
            return
        self._written_at = time.monotonic()
        is_wanted = threading.Event()
        is_wanted.set()
        installed = self._executor.submit(
            "file", lambda: install(settings.config.haproxy, text, is_wanted=is_wanted.is_set)
        )
        self._job = _Job(wanted, settings, is_for_start, is_wanted, installed)

    def finish(self, *, wait: bool = False) -> bool:
        """Take the result of the job, once there is one or (`wait`) when there is; return whether there was."""
        job = self._job
        if job is None or not (wait or job.installed.done()):
            return False
        installed = value_of(job.installed)
        self._job = None
        self.was_late = job.is_for_start and installed is True and not job.is_wanted.is_set()
        if isinstance(installed, HapsyncError):
            self._failed(installed, job.wanted, job.settings)
        elif installed:
            log.info("file %s written", job.settings.config.haproxy.config)
            self._written(job.settings)
        else:
            self.touch()
        return True

    def _written(self, settings: Settings) -> None:
        self.error = self._refused = None
        self.look(settings)

    def _failed(self, error: Exception, wanted: Desired | None, settings: Settings) -> None:
        if str(error) != self.error:
            log.error("file not written: %s", error)
        self.error = str(error)
        if wanted is not None and isinstance(error, ConfigError | ConfigRefused):  # all else may be mended elsewhere
            self._refused = (wanted, settings)
            self._refused_until = time.monotonic() + REFUSED_SECONDS
        self.look(settings)
