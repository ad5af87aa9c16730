"""What a watch has told of its service: the reading in force, its doubt, and whether Consul's state went back."""

import logging
import math
import time
from collections.abc import Callable

import attrs

from hapsync.consul.judge import Judged
from hapsync.errors import CatalogError
from hapsync.model.catalog import Doubt, Reading
from hapsync.text import quoted

log = logging.getLogger(__name__)

YIELD_SECONDS = 0.001
"""Before a watch asks again it lets go of the interpreter, so that the worker acts on the change first."""


@attrs.frozen
class WatchState:
    """What a watch knows of its service.

    `confirmed_at` is when Consul last gave or confirmed the reading, in seconds of the wall clock; None before the
    first. `error` is why the last try failed, None while the watch works. `trusted` is the last reading without a
    doubt, None before the first.
    """

    reading: Reading | None = None
    index: int = 0
    confirmed_at: float | None = None
    error: str | None = None
    is_cached: bool = False
    trusted: Reading | None = None


class Told:
    """Publishes the readings of one service; `state` may be read from any thread, for it is replaced whole.

    `acknowledged` is the last reading that was acted on: that Consul's state went back is told until then.
    """

    def __init__(self, service: str, on_change: Callable[[str], None], known: Reading | None) -> None:
        """Take whom to tell of another reading, and what was `known` before the first."""
        self.state = WatchState()
        self.acknowledged: Reading | None = None
        self._service = service
        self._on_change = on_change
        self._known = known

    def keep(self, judged: Judged) -> None:
        """Publish what is believed of an answer."""
        state, found = self.state, judged.finding
        if state.error is not None:
            log.info("consul service=%s answers again", quoted(self._service))
        content = attrs.evolve(found.reading, index=found.index)
        reading = self._made(content, found.doubt, is_backwards=judged.is_backwards)
        self._publish(
            WatchState(
                reading,
                found.index,
                time.time() - (found.age_seconds if math.isfinite(found.age_seconds) else 0.0),
                None,
                found.is_cached,
                reading if found.doubt is None else state.trusted,
            )
        )

    def fail(self, error: CatalogError) -> None:
        """Publish that the last read failed: what there is stays, in doubt."""
        state = self.state
        if state.error is None:
            log.warning("consul %s (service %s stays as it was last read)", error, quoted(self._service))
        reading = state.reading
        if reading is None and self._known is not None:
            is_fallback = self._known.doubt is Doubt.FALLBACK
            reading = self._made(self._known, Doubt.FALLBACK if is_fallback else Doubt.SNAPSHOT)
        elif reading is not None and reading.doubt in {None, Doubt.UNCONFIRMED}:
            reading = self._made(reading, Doubt.AWAY)
        self._publish(attrs.evolve(state, reading=reading, error=str(error)))

    def _made(self, content: Reading, doubt: Doubt | None, *, is_backwards: bool = False) -> Reading:
        """Return the reading to publish; the same object where nothing is new."""
        before = self.state.reading
        is_untold = before is not None and before.is_backwards and before is not self.acknowledged
        wanted = attrs.evolve(content, doubt=doubt, is_backwards=is_backwards or is_untold)
        return before if before is not None and before == wanted else wanted

    def _publish(self, state: WatchState) -> None:
        before = self.state.reading
        self.state = state
        if state.reading is before or state.reading is None:
            return
        self._log_doubt(before, state.reading)
        self._on_change(self._service)
        time.sleep(YIELD_SECONDS)

    def _log_doubt(self, before: Reading | None, now: Reading) -> None:
        if now.is_backwards and not (before is not None and before.is_backwards):
            log.warning("consul service=%s went back to an older state", quoted(self._service))
        was = before.doubt if before is not None else None
        if now.doubt is was:
            return
        if now.doubt is None:
            if was not in {None, Doubt.AWAY, Doubt.SNAPSHOT, Doubt.FALLBACK}:  # of these its answer is the news
                log.info("consul service=%s is trusted again", quoted(self._service))
        elif now.doubt is not Doubt.AWAY:  # the failure itself was logged
            log.warning("consul service=%s: %s; nothing is taken away", quoted(self._service), now.doubt.value)
