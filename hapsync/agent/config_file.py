"""Keeps haproxy.cfg current, with a job that checks and installs each new text beside the passes."""

import logging
import math
import threading
import time
from concurrent.futures import Future

import attrs

from hapsync.agent.executor import Executor, value_of
from hapsync.agent.file_text import is_applied, new_text
from hapsync.agent.reconcile import Reconciler
from hapsync.agent.schedule import FileDue
from hapsync.agent.settings import Settings
from hapsync.errors import ConfigError, ConfigRefused, HapsyncError
from hapsync.haproxy.reload import install
from hapsync.model.server import Observed
from hapsync.plan.desired import Desired
from hapsync.plan.growth import Pending, file_due_seconds, touched
from hapsync.system.files import read_text_or_none, signature

log = logging.getLogger(__name__)

REFUSED_SECONDS = 60.0
"""The pause before the next try of a text that the check command refused: a certificate or a map named in it may have
been unreadable for a moment."""


@attrs.frozen
class _Job:
    """A text that is checked and installed beside the passes; the future's value says whether it was put in place.

    The job speaks to no HAProxy, and installs nothing once `is_wanted` was cleared. The text was made from `attempt`,
    and `live` is the HAProxy of its servers, None where HAProxy was away. `is_for_start`: the text is of other
    settings than the file it replaces, and is right only as long as no HAProxy was started from this file.
    """

    attempt: tuple[Desired, Settings]
    live: Observed | None
    is_for_start: bool
    is_wanted: threading.Event
    installed: Future[bool | HapsyncError]


class FileKeeper:
    """The state of the file: whether it is behind, when its next write is due, and why the last one failed.

    `error` is None while the file can be written. `was_late`: the last job installed a file of other settings for
    HAProxy's next start, and HAProxy had started by then. The agent's thread calls all methods; only the job runs
    beside it.
    """

    def __init__(self, reconciler: Reconciler, executor: Executor) -> None:
        """Take the executor that runs jobs beside the passes."""
        self.error: str | None = None
        self.was_late = False
        self._reconciler = reconciler
        self._executor = executor
        self._pending: Pending | None = None
        self._written_at = -math.inf
        self._seen: tuple[int, int, int] | None = None
        self._refused: tuple[Desired, Settings] | None = None
        self._refused_until = 0.0
        self._job: _Job | None = None

    @property
    def is_behind(self) -> bool:
        """Whether the file may be out of date for HAProxy's next start, or could not be written."""
        return bool(self._pending or self._job or self.error)

    @property
    def is_working(self) -> bool:
        """Whether a job runs, or will run in a moment."""
        return self._job is not None or (self._pending is not None and self._pending.since_seconds == -math.inf)

    @property
    def due_seconds(self) -> float | None:
        """The time of the next `write`, on the monotonic clock; None while none is due, or a job runs."""
        if self._pending is None or self._job is not None:
            return None
        return file_due_seconds(self._pending, self._written_at)

    def make_due(self, how: FileDue) -> None:
        """Make the next write due: the file should show a change."""
        self._pending = touched(self._pending, time.monotonic())
        match how:
            case FileDue.SOON:
                pass
            case FileDue.LIVE:
                if self._job is not None and self._job.is_for_start:
                    self._job.is_wanted.clear()
            case FileDue.ANEW:
                self._refused = None
            case FileDue.NOW:
                self._refused = None
                self._pending = Pending(-math.inf, -math.inf)

    def forget(self, *, is_current: bool = False) -> None:
        """Drop the pending write: a reload writes the file, or (`is_current`) has just written it."""
        self._pending = None
        if is_current:
            self.error = self._refused = None

    def stop(self) -> None:
        """Keep a running job from installing its file: changes are stopped from now on."""
        if self._job is not None:
            self._job.is_wanted.clear()

    def look(self) -> None:
        """Remember the file as it is now."""
        self._seen = self._signature()

    def is_suspect(self) -> bool:
        """Return whether another program wrote the file since, or the last write failed."""
        return self.error is not None or self._signature() != self._seen

    def cannot(self, error: OSError) -> None:
        """Note that the file could not be read; the agent tries again by itself."""
        self._pending = None
        self._failed(error)

    def write(self, *, is_down: bool) -> None:
        """Begin to write the file for a HAProxy that would start now, unless the file has that text already.

        `is_down`: no HAProxy runs.

        Raises RuntimeAPIError where HAProxy does not answer; the write stays due then.
        """
        settings = self._reconciler.settings
        try:
            seen = self._reconciler.target_to_write(is_down=is_down)
        except OSError as error:
            self.cannot(error)
            return
        self._pending = None
        live = None if is_down else seen.observed
        attempt = (seen.desired, settings)
        if not seen.desired.backends or (self._refused == attempt and time.monotonic() < self._refused_until):
            return
        try:
            text = new_text(settings, seen, is_down=is_down)
            is_for_start = is_down and not is_applied(settings, read_text_or_none(settings.config.haproxy.config))
        except (HapsyncError, OSError, ValueError) as error:
            self._failed(error, attempt)
            return
        if text is None:
            self._written(live)
            return
        self._written_at = time.monotonic()
        is_wanted = threading.Event()
        is_wanted.set()
        installed = self._executor.submit(
            "file", lambda: install(settings.config.haproxy, text, is_wanted=is_wanted.is_set)
        )
        self._job = _Job(attempt, live, is_for_start, is_wanted, installed)

    def finish(self, *, wait: bool = False) -> bool:
        """Take the result of the job where it has ended, or (`wait`) once it ends; return whether there was one."""
        job = self._job
        if job is None or not (wait or job.installed.done()):
            return False
        installed = value_of(job.installed)
        self._job = None
        self.was_late = job.is_for_start and installed is True and not job.is_wanted.is_set()
        if isinstance(installed, HapsyncError):
            self._failed(installed, job.attempt)
        elif installed:
            log.info("file %s written", job.attempt[1].config.haproxy.config)
            self._written(job.live)
        else:
            self.make_due(FileDue.SOON)
        return True

    def _written(self, live: Observed | None) -> None:
        """Note that the file shows `live`; the released overrides that it no longer shows are forgotten."""
        self.error = self._refused = None
        self.look()
        if live is not None and self._pending is None:
            self._reconciler.guard_state.forget_released(live)

    def _failed(self, error: Exception, attempt: tuple[Desired, Settings] | None = None) -> None:
        if str(error) != self.error:
            log.error("file not written: %s", error)
        self.error = str(error)
        if attempt is not None and isinstance(error, ConfigError | ConfigRefused):  # others may pass
            self._refused = attempt
            self._refused_until = time.monotonic() + REFUSED_SECONDS
        self.look()

    def _signature(self) -> tuple[int, int, int] | None:
        return signature(self._reconciler.settings.config.haproxy.config)
