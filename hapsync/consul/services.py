"""The watch of the names of Consul's services: one thread and one blocking query, at a low rate."""

import logging
from collections.abc import Callable

import attrs

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.connection import Answer
from hapsync.consul.discovery import Listing, parse_listing
from hapsync.consul.evidence import evidence
from hapsync.consul.list_watch import ListWatch
from hapsync.consul.query import Query, uncached
from hapsync.consul.rate_limit import Rate
from hapsync.consul.read import Shared
from hapsync.consul.watch_state import UNCACHED_SECONDS

log = logging.getLogger(__name__)


def read_listing(config: ConsulConfig) -> Listing:
    """Read the listing once; raises CatalogError."""
    with ConsulClient(config) as agent:
        return _listing(agent.read_services(Query(uncached(config.consistency))), config)


def _listing(answer: Answer, config: ConsulConfig) -> Listing:
    listing = parse_listing(answer.body, is_whole=evidence(answer.headers, is_cached=False) is None)
    if config.canary and config.canary not in listing.services:
        # Consul leaves out the services that the token may not read, and does not report it.
        return attrs.evolve(listing, is_whole=False)
    return listing


class ListingWatch(ListWatch):
    """Keeps the last `listing`, None before the first."""

    RATE = Rate(10, 0.1)
    """The rate is low, because every registration in the datacenter ends the blocking query."""
    WAIT_SECONDS = UNCACHED_SECONDS
    RETRY_SECONDS = (0.5, 2.0)

    def __init__(self, config: ConsulConfig, on_change: Callable[[], None]) -> None:
        """Take `[consul]` and the callback for a new listing; raises CatalogError for unusable certificates."""
        super().__init__("watch services", config, Shared(config), uncached(config.consistency))
        self.listing: Listing | None = None
        self._on_change = on_change

    def _ask(self, agent: ConsulClient, query: Query) -> Answer:
        return agent.read_services(query)

    def _take(self, answer: Answer, seconds: float, query: Query) -> float:  # noqa: ARG002
        listing = _listing(answer, self._config)
        if self.error is not None:
            log.info("consul the list of services: answers again")
            self.error = None
        # After a rollback of Consul's state the index falls, or the query ends with the old index, which the servers
        # may not reach for long. The next read does not block.
        self._index = answer.index if answer.index > query.index else 0
        if listing != self.listing:
            self.listing = listing
            self._on_change()
        return 0.0

    def _fail(self, error: str, *, has_answered: bool) -> None:  # noqa: ARG002
        if self.error is None:
            log.warning("consul %s", error)
