"""Watch Consul: one thread and one blocking query for each wanted service, and one more for Consul's servers.

Each watch keeps its service's last reading; whatever fails, that reading stays, with a doubt that keeps anything from
being taken away. A new reading wakes the worker through `on_change` with the service's name, which carries no
content: the worker reads the catalog afresh.
"""

import contextlib
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import attrs

from hapsync.config.schema import ConsulConfig
from hapsync.consul.backoff import LOCAL_SECONDS, Backoff, doubted_seconds
from hapsync.consul.evidence import same_content
from hapsync.consul.judge import Judge, Judged
from hapsync.consul.read import Finding, Interrupted, Reader, Shared, Stopped
from hapsync.consul.servers import ServersWatch
from hapsync.consul.told import Told, WatchState
from hapsync.consul.waits import CACHED_SECONDS, UNCACHED_SECONDS
from hapsync.errors import CatalogError
from hapsync.model.catalog import Catalog, Doubt, Reading
from hapsync.text import quoted

__all__ = ["Watch", "WatchState", "Watches"]

log = logging.getLogger(__name__)

FILTERED_WAIT_SECONDS = 10.0
"""A change of rights ends no blocking query, so while the token may not read all none is held longer."""
WARY_WAIT_SECONDS = 5.0
"""An agent that lost its stream may wait for an index that Consul no longer has, and nothing ends that."""
OPEN_WAIT_SECONDS = 1.0
"""Until the leader told whether a snapshot was restored, it is asked again after so long."""
FIRST_READ_SECONDS = 3.0
"""A Consul that takes longer for its first answer counts as away where something of the service is known."""
CACHE_RETRY_SECONDS = 60.0
"""Consul's agent refreshes its cache up to a minute late (agent/cache, `CacheRefreshMaxWait`)."""
CACHE_NOTICES_SECONDS = 2.0
"""After this long without the servers the agent's cache gives an age of more than a second."""
SAFETY_SECONDS = (300.0, 600.0)
"""Between these a service is read once without waiting and past the cache, should a wake-up have been lost."""


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
        self._shared = Shared(config)
        self._on_change = on_change
        self._known = known
        self._watches: dict[str, Watch] = {}
        self._servers: ServersWatch | None = None

    def follow(self, services: Iterable[str], max_servers: Mapping[str, int] = MappingProxyType({})) -> None:
        """Watch exactly `services` from now on; `max_servers` bounds how large their answers may be."""
        wanted, shared = set(services), self._shared
        shared.max_servers = dict(max_servers)
        shared.seats.expect(len(wanted))
        if wanted and self._servers is None:
            self._servers = ServersWatch(self._config, shared.where, shared.budget, shared.waits, self._look_afresh)
            self._servers.start()
        for service in sorted(set(self._watches) - wanted):
            self._watches.pop(service).stop()
        for service in sorted(wanted - set(self._watches)):
            watch = Watch(
                service,
                self._config,
                shared,
                self._on_change,
                known=self._known.get(service),
            )
            self._watches[service] = watch
            watch.start()

    def _look_afresh(self, *, is_rewound: bool) -> None:
        for watch in tuple(self._watches.values()):
            watch.look_afresh(is_rewound=is_rewound)

    def stop(self) -> None:
        """End all watches; returns within a moment, whatever Consul does."""
        if self._servers is not None:
            self._servers.stop()
        for watch in self._watches.values():
            watch.stop()
        deadline = time.monotonic() + 1.0
        for watch in (*self._watches.values(), *((self._servers,) if self._servers is not None else ())):
            watch.join(max(0.0, deadline - time.monotonic()))

    def catalog(self) -> Catalog:
        """Return the readings there are; asking changes nothing."""
        readings = {service: watch.state.reading for service, watch in self._watches.items()}
        return Catalog({service: reading for service, reading in readings.items() if reading is not None})

    def acknowledge(self, readings: Iterable[Reading]) -> None:
        """Take note of `readings` that were acted on: that one of them went backwards is not told again after it."""
        for reading in readings:
            watch = self._watches.get(reading.service)
            if watch is not None:
                watch.acknowledge(reading)

    @property
    def minds_servers(self) -> bool:
        """Whatever happens to Consul's servers from now on is noticed."""
        return self._servers is not None and self._servers.is_waiting

    def states(self) -> Mapping[str, WatchState]:
        """Return what each watch knows, by service."""
        return {service: watch.state for service, watch in sorted(self._watches.items())}


