"""The agent's catalog: the watches of the configured services, and the readings for a start without Consul."""

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from hapsync.agent.report_file import SNAPSHOT_FILE, SNAPSHOT_VERSION, snapshot_from_json
from hapsync.config.schema import Config
from hapsync.consul.watch import Watches, WatchState
from hapsync.model.catalog import Catalog, Reading
from hapsync.model.json_file import other_version
from hapsync.plan.desired import fallback_reading
from hapsync.system.files import keep_copy, read_text_or_none

log = logging.getLogger(__name__)


class Following:
    """The watches of the services of one configuration."""

    def __init__(self, config: Config, on_change: Callable[[str], None]) -> None:
        """Take the configuration, and a function that gets the name of each service with a new reading.

        Raises CatalogError when Consul's certificates cannot be used.
        """
        self._config = config
        self._on_change = on_change
        self._watches = self._made(config)

    def stop(self) -> None:
        """End all watches."""
        self._watches.stop()

    def use(self, config: Config) -> None:
        """Watch the services of `config` from now on; the watch of a service watched before goes on without a break.

        Raises CatalogError when Consul's certificates cannot be used; then nothing has changed.
        """
        if config.consul != self._config.consul:
            watches = self._made(config)
            self._watches.stop()
            self._watches = watches
        self._config = config
        self._watches.follow(config.services, config.max_servers)

    def catalog(self) -> Catalog:
        """Return the current readings of the services."""
        return self._watches.catalog()

    def acknowledge(self, readings: Mapping[str, Reading], backends: Collection[str]) -> None:
        """Note that a pass over `backends` acted on `readings`, and that the guard has seen them.

        A reading of several backends counts as seen once all of them were in the pass.
        """
        left = {one.service for name, one in self._config.backends.items() if name not in backends}
        self._watches.acknowledge(one for service, one in readings.items() if service not in left)

    def serving(self) -> Collection[str]:
        """Return the services that have instances in their last reading."""
        return [name for name, one in self.states().items() if one.reading is not None and one.reading.instances]

    def states(self) -> Mapping[str, WatchState]:
        """Return the state of each service's watch."""
        return self._watches.states()

    def _made(self, config: Config) -> Watches:
        return Watches(config.consul, self._on_change, known_readings(config))


def known_readings(config: Config) -> Mapping[str, Reading]:
    """Return the readings for a start without Consul: from the last snapshot, else from the fallback lists.

    A snapshot that is damaged or of another version is logged and not used. A snapshot of another version is copied,
    for the agent writes its own in its place.
    """
    path = str(Path(config.agent.state_dir, SNAPSHOT_FILE))
    known: dict[str, Reading] = {}
    try:
        text = read_text_or_none(path)
        snapshot = snapshot_from_json(text) if text is not None else None
        if text is not None and snapshot is None:
            version = other_version(text, SNAPSHOT_VERSION)
            if version is None:
                log.warning("snapshot %s is damaged; not used", path)
            else:
                log.warning("snapshot %s is of version %s; kept as %s.version-%s", path, version, path, version)
                keep_copy(path, f".version-{version}")
    except (OSError, ValueError) as error:
        log.warning("snapshot %s cannot be read: %s; not used", path, error)
        snapshot = None
    if snapshot is not None:
        known.update(snapshot.last_good)
    for service in config.services:
        fallback = fallback_reading(service, config)
        if service not in known and fallback is not None:
            known[service] = fallback
    return known
