"""What the catalog wants, worked out anew only where it changed."""

from hapsync.catalog import Catalog, Reading
from hapsync.config import Config
from hapsync.desired import Desired, DesiredBackend, desired_backend


class Wanted:
    """The same as `desired`, for one configuration: a backend whose reading is the same object is taken as it was."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Reading, DesiredBackend]] = {}

    def desired(self, catalog: Catalog, config: Config) -> Desired:
        """Return what `catalog` wants of the backends in `config`."""
        backends = {}
        for name, backend in sorted(config.backends.items()):
            reading = catalog.readings.get(backend.service)
            if reading is None:
                continue
            known = self._known.get(name)
            if known is None or known[0] is not reading:
                known = self._known[name] = (reading, desired_backend(name, backend, reading))
            backends[name] = known[1]
        return Desired(backends)