class Watch(threading.Thread):
    """The watch of one service; `state` may be read from any thread."""

    def __init__(
        self,
        service: str,
        config: ConsulConfig,
        shared: Shared,
        on_change: Callable[[str], None],
        *,
        known: Reading | None,
    ) -> None:
        super().__init__(name=f"watch {service}", daemon=True)
        self._service = service
        self._config = config
        self._known = known
        self._told = Told(service, on_change, known)
        baseline = known if known is not None and known.doubt is not Doubt.FALLBACK else None
        self._stopped = threading.Event()
        self._reader = Reader(service, config, shared, self._stopped)
        self._alarms: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """Each: whether a snapshot may have been restored."""
        self._judge = Judge(service, self._reader, baseline, lambda: not self._alarms.empty())
        self._index = 0
        """What the next read waits for to change; 0 is not to wait."""
        self._is_streamed = False
        """The last answer but those past cache and stream came out of a stream."""
        self._refutations = 0
        self._is_direct = False
        """Past the agent's cache, until `_cache_at` (monotonic seconds)."""
        self._cache_at = math.inf
        self._safety_at = self._next_safety()
        self._backoff = Backoff(is_local=config.is_local)
        self._failing_since = 0.0
        self._doubts = 0

    @property
    def state(self) -> WatchState:
        """What is known of the service."""
        return self._told.state

    def stop(self) -> None:
        """End the watch at once, also in the middle of a blocking query; called from another thread."""
        self._stopped.set()
        self._reader.abort()

    def acknowledge(self, reading: Reading) -> None:
        """Take note that `reading` was acted on; called from another thread."""
        self._told.acknowledged = reading

    def look_afresh(self, *, is_rewound: bool) -> None:
        """Have the service read past cache and stream at once; called from another thread.

        `is_rewound`: a snapshot may have been restored.
        """
        self._alarms.put(is_rewound)
        self._reader.interrupt()

    def run(self) -> None:
        """Read, wait for something newer, and so on until `stop`."""
        pause_seconds = 0.0
        while not self._stopped.wait(pause_seconds):
            try:
                pause_seconds = self._turn_or_fail()
                self._reader.rest()
            except Stopped:
                break
            except Exception:  # not even a defect in what is done about a failure may end the watch
                log.exception("a defect of hapsync, please report it: watch of service %s", quoted(self._service))
                pause_seconds = LOCAL_SECONDS
        self._reader.leave()

    # -- one turn -------------------------------------------------------------------------------------------

    def _turn_or_fail(self) -> float:
        """Read once; return how many seconds to pause before the next time."""
        try:
            return self._turn()
        except Interrupted:
            return 0.0
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
        doubt = _doubt(state)
        if doubt in {Doubt.UNCONFIRMED, Doubt.FILTERED}:
            self._reader.renew()  # the token may have been replaced by one that has its rights
        now = time.monotonic()
        if (found := self._looked_at_alarm()) is not None:
            return self._settle(found)
        if self._is_direct and now >= self._cache_at:
            self._try_cache()
        elif self._index > 0 and now >= self._safety_at:
            self._safety_at = self._next_safety()
            if self._consistency != "cached":
                self._index = 0
            elif (found := self._looked_past_cache()) is not None:
                return self._settle(found)
        is_first = state.reading is None and state.error is None and self._known is not None
        found = self._reader.read(
            self._consistency,
            index=self._index,
            wait_seconds=self._wait_seconds(doubt),
            timeout_seconds=FIRST_READ_SECONDS if is_first else math.inf,
        )
        if found.is_early:
            self._alarms.put(True)
            return 0.0
        if found.is_behind and state.error is not None and state.index:
            raise CatalogError(
                f"service {quoted(self._service)}: the agent's cache has not heard of the servers for "
                f"{found.age_seconds:.0f} s"
            )
        return self._settle(found)

    def _settle(self, found: Finding) -> float:
        """Keep what was found, as far as it can be believed; return how many seconds to pause."""
        state = self.state
        judged = self._judge.judge(
            found,
            state.reading,
            is_again=self._doubts > 0,
            is_failing=state.error is not None,
            is_unproven=state.trusted is None or state.error is not None or _doubt(state) is not None,
        )
        if judged.is_cache_wrong:
            self._past_cache()
        self._told.keep(judged)
        return self._next(found, judged)

    def _next(self, asked: Finding, judged: Judged) -> float:
        """Settle how to go on after the answer `asked`; return how many seconds to pause."""
        found, waited = judged.finding, self._index
        self._index = max(found.index, 1)
        if asked.is_streamed:  # what is waited for is the view's own next state, whatever the servers are at
            self._is_streamed, self._index = True, 1 if judged.is_refuted else max(asked.index, 1)
        elif self._is_streamed and not waited:
            self._index = 1  # gives the view as it is now
        self._refutations = self._refutations + 1 if judged.is_refuted else 0
        if self._consistency == "cached" and not found.is_cached:
            self._past_cache(is_for_good=True)  # this agent has none
        elif found.is_behind:
            self._past_cache()
            self._index = 0
        if found.doubt is None:
            self._doubts = 0
            return doubted_seconds(self._refutations - 1) if judged.is_refuted else 0.0
        self._past_cache()
        if found.doubt is Doubt.FILTERED:
            return 0.0
        # No blocking query while in doubt: on a server without a leader it would only wait.
        self._index = 0
        self._doubts += 1
        return doubted_seconds(self._doubts - 1)

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
        if self._judge.is_rewind_open:
            return OPEN_WAIT_SECONDS
        if self._is_streamed and self._judge.is_wary:
            return WARY_WAIT_SECONDS
        if self._consistency == "cached":
            return CACHED_SECONDS
        longest = FILTERED_WAIT_SECONDS if doubt is Doubt.FILTERED else UNCACHED_SECONDS
        return max(1.0, min(longest, self._cache_at - time.monotonic()))

    def _looked_past_cache(self) -> Finding | None:
        """Read once past the cache; return what that found if it is not what is known.

        A server that fails says nothing and is passed over, for the watch itself tells how Consul fares. An older
        state is for the leader to tell: the server may lag, or Consul's state went back.
        """
        try:
            found = self._reader.read("stale")
        except CatalogError as error:
            self._mind_connection()
            log.debug("consul safety read: %s", error)
            return None
        if not self._judge.is_news(found, self.state.reading):
            return None
        self._past_cache()
        return found

    def _looked_at_alarm(self) -> Finding | None:
        """Read past cache and stream if there is reason to; return what that found if it is not what is known.

        Where a snapshot may have been restored it is the leader who is read, again and again until it answers.

        Raises CatalogError.
        """
        is_alarmed, is_rewound = False, False
        with contextlib.suppress(queue.Empty):
            while True:
                is_rewound |= self._alarms.get_nowait()
                is_alarmed = True
        if is_alarmed:
            self._judge.be_wary(is_rewound=is_rewound)
        elif not self._judge.is_rewind_open:
            return None
        found = self._judge.hear_leader(self.state.reading, is_again=not is_alarmed)
        if found is None:
            self._mind_connection()
            if not is_alarmed:
                return None
            found = self._reader.read("default" if self._config.consistency == "default" else "stale")
        state = self.state
        is_sure = state.error is None and _doubt(state) is None
        if is_sure and not self._judge.is_news(found, state.reading):
            is_cached = self._consistency == "cached"
            self._index = 0 if is_cached else 1 if self._is_streamed else max(found.index, 1)
            return None
        self._past_cache()
        return found

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
        # An index above the servers' own would only block: theirs went back, and the agent has not heard of it.
        if is_live and same_content(found.reading, reading) and found.index <= self._judge.trusted_index:
            self._is_direct = False
            self._index = max(found.index, 1)
            self._told.state = attrs.evolve(self.state, is_cached=True)

    def _mind_connection(self) -> None:
        if not self._reader.is_open:
            self._index = 0  # the agent may have restarted, and an index from before would only block

    # -- failures -------------------------------------------------------------------------------------------

    def _failed(self, error: CatalogError) -> float:
        """Keep the reading, in doubt; return how many seconds to pause before the next try."""
        self._reader.hang_up()
        self._index = 0
        if self._stopped.is_set():
            return 0.0
        is_first = self.state.error is None
        self._told.fail(error)
        if is_first:
            self._failing_since = time.monotonic()
        # By turns, for either may come back first. Not the cache at once: it may not have noticed yet.
        if not self._is_direct:
            self._past_cache()
        elif time.monotonic() - self._failing_since > CACHE_NOTICES_SECONDS:
            self._is_direct = False
        return self._backoff.failed_seconds()

    def _next_safety(self) -> float:
        return time.monotonic() + random.uniform(*SAFETY_SECONDS)  # noqa: S311


def _doubt(state: WatchState) -> Doubt | None:
    return state.reading.doubt if state.reading is not None else None
