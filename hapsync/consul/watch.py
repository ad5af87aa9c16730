"""The watches of Consul: a thread and a blocking query for each wanted service, and one more for Consul's servers.

Each watch keeps the last reading of its service. After any failure the reading stays, with a doubt that forbids
removals. A new reading wakes the agent's thread through `on_change` with the service's name and no content; the agent
then reads the catalog afresh.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import attrs

from hapsync.config.schema import ConsulConfig
from hapsync.consul import watch_policy
from hapsync.consul.evidence import Trust
from hapsync.consul.read import Interrupted, Reader, Shared, Stopped
from hapsync.consul.servers import ServersWatch
from hapsync.consul.watch_policy import Step, advance, failed
from hapsync.consul.watch_state import Failed, Found, GivenUp, Moment, Rested, Watching, WatchState
from hapsync.errors import CatalogError
from hapsync.model.catalog import Catalog, Doubt, Reading
from hapsync.text import quoted

__all__ = ["Watch", "WatchState", "Watches"]

log = logging.getLogger(__name__)

YIELD_SECONDS = 0.001
"""Before its next query a watch releases the interpreter, so the agent's thread acts on the change first."""


class Watches:
    """The watches of all wanted services."""

    def __init__(
        self,
        config: ConsulConfig,
        on_change: Callable[[str], None],
        known: Mapping[str, Reading] = MappingProxyType({}),
    ) -> None:
        """Take `[consul]`, the callback that wakes the agent, and the readings `known` before the start.

        A known reading is published only after Consul failed to answer once.

        Raises CatalogError when the certificates cannot be used.
        """
        self._config = config
        self._shared = Shared(config)
        self._on_change = on_change
        self._known = known
        self._watches: dict[str, Watch] = {}
        self._servers: ServersWatch | None = None

    def follow(self, services: Iterable[str], max_servers: Mapping[str, int] = MappingProxyType({})) -> None:
        """Watch exactly `services` from now on; `max_servers` limits the size of their answers."""
        wanted, shared = set(services), self._shared
        shared.max_servers = dict(max_servers)
        shared.connections.expect(len(wanted))
        if wanted and self._servers is None:
            self._servers = ServersWatch(self._config, shared, self._look_afresh)
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
        """Return the present readings; the call has no effect."""
        readings = {service: watch.state.reading for service, watch in self._watches.items()}
        return Catalog({service: reading for service, reading in readings.items() if reading is not None})

    def acknowledge(self, readings: Iterable[Reading]) -> None:
        """Acknowledge `readings` after the agent acted on them; the mark `is_backwards` then ends."""
        for reading in readings:
            watch = self._watches.get(reading.service)
            if watch is not None:
                watch.acknowledge(reading)

    def states(self) -> Mapping[str, WatchState]:
        """Return the state of each watch, by service."""
        return {service: watch.state for service, watch in sorted(self._watches.items())}


