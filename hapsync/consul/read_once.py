"""One read of all wanted services, for the one-shot commands."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import local
from types import MappingProxyType

import attrs

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.endpoint import endpoint
from hapsync.consul.query import Query, uncached
from hapsync.consul.read import is_alive, reading_of
from hapsync.errors import CatalogError
from hapsync.model.catalog import Catalog, Doubt, Reading

AT_ONCE = 20


def read_catalog(
    config: ConsulConfig, services: Iterable[str], max_servers: Mapping[str, int] = MappingProxyType({})
) -> tuple[Catalog, Mapping[str, str]]:
    """Read `services`, at most `AT_ONCE` at a time; return the readings, and the reason of each failure.

    An answer that is far larger than `max_servers` of its service is not read to its end.

    Each reading carries the doubt of its answer. Empty readings count only if the canary, read after them with the
    same token, is not empty.

    The reads never go through the agent's cache, where a single read leaves a background query for days.

    Raises CatalogError when no read is possible at all (token file, certificates).
    """
    where = endpoint(config)
    query = Query(uncached(config.consistency))
    mine = local()
    agents = ExitStack()

    def read(service: str) -> Reading | CatalogError:
        if not hasattr(mine, "agent"):
            mine.agent = agents.enter_context(ConsulClient(config, where))
        try:
            return reading_of(service, mine.agent.read_health(service, query, max_servers.get(service)))
        except CatalogError as error:
            return error

    wanted = tuple(services)
    with agents, ThreadPoolExecutor(min(AT_ONCE, max(1, len(wanted)))) as pool:
        found = dict(zip(wanted, pool.map(read, wanted), strict=True))
        readings = {service: one for service, one in found.items() if isinstance(one, Reading)}
        errors = {service: str(one) for service, one in found.items() if isinstance(one, CatalogError)}
        empty = [service for service, reading in readings.items() if reading.is_empty and reading.doubt is None]
        if empty and config.canary:
            canary = read(config.canary)
            if not isinstance(canary, Reading) or not is_alive(canary):
                readings |= {one: attrs.evolve(readings[one], doubt=Doubt.UNCONFIRMED) for one in empty}
    return Catalog(readings), errors
