"""The watch of the names of Consul's services: one thread and one blocking query, at a low rate."""

import logging
import random
import threading
from collections.abc import Callable

import attrs

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.discovery import Listing, parse_listing
from hapsync.consul.endpoint import Endpoint, Endpoints
from hapsync.consul.evidence import evidence
from hapsync.consul.rate_limit import Pace, Rate
from hapsync.consul.read import index_of
from hapsync.consul.wait_limit import SHORTEST_SECONDS, Cuts, WaitLimit
from hapsync.consul.watch_state import UNCACHED_SECONDS
from hapsync.errors import CatalogError, CutShort

log = logging.getLogger(__name__)

RATE = Rate(10, 0.1)
"""The rate is low, because every registration in the datacenter ends the blocking query."""
RETRY_SECONDS = (0.5, 2.0)
_WHAT = "the list of services"


def read_listing(config: ConsulConfig) -> Listing:
    """Read the listing once; raises CatalogError."""
    with ConsulClient(config) as agent:
        return _read(agent, config)[0]


def _read(
    agent: ConsulClient, config: ConsulConfig, index: int = 0, wait_seconds: float = 0.0
) -> tuple[Listing, int]:
    consistency = "default" if config.consistency == "default" else "stale"
    answer = agent.read_services(consistency=consistency, index=index, wait_seconds=wait_seconds)
    listing = parse_listing(answer.body, is_whole=evidence(answer.headers, is_cached=False) is None)
    if config.canary and config.canary not in listing.services:
        # Consul leaves out the services that the token may not read, and does not report it.
        listing = attrs.evolve(listing, is_whole=False)
    return listing, index_of(_WHAT, answer)


class ListingWatch(threading.Thread):
    """Keeps the last `listing`, None before the first; `error` is why the last try failed, None while it works."""

    def __init__(self, config: ConsulConfig, on_change: Callable[[], None]) -> None:
        """Take `[consul]` and the callback for a new listing; raises CatalogError for unusable certificates."""
        super().__init__(name="watch services", daemon=True)
        self.listing: Listing | None = None
        self.error: str | None = None
        self._config = config
        self._where = Endpoints(config)
        self._on_change = on_change
        self._stopped = threading.Event()
        self._pace = Pace()
        self._agent: ConsulClient | None = None
        self._index = 0
        self._wait_limit = WaitLimit(config.wait_seconds)
        self._cuts = Cuts(self._wait_limit)

    def stop(self) -> None:
        """End the watch soon, whatever Consul does."""
        self._stopped.set()
        agent = self._agent
        if agent is not None:
            agent.abort()

    def run(self) -> None:
        """Watch until `stop`."""
        while not self._stopped.wait(self._pace.delay_seconds(RATE)):
            try:
                self._turn()
            except CatalogError as error:
                self._failed(str(error))
            except Exception as error:
                if not self._stopped.is_set() and self.error is None:
                    log.exception("a defect of hapsync, please report it: watch of the list of services")
                self._failed(repr(error))
        if self._agent is not None:
            self._agent.close()

    def _turn(self) -> None:
        where = self._where.current()
        if self._agent is None or not self._agent.is_for(where):
            if self._agent is not None:
                self._agent.close()
            self._agent = ConsulClient(self._config, where)
            self._index = 0
        listing, index = self._read(self._agent, where)
        if self.error is not None:
            log.info("consul %s: answers again", _WHAT)
            self.error = None
        # After a rollback of Consul's state the index falls, or the query ends with the old index, which the servers
        # may not reach for long. The next read does not block.
        self._index = index if index > self._index else 0
        if listing != self.listing:
            self.listing = listing
            self._on_change()

    def _read(self, agent: ConsulClient, where: Endpoint) -> tuple[Listing, int]:
        try:
            answer = _read(agent, self._config, self._index, self._wait_limit.at_most(UNCACHED_SECONDS))
        except CutShort as cut:
            if cut.held_seconds < SHORTEST_SECONDS or self._stopped.is_set():
                raise
            agent.close()
            self._agent = again = ConsulClient(self._config, where)
            self._index = 0
            answer = _read(again, self._config)
            self._cuts.note(cut)
        else:
            if self._index:
                self._cuts.answered()
        return answer

    def _failed(self, error: str) -> None:
        if self._stopped.is_set():
            return
        if self.error is None:
            log.warning("consul %s", error)
        self.error = error
        self._index = 0
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()
        self._stopped.wait(random.uniform(*RETRY_SECONDS))  # noqa: S311