class Watch(threading.Thread):
    """The watch of one service: reads and sleeps as `watch_policy` says; `state` may be read from any thread."""

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
        self._service, self._quoted = service, quoted(service)
        self._on_change = on_change
        self._stopped = threading.Event()
        self._reader = Reader(service, config, shared, self._stopped)
        self._alarms: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """Each element says whether a snapshot may have been restored."""
        self._acknowledged: Reading | None = None
        baseline = known if known is not None and known.doubt is not Doubt.FALLBACK else None
        self._watching = Watching(
            service=service,
            consistency=config.consistency,
            is_local=config.is_local,
            known=known,
            trust=Trust(baseline, baseline.index) if baseline is not None else Trust(),
            safety_at=_now().seconds + random.uniform(*watch_policy.SAFETY_SECONDS),  # noqa: S311
        )

    @property
    def state(self) -> WatchState:
        """The state of the watch; replaced whole, never changed."""
        return self._watching.state

    def stop(self) -> None:
        """End the watch at once, also during a blocking query; other threads call this."""
        self._stopped.set()
        self._reader.abort()

    def acknowledge(self, reading: Reading) -> None:
        """Acknowledge `reading` after the agent acted on it; other threads call this."""
        self._acknowledged = reading

    def look_afresh(self, *, is_rewound: bool) -> None:
        """Read the service past cache and stream at once; other threads call this.

        `is_rewound`: a snapshot may have been restored.
        """
        self._alarms.put(is_rewound)
        self._reader.interrupt()

    def run(self) -> None:
        """Read, wait for a change, and repeat, until `stop`."""
        step = Step(self._watching, None)
        while True:
            try:
                step = self._publish(self._next(step))
            except Stopped:
                break
            except Exception as error:  # the next answer brings the news that was not published
                log.exception("a defect of hapsync, please report it: watch of service %s", self._quoted)
                step = self._after_defect(error)
                self._watching = step.watching
        self._reader.leave()

    def _next(self, step: Step) -> Step:
        """Make the read or the pause of `step`; return the next step. Raises Stopped."""
        try:
            found = self._found(step)
            return advance(self._told(), found, _now())
        except Stopped:
            raise
        except Exception as error:  # a defect of hapsync in one answer must not end the watch of this service
            if not self._stopped.is_set() and self.state.error is None:
                log.exception("watch of service %s", self._quoted)
            return self._after_defect(error)

    def _after_defect(self, error: Exception) -> Step:
        return failed(self._told(), f"a defect of hapsync, please report it: {error!r}", _now())

    def _found(self, step: Step) -> Found:
        try:
            read = step.read
            if read is None:
                self._reader.rest(step.pause_seconds)
                return Rested()
            if read.renews:
                self._reader.renew()
            if read.confirms is not None:
                return self._reader.confirm(read.confirms, is_again=read.is_again)
            return self._reader.read(read)
        except Interrupted:
            return GivenUp()
        except CatalogError as error:
            log.debug("consul %s: %s", self._watching.activity.value, error)
            return Failed(str(error), self._reader.is_open)

    def _told(self) -> Watching:
        """Return the state of the watch, with the messages of other threads since."""
        watching = self._watching
        if watching.acknowledged is not self._acknowledged:
            watching = attrs.evolve(watching, acknowledged=self._acknowledged)
        while not self._alarms.empty():
            watching = watching.alarmed(is_rewound=self._alarms.get())
        return watching

    def _publish(self, step: Step) -> Step:
        if self._stopped.is_set():
            raise Stopped
        if step.hangs_up:
            self._reader.hang_up()
        before, self._watching = self._watching, step.watching
        self._log(before.state, step.watching.state)
        if step.is_news:
            self._on_change(self._service)
            time.sleep(YIELD_SECONDS)
        return step

    def _log(self, before: WatchState, now: WatchState) -> None:
        service = self._quoted
        if before.error is not None and now.error is None:
            log.info("consul service=%s answers again", service)
        elif before.error is None and now.error is not None:
            log.warning("consul %s (service %s stays as it was last read)", now.error, service)
        if now.reading is before.reading or now.reading is None:
            return
        was, doubt = (before.reading.doubt if before.reading is not None else None), now.reading.doubt
        if now.reading.is_backwards and not (before.reading is not None and before.reading.is_backwards):
            log.warning("consul service=%s went back to an older state", service)
        if doubt is None and was not in {None, Doubt.AWAY, Doubt.SNAPSHOT, Doubt.FALLBACK}:
            log.info("consul service=%s is trusted again", service)  # after an absence, Consul's answer is the news
        elif doubt is not was and doubt not in {None, Doubt.AWAY}:  # the failure is in the log already
            log.warning("consul service=%s: %s; nothing is taken away", service, doubt.value)


def _now() -> Moment:
    return Moment(time.monotonic(), time.time(), random.random())  # noqa: S311
