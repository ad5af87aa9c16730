"""Watch Consul: one thread and one blocking query for each wanted service, and nothing else.

Each watch keeps its service's last good reading; whatever fails, that reading stays. A new reading wakes the worker
through `on_change` with the service's name, which carries no content: the worker reads the catalog afresh.
"""

import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping

import attrs

from hapsync.catalog import Catalog, Reading, parse_reading
from hapsync.config import ConsulConfig
from hapsync.edge.consul import Agent, Answer, Endpoint, endpoint, read_token
from hapsync.edge.pacing import CACHED_PER_SECOND, UNCACHED_PER_SECOND, Budget, Pace
from hapsync.errors import CatalogError
from hapsync.text import quoted

log = logging.getLogger(__name__)

UNCACHED_WAIT_SECONDS = 300.0
BACKOFF_FIRST_SECONDS = 0.25
BACKOFF_LOCAL_SECONDS = 1.0
BACKOFF_REMOTE_SECONDS = 30.0
QUIET_SECONDS = 5.0
"""Without a failure for this long, the next one is the first again."""
YIELD_SECONDS = 0.001
"""Before a watch asks again it lets go of the interpreter, so that the worker acts on the change first."""
SAFETY_SECONDS = (300.0, 600.0)
"""Between these a service is read once without waiting and past the cache, should a wake-up have been lost."""


@attrs.frozen
class WatchState:
    """What a watch knows of its service.

    `confirmed_at` is when Consul last gave or confirmed the reading, in seconds of the wall clock; None before the
    first. `error` is why the last try failed, None while the watch works.
    """

    reading: Reading | None = None
    index: int = 0
    confirmed_at: float | None = None
    error: str | None = None
    is_cached: bool = False


