"""Watch Consul: one thread and one blocking query for each wanted service, and nothing else while all is well.

Each watch keeps its service's last reading; whatever fails, that reading stays, with a doubt that keeps anything from
being taken away. A new reading wakes the worker through `on_change` with the service's name, which carries no
content: the worker reads the catalog afresh.
"""

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import attrs

from hapsync.catalog import Catalog, Doubt, Reading
from hapsync.config import ConsulConfig
from hapsync.edge.consul import Endpoints
from hapsync.edge.pacing import Budget
from hapsync.edge.reader import Finding, Reader, Stopped
from hapsync.edge.waits import CACHED_SECONDS, UNCACHED_SECONDS, Waits
from hapsync.errors import CatalogError
from hapsync.text import quoted
from hapsync.trust import needs_confirming, same_content

log = logging.getLogger(__name__)

FILTERED_WAIT_SECONDS = 10.0
"""A change of rights ends no blocking query, so while the token may not read all none is held longer."""
BACKOFF_FIRST_SECONDS = 0.25
BACKOFF_LOCAL_SECONDS = 1.0
BACKOFF_REMOTE_SECONDS = 30.0
QUIET_SECONDS = 5.0
"""Without a failure for this long, the next one is the first again."""
DOUBT_CAP_SECONDS = 2.0
"""While Consul answers, but cannot be believed, it is asked again this often."""
FIRST_READ_SECONDS = 3.0
"""A Consul that takes longer for its first answer counts as away where something of the service is known."""
CACHE_RETRY_SECONDS = 60.0
"""Consul's agent refreshes its cache up to a minute late (agent/cache, `CacheRefreshMaxWait`)."""
CACHE_NOTICES_SECONDS = 2.0
"""After this long without the servers the agent's cache gives an age of more than a second."""
YIELD_SECONDS = 0.001
"""Before a watch asks again it lets go of the interpreter, so that the worker acts on the change first."""
SAFETY_SECONDS = (300.0, 600.0)
"""Between these a service is read once without waiting and past the cache, should a wake-up have been lost."""


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


class Watches:
    """The watches of all wanted services."""

    def __init__(
        self,
        config: ConsulConfig,
        on_change: Callable[[str], None],
        known: Mapping[str, Reading] = MappingProxyType({}),
    ) -> None:
        """Take `[consul]`, whom to wake, and what was `known` of services before the start.

        Of what was known nothing is given out before Consul failed to answer a first time.

        Raises CatalogError when the certificates cannot be used.
        """
        self._config = config
        self._where = Endpoints(config)
        self._on_change = on_change
        self._known = known
        self._budget = Budget()
        self._waits = Waits(config.wait_seconds)
        self._watches: dict[str, Watch] = {}

    def follow(self, services: Iterable[str]) -> None:
        """Watch exactly `services` from now on."""
        wanted = set(services)
        for service in sorted(set(self._watches) - wanted):
            self._watches.pop(service).stop()
        for service in sorted(wanted - set(self._watches)):
            watch = Watch(
                service,
                self._config,
                self._where,
                self._budget,
                self._waits,
                self._on_change,
                known=self._known.get(service),
            )
            self._watches[service] = watch
            watch.start()

    def stop(self) -> None:
        """End all watches; returns within a moment, whatever Consul does."""
        for watch in self._watches.values():
            watch.stop()
        deadline = time.monotonic() + 1.0
        for watch in self._watches.values():
            watch.join(max(0.0, deadline - time.monotonic()))

    def catalog(self) -> Catalog:
        """Return the readings there are, for whoever acts on them."""
        readings = {service: watch.hand_out() for service, watch in self._watches.items()}
        return Catalog({service: reading for service, reading in readings.items() if reading is not None})

    def states(self) -> Mapping[str, WatchState]:
        """Return what each watch knows, by service."""
        return {service: watch.state for service, watch in sorted(self._watches.items())}


