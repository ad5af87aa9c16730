"""Read all wanted services once, for the commands that do not watch."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import local

from hapsync.catalog import Catalog, Reading, parse_reading
from hapsync.config import ConsulConfig
from hapsync.edge.consul import Agent, endpoint, read_token
from hapsync.errors import CatalogError
from hapsync.text import quoted

AT_ONCE = 20


def read_catalog(config: ConsulConfig, services: Iterable[str]) -> tuple[Catalog, Mapping[str, str]]:
    """Read `services`, at most `AT_ONCE` at a time; return the readings, and for each that failed why.

    Never through the agent's cache: there a single read would leave a background query behind for days.

    Raises CatalogError when no reading can be tried at all (token file, certificates).
    """
    where = endpoint(config)
    token = read_token(config)
    consistency = "default" if config.consistency == "default" else "stale"
    mine = local()
    agents: list[Agent] = []

    def read(service: str) -> Reading | CatalogError:
        if not hasattr(mine, "agent"):
            mine.agent = Agent(config, where, token)
            agents.append(mine.agent)
        try:
            answer = mine.agent.read_health(service, consistency=consistency)
            if "x-consul-index" not in answer.headers:
                return CatalogError(f"service {quoted(service)}: Consul's answer has no index; is it Consul?")
            return parse_reading(service, answer.body)
        except CatalogError as error:
            return error

    wanted = tuple(services)
    readings: dict[str, Reading] = {}
    errors: dict[str, str] = {}
    with ThreadPoolExecutor(min(AT_ONCE, max(1, len(wanted)))) as pool:
        for service, found in zip(wanted, pool.map(read, wanted), strict=True):
            if isinstance(found, Reading):
                readings[service] = found
            else:
                errors[service] = str(found)
    for agent in agents:
        agent.close()
    return Catalog(readings), errors
