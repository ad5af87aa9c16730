"""What the agent follows: the watches of the wanted services, and what they ask of each backend."""

from collections.abc import Callable, Collection, Mapping

from hapsync.agent.catalog import DesiredCache
from hapsync.agent.report import known_readings
from hapsync.config.schema import Config
from hapsync.consul.watch import Watches, WatchState
from hapsync.model.catalog import Catalog
from hapsync.model.server import Observed
from hapsync.plan.desired import Desired


class Following:
    """The watches that one configuration asks for, and what is wanted by them."""

    def __init__(self, config: Config, on_change: Callable[[str], None]) -> None:
        """Take what to follow, and whom to tell of a service with another reading.

        Raises CatalogError when Consul's certificates cannot be used.
        """
        self._config = config
        self._on_change = on_change
        self._watches = self._made(config)
        self._wanted = DesiredCache()

    def start(self) -> None:
        """Begin to watch."""
        self._watches.follow(self._config.services, self._config.max_servers)

    def stop(self) -> None:
        """End all watches."""
        self._watches.stop()

    def use(self, config: Config) -> None:
        """Go on with another configuration; services that it names as well are watched without a break.

        Raises CatalogError when Consul's certificates cannot be used; then nothing has changed.
        """
        if config.consul != self._config.consul:
            watches = self._made(config)
            self._watches.stop()
            self._watches = watches
        self._config = config
        self._watches.follow(config.services, config.max_servers)
        self._wanted = DesiredCache()

    def catalog(self) -> Catalog:
        """Return what is known of the services by now."""
        return self._watches.catalog()

    def desired(self, catalog: Catalog | None = None) -> Desired:
        """Return what Consul asks for by now, or as of a `catalog` that was taken earlier."""
        return self._wanted.desired(self._watches.catalog() if catalog is None else catalog, self._config)

    def acknowledge(self, catalog: Catalog, backends: Collection[str]) -> None:
        """Take note that a pass over `backends` acted on `catalog`, and that the guard has seen it.

        A reading that several backends share was acted on where all of them were.
        """
        left = {one.service for name, one in self._config.backends.items() if name not in backends}
        self._watches.acknowledge(one for service, one in catalog.readings.items() if service not in left)

    def states(self) -> Mapping[str, WatchState]:
        """Return what is known of each service."""
        return self._watches.states()

    def look(self, catalog: Catalog) -> None:
        """Read whom HAProxy sends to where that decides who `catalog` wants; raises RuntimeAPIError."""
        self._wanted.look(catalog, self._config)

    def serves(self, backend: str) -> bool:
        """Return whether HAProxy sends to any server of `backend`, by the last reading; yes where there was none."""
        return self._wanted.serves(backend)

    def note(self, observed: Observed) -> None:
        """Remember whom HAProxy sends to."""
        self._wanted.note(observed)

    def _made(self, config: Config) -> Watches:
        return Watches(config.consul, self._on_change, known_readings(config))
