"""What the catalog wants, worked out anew only where it changed."""

from hapsync.agent.reconcile import read_backends
from hapsync.config.schema import Config
from hapsync.model.catalog import Catalog, Reading
from hapsync.model.server import Address, Observed
from hapsync.plan.desired import NOBODY, Desired, DesiredBackend, desired_backend, is_crowded, served_in


class DesiredCache:
    """The same as `desired`, for one configuration: a backend whose reading is the same object is taken as it was.

    Where there are more instances than a backend takes, those that HAProxy sends to by the last reading stay.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Reading, frozenset[Address], DesiredBackend]] = {}
        self._served: dict[str, frozenset[Address]] = {}

    def desired(self, catalog: Catalog, config: Config) -> Desired:
        """Return what `catalog` wants of the backends in `config`."""
        backends = {}
        for name, backend in sorted(config.backends.items()):
            reading = catalog.readings.get(backend.service)
            if reading is None:
                continue
            served = self._served.get(name, NOBODY) if is_crowded(backend, reading) else NOBODY
            known = self._known.get(name)
            if known is None or known[0] is not reading or known[1] != served:
                made = desired_backend(name, backend, reading, served)
                known = self._known[name] = (reading, served, made)
            backends[name] = known[2]
        return Desired(backends, readings=catalog.readings)

    def look(self, catalog: Catalog, config: Config) -> None:
        """Read whom HAProxy sends to where that counts and no reading was seen yet.

        Raises RuntimeAPIError.
        """
        unread = [
            name
            for name, backend in config.backends.items()
            if (reading := catalog.readings.get(backend.service)) is not None
            and is_crowded(backend, reading)
            and name not in self._served
        ]
        self.note(read_backends(config.haproxy.socket, config.haproxy.timeout_seconds, unread))

    def serves(self, backend: str) -> bool:
        """Return whether HAProxy sends to any server of `backend`, by the last reading; yes where there was none."""
        return self._served.get(backend) != NOBODY

    def note(self, observed: Observed) -> None:
        """Remember whom HAProxy sends to, as a reading shows it."""
        self._served.update(served_in(observed))
