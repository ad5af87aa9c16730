"""One read of all wanted services, for the one-shot commands."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import local
from types import MappingProxyType

import attrs

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.endpoint import Endpoint, endpoint
from hapsync.consul.evidence import evidence
from hapsync.consul.health import parse_reading
from hapsync.consul.query import Query, uncached
from hapsync.consul.read import is_alive
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
            answer = mine.agent.read_health(service, query, max_servers.get(service))
            doubt = evidence(answer.headers, "x-cache" in answer.headers)
            return attrs.evolve(parse_reading(service, answer.body), doubt=doubt)
        except CatalogError as error:
            return error

    wanted = tuple(services)
    readings: dict[str, Reading] = {}
    errors: dict[str, str] = {}
    with agents, ThreadPoolExecutor(min(AT_ONCE, max(1, len(wanted)))) as pool:
        for service, found in zip(wanted, pool.map(read, wanted), strict=True):
            if isinstance(found, Reading):
                readings[service] = found
            else:
                errors[service] = str(found)
    empty = [service for service, reading in readings.items() if reading.is_empty and reading.doubt is None]
    if empty and not _canary_lives(config, where, query):
        for service in empty:
            readings[service] = attrs.evolve(readings[service], doubt=Doubt.UNCONFIRMED)
    return Catalog(readings), errors


def _canary_lives(config: ConsulConfig, where: Endpoint, query: Query) -> bool:
    if not config.canary:
        return True
    try:
        with ConsulClient(config, where) as agent:
            return is_alive(config.canary, agent.read_health(config.canary, query))
    except CatalogError:
        return False