class Watch(threading.Thread):
    """The watch of one service; `state` may be read from any thread, for it is replaced whole."""

    def __init__(
        self,
        service: str,
        config: ConsulConfig,
        where: Endpoints,
        budget: Budget,
        waits: Waits,
        on_change: Callable[[str], None],
        *,
        known: Reading | None,
    ) -> None:
        super().__init__(name=f"watch {service}", daemon=True)
        self.state = WatchState()
        self._service = service
        self._config = config
        self._on_change = on_change
        self._known = known
        self._baseline = known if known is not None and known.doubt is not Doubt.FALLBACK else None
        """What the first answer is measured by."""
        self._stopped = threading.Event()
        self._reader = Reader(service, config, where, budget, waits, self._stopped)

        self._handed_out: Reading | None = None
        self._index = 0
        """What the next read waits for to change; 0 is not to wait."""
        self._trusted_index = known.index if self._baseline is not None and known is not None else 0
        self._is_direct = False
        """Past the agent's cache, until `_cache_at` (monotonic seconds)."""
        self._cache_at = math.inf
        self._safety_at = self._next_safety()
        self._failures = 0
        self._failing_since = 0.0
        self._failed_at = -QUIET_SECONDS
        self._doubts = 0

    def stop(self) -> None:
        """End the watch at once, also in the middle of a blocking query; called from another thread."""
        self._stopped.set()
        self._reader.abort()

    def hand_out(self) -> Reading | None:
        """Return the reading for whoever acts on it; that it went backwards is then told."""
        reading = self.state.reading
        self._handed_out = reading
        return reading

    def run(self) -> None:
        """Read, wait for something newer, and so on until `stop`."""
        pause_seconds = 0.0
        while not self._stopped.wait(pause_seconds):
            try:
                pause_seconds = self._turn_or_fail()
            except Stopped:
                break
            except Exception:  # not even a defect in what is done about a failure may end the watch
                log.exception("a defect of hapsync, please report it: watch of service %s", quoted(self._service))
                pause_seconds = BACKOFF_LOCAL_SECONDS
        self._reader.hang_up()

    # -- one turn -------------------------------------------------------------------------------------------

    def _turn_or_fail(self) -> float:
        """Read once; return how many seconds to pause before the next time."""
        try:
            return self._turn()
        except CatalogError as error:
            return self._failed(error)
        except Stopped:
            raise
        except Exception as error:  # a defect of ours in one answer must not blind the agent to this service
            if not self._stopped.is_set() and self.state.error is None:
                log.exception("watch of service %s", quoted(self._service))
            return self._failed(CatalogError(f"a defect of hapsync, please report it: {error!r}"))

    def _turn(self) -> float:
        state = self.state
        doubt = state.reading.doubt if state.reading is not None else None
        if doubt in {Doubt.UNCONFIRMED, Doubt.FILTERED}:
            self._reader.renew()  # the token may have been replaced by one that has its rights
        now = time.monotonic()
        if self._is_direct and now >= self._cache_at:
            self._try_cache()
        elif self._index > 0 and now >= self._safety_at:
            self._safety_at = self._next_safety()
            if self._consistency != "cached":
                self._index = 0
            elif (found := self._looked_past_cache()) is not None:
                self._past_cache()
                return self._judge(found)
        is_first = state.reading is None and state.error is None and self._known is not None
        found = self._reader.read(
            self._consistency,
            index=self._index,
            wait_seconds=self._wait_seconds(doubt),
            timeout_seconds=FIRST_READ_SECONDS if is_first else math.inf,
        )
        if found.is_behind and state.error is not None and state.index:
            raise CatalogError(
                f"service {quoted(self._service)}: the agent's cache has not heard of the servers for "
                f"{found.age_seconds:.0f} s"
            )
        return self._judge(found)

    def _judge(self, found: Finding) -> float:
        """Keep what was found, as far as it can be trusted; return how many seconds to pause."""
        is_lower = found.index < self._trusted_index
        needs = needs_confirming(self.state.trusted or self._baseline, found.reading, found.doubt)
        is_again = self._doubts > 0
        # Rights are not the leader's to confirm, and a server that still has none cannot ask it.
        is_hopeless = found.doubt is Doubt.FILTERED or (is_again and found.doubt is Doubt.NO_LEADER)
        if (is_lower or needs) and not is_hopeless:
            confirmed = self._reader.confirm(found.reading, is_again=is_again)
            if confirmed is not None:
                # The leader may only be newer, which the cache will be in a moment. At the same index it is wrong.
                if confirmed.index <= found.index and not same_content(confirmed.reading, found.reading):
                    self._past_cache()
                found = attrs.evolve(confirmed, age_seconds=found.age_seconds, is_cached=found.is_cached)
            elif found.doubt is None:
                found = attrs.evolve(found, doubt=Doubt.UNCONFIRMED if needs else Doubt.STALE)
        self._keep(found)
        return self._next(found)

    def _next(self, found: Finding) -> float:
        """Settle how to go on after `found`; return how many seconds to pause."""
        self._index = max(found.index, 1)
        if self._consistency == "cached" and not found.is_cached:
            self._past_cache(is_for_good=True)  # this agent has none
        elif found.is_behind:
            self._past_cache()
            self._index = 0
        if found.doubt is None:
            self._doubts = 0
            return 0.0
        self._past_cache()
        if found.doubt is Doubt.FILTERED:
            return 0.0
        # No blocking query while in doubt: on a server without a leader it would only wait.
        self._index = 0
        longest = min(DOUBT_CAP_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** min(self._doubts, 10))
        self._doubts += 1
        return random.uniform(0.5, 1.0) * longest  # noqa: S311

    # -- reading --------------------------------------------------------------------------------------------

    @property
    def _consistency(self) -> str:
        if self._config.consistency == "cached" and self._is_direct:
            return "stale"
        return self._config.consistency

    def _past_cache(self, *, is_for_good: bool = False) -> None:
        if self._config.consistency == "cached" and (is_for_good or not self._is_direct):
            self._is_direct = True
            self._cache_at = math.inf if is_for_good else time.monotonic() + CACHE_RETRY_SECONDS

    def _wait_seconds(self, doubt: Doubt | None) -> float:
        """Return how long Consul may hold the next answer back, within what `Waits` allows."""
        if self._consistency == "cached":
            return CACHED_SECONDS
        longest = FILTERED_WAIT_SECONDS if doubt is Doubt.FILTERED else UNCACHED_SECONDS
        return max(1.0, min(longest, self._cache_at - time.monotonic()))

    def _looked_past_cache(self) -> Finding | None:
        """Read once past the cache; return what that found if it is newer than what is known.

        A server that lags answers with an older state, and one that fails says nothing: both are passed over, for the
        watch itself tells how Consul fares.
        """
        try:
            found = self._reader.read("stale")
        except CatalogError as error:
            self._mind_connection()
            log.debug("consul safety read: %s", error)
            return None
        reading = self.state.reading
        is_old = found.index < self.state.index or reading is None or same_content(found.reading, reading)
        return None if is_old or found.doubt is not None else found

    def _try_cache(self) -> None:
        """Go back to the agent's cache if it is in touch again and says the same as the servers."""
        self._cache_at = time.monotonic() + CACHE_RETRY_SECONDS
        reading = self.state.reading
        if reading is None or reading.doubt is not None:
            return
        try:
            found = self._reader.read("cached")
        except CatalogError as error:
            self._mind_connection()
            log.debug("consul read of the agent's cache: %s", error)
            return
        if not found.is_cached:
            self._cache_at = math.inf  # this agent has none
            return
        is_live = not found.is_behind and found.doubt is None
        if is_live and same_content(found.reading, reading):
            self._is_direct = False
            self._index = max(found.index, 1)
            self.state = attrs.evolve(self.state, is_cached=True)

    def _mind_connection(self) -> None:
        if not self._reader.is_open:
            self._index = 0  # the agent may have restarted, and an index from before would only block

    # -- what is known --------------------------------------------------------------------------------------

    def _keep(self, found: Finding) -> None:
        state = self.state
        if state.error is not None:
            log.info("consul service=%s answers again", quoted(self._service))
        # In doubt it may only be a server that lags; the answer that is trusted tells.
        is_backwards = found.doubt is None and found.index < self._trusted_index
        content = attrs.evolve(found.reading, index=found.index)
        reading = self._made(content, found.doubt, is_backwards=is_backwards)
        if found.doubt is None:
            self._trusted_index = found.index
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

    def _failed(self, error: CatalogError) -> float:
        """Keep the reading, in doubt; return how many seconds to pause before the next try."""
        self._reader.hang_up()
        self._index = 0
        if self._stopped.is_set():
            return 0.0
        state = self.state
        if state.error is None:
            log.warning("consul %s (service %s stays as it was last read)", error, quoted(self._service))
        reading = state.reading
        if reading is None and self._known is not None:
            is_fallback = self._known.doubt is Doubt.FALLBACK
            reading = self._made(self._known, Doubt.FALLBACK if is_fallback else Doubt.SNAPSHOT)
        elif reading is not None and reading.doubt is None:
            reading = self._made(reading, Doubt.AWAY)
        self._publish(attrs.evolve(state, reading=reading, error=str(error)))
        if state.error is None:
            self._failing_since = time.monotonic()
        # By turns, for either may come back first. Not the cache at once: it may not have noticed yet.
        if not self._is_direct:
            self._past_cache()
        elif time.monotonic() - self._failing_since > CACHE_NOTICES_SECONDS:
            self._is_direct = False
        # Not the first good answer ends a run of failures, but some time without one.
        self._failures = 0 if time.monotonic() - self._failed_at > QUIET_SECONDS else self._failures + 1
        cap = BACKOFF_LOCAL_SECONDS if self._config.is_local else BACKOFF_REMOTE_SECONDS
        pause = random.uniform(0.05, min(cap, BACKOFF_FIRST_SECONDS * 2.0 ** min(self._failures, 10)))  # noqa: S311
        self._failed_at = time.monotonic() + pause
        return pause

    def _made(self, content: Reading, doubt: Doubt | None, *, is_backwards: bool = False) -> Reading:
        """Return the reading to publish; the same object where nothing is new."""
        before = self.state.reading
        is_untold = before is not None and before.is_backwards and before is not self._handed_out
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

    def _next_safety(self) -> float:
        return time.monotonic() + random.uniform(*SAFETY_SECONDS)  # noqa: S311
