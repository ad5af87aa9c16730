"""The worker that answers on HAProxy's socket, whether it is a new one, and the answers that cannot be read."""

import logging
from collections.abc import Collection, Mapping

import attrs

from hapsync.errors import RuntimeAPIError
from hapsync.model.server import HAProxyProcess, Observed

log = logging.getLogger(__name__)


@attrs.frozen
class Arrival:
    """The first answer of a worker: of another one than before (`is_another`), or after no answer (`was_away`)."""

    is_another: bool
    was_away: bool


class Liveness:
    """The worker that answered last; while none answers, `process` is None, and `error` gives the reason.

    `is_down`: no HAProxy runs, and the next one starts with the file. A silent worker may live, and keep its servers.
    """

    def __init__(self) -> None:
        self.process: HAProxyProcess | None = None
        self.error: str | None = None
        self.is_down = False
        self._last_pid = 0

    def answered(self, process: HAProxyProcess) -> Arrival | None:
        """Record that `process` answered, and return its arrival; None where it answered the last time, too."""
        was_there = self.process is not None and self.process.pid == process.pid
        arrival = Arrival(is_another=process.pid != self._last_pid, was_away=self.error is not None)
        if not was_there and arrival.was_away and not arrival.is_another:
            log.info("haproxy pid=%d answers again", process.pid)
        self.process, self.error, self.is_down, self._last_pid = process, None, False, process.pid
        return None if was_there else arrival

    def lost(self, error: RuntimeAPIError, every_seconds: float) -> bool:
        """Record that no worker answers, asked every `every_seconds`; return whether that is news."""
        is_news = self.error is None or self.is_down != error.is_down
        if is_news:
            log.warning("haproxy %s (asked again every %g s)", error, every_seconds)
        self.process, self.error, self.is_down = None, str(error), error.is_down
        return is_news


class Unread:
    """The reason, by backend, why HAProxy's last answer about it could not be read."""

    def __init__(self) -> None:
        self.why: Mapping[str, str] = {}

    def note(self, observed: Observed, backends: Collection[str]) -> None:
        """Record `observed`, the last reading of `backends`; log each reason that is new, and each that is gone."""
        before = self.why
        self.why = {**{name: why for name, why in before.items() if name not in backends}, **observed.unread}
        for name, why in self.why.items():
            if name not in before:
                log.error("backend %s cannot be read, the others are followed: %s", name, why)
        for name in before:
            if name not in self.why:
                log.info("backend %s can be read again", name)

    def only(self, backends: Collection[str]) -> None:
        """Forget all but `backends`."""
        self.why = {name: why for name, why in self.why.items() if name in backends}