class Watches:
    """The watches of all wanted services."""

    def __init__(self, config: ConsulConfig, on_change: Callable[[str], None]) -> None:
        """Take `[consul]` and whom to wake; raises CatalogError when its certificates cannot be used."""
        self._config = config
        self._where = endpoint(config)
        self._on_change = on_change
        self._budget = Budget()
        self._watches: dict[str, Watch] = {}

    def follow(self, services: Iterable[str]) -> None:
        """Watch exactly `services` from now on."""
        wanted = set(services)
        for service in sorted(set(self._watches) - wanted):
            self._watches.pop(service).stop()
        for service in sorted(wanted - set(self._watches)):
            watch = Watch(service, self._config, self._where, self._budget, self._on_change)
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
        """Return the readings there are."""
        readings = {service: watch.state.reading for service, watch in self._watches.items()}
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
        where: Endpoint,
        budget: Budget,
        on_change: Callable[[str], None],
    ) -> None:
        super().__init__(name=f"watch {service}", daemon=True)
        self.state = WatchState()
        self._service = service
        self._config = config
        self._where = where
        self._budget = budget
        self._on_change = on_change
        self._pace = Pace()
        self._stopped = threading.Event()
        self._agent: Agent | None = None
        self._digest = b""

    def stop(self) -> None:
        """End the watch at once, also in the middle of a blocking query; called from another thread."""
        self._stopped.set()
        agent = self._agent
        if agent is not None:
            agent.abort()

    def run(self) -> None:
        """Read, wait for something newer, and so on until `stop`."""
        try:
            self._follow()
        finally:
            if self._agent is not None:
                self._agent.close()

    def _follow(self) -> None:
        index = 0
        failures = 0
        failed_at = -QUIET_SECONDS
        safety_at = self._next_safety()
        while not self._stopped.is_set():
            try:
                if index > 0 and time.monotonic() >= safety_at:
                    safety_at = self._next_safety()
                    if self._looked_past_cache():
                        index = 0
                answer = self._read(index, past_cache=False)
                if answer is None:
                    return
                newer = self._take(answer, is_cached="x-cache" in answer.headers)
                # Lower: the servers' state was restored or lost; waiting for the old index would only block.
                index = 0 if newer < index else max(newer, 1)
                continue
            except CatalogError as error:
                if self._stopped.is_set():
                    return
                self._failed(error)
            except Exception as error:  # a defect of ours in one answer must not blind the agent to this service
                log.exception("watch of service %s", quoted(self._service))
                self._failed(CatalogError(f"a defect of hapsync, please report it: {error!r}"))
            index = 0
            # Not the first good answer ends a run of failures, but some time without one.
            failures = 0 if time.monotonic() - failed_at > QUIET_SECONDS else failures + 1
            self._stopped.wait(self._backoff_seconds(failures))
            failed_at = time.monotonic()

    def _looked_past_cache(self) -> bool:
        """Read once past the cache; keep it if it is newer than what is known, and return whether it was.

        A server that lags answers with an older state, and one that fails says nothing: both are passed over, for the
        watch itself tells how Consul fares.
        """
        try:
            answer = self._read(0, past_cache=True)
            if answer is None or self._index(answer) < self.state.index or not self._is_new(answer):
                return False
            self._take(answer, is_cached=self.state.is_cached)
        except CatalogError as error:
            log.debug("consul safety read: %s", error)
            return False
        return True

    def _read(self, index: int, *, past_cache: bool) -> Answer | None:
        """Make one read when the budget allows it; None when the watch was stopped before."""
        state = self.state
        is_cached = self._config.consistency == "cached" and (state.is_cached or state.reading is None)
        if self._stopped.wait(self._pace.delay_seconds(CACHED_PER_SECOND if is_cached else UNCACHED_PER_SECOND)):
            return None
        if self._agent is None:
            self._agent = Agent(self._config, self._where, read_token(self._config))
        self._agent.open()
        while delay := self._budget.take_or_delay_seconds():
            if self._stopped.wait(delay):
                return None
        if self._stopped.is_set():  # `stop` may have come before there was an agent to abort
            return None
        consistency = self._config.consistency
        if consistency == "cached" and (past_cache or not is_cached):
            consistency = "stale"
        wait_seconds = self._config.wait_seconds if is_cached else UNCACHED_WAIT_SECONDS
        return self._agent.read_health(self._service, consistency=consistency, index=index, wait_seconds=wait_seconds)

    def _take(self, answer: Answer, *, is_cached: bool) -> int:
        """Keep what `answer` says; return its index.

        Raises CatalogError when the answer is not whole.
        """
        index = self._index(answer)
        changed = self._is_new(answer)
        reading = parse_reading(self._service, answer.body) if changed else self.state.reading
        self._digest = _digest(answer)
        if self.state.error is not None:
            log.info("consul service=%s answers again", quoted(self._service))
        self.state = WatchState(reading, index, time.time(), None, is_cached)
        if changed:
            self._on_change(self._service)
            time.sleep(YIELD_SECONDS)
        return index

    def _index(self, answer: Answer) -> int:
        try:
            return int(answer.headers["x-consul-index"])
        except (KeyError, ValueError) as error:
            raise CatalogError(f"service {quoted(self._service)}: Consul's answer has no index") from error

    def _is_new(self, answer: Answer) -> bool:
        return _digest(answer) != self._digest

    def _failed(self, error: CatalogError) -> None:
        if self._agent is not None:
            self._agent.close()
            self._agent = None  # the token file is read again for the next one
        if self.state.error is None:
            log.warning("consul %s; keeping the last reading of service %s", error, quoted(self._service))
        self.state = attrs.evolve(self.state, error=str(error))

    def _backoff_seconds(self, failures: int) -> float:
        cap = BACKOFF_LOCAL_SECONDS if self._config.is_local else BACKOFF_REMOTE_SECONDS
        return random.uniform(0.05, min(cap, BACKOFF_FIRST_SECONDS * 2 ** min(failures, 10)))  # noqa: S311

    def _next_safety(self) -> float:
        return time.monotonic() + random.uniform(*SAFETY_SECONDS)  # noqa: S311


def _digest(answer: Answer) -> bytes:
    return hashlib.blake2b(answer.body, digest_size=16).digest()
