"""Backends for the services that Consul lists: the settings to go on with as services appear and vanish."""

import logging
import time
from collections.abc import Callable, Collection, Sequence

import attrs

from hapsync.agent.settings import Settings
from hapsync.config.schema import Config
from hapsync.consul.discovery import Listing, discover, in_doubt, with_discovered
from hapsync.consul.services import ListingWatch
from hapsync.plan.desired import Desired

log = logging.getLogger(__name__)

WHY = "other services are in Consul"
"""The reason of a reload for a change of the list."""
TOLD = 500
"""The most services without a backend in the log, each once; one more line follows, and `check` names all of them."""
SHOWN = 20
"""The most services without a backend in the report."""
BURST = 5
"""The most reloads for the list one after another, after a long enough time without any."""
AGAIN_SECONDS = 0.4
"""The pause before an unchanged list is read through again, for backends that are given up with time."""


class Allowance:
    """A bucket of `BURST` reloads, refilled at a given number an hour."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at = time.monotonic()

    def wait_seconds(self, per_hour: int) -> float:
        """Return the wait before the next reload, with `per_hour` reloads an hour; 0 where it may be made now."""
        self._fill(per_hour)
        return max(0.0, 1 - self._left) * 3600 / per_hour

    def spend(self, per_hour: int) -> None:
        """Count a reload, made or tried."""
        self._fill(per_hour)
        self._left = max(0.0, self._left - 1)

    def _fill(self, per_hour: int) -> None:
        # Reloads are kept, not times: an operator may change `per_hour` in between.
        now = time.monotonic()
        self._left = min(float(BURST), self._left + (now - self._at) * per_hour / 3600)
        self._at = now


class Discovering:
    """Follows the list of services where `[discover]` asks for it; the agent's thread calls all methods."""

    def __init__(self, config: Config, on_change: Callable[[], None]) -> None:
        """Take the configuration, and a function that wakes the agent.

        Raises CatalogError when Consul's certificates cannot be used.
        """
        self._on_change = on_change
        self._config = config
        self._watch = self._made(config)
        self._gone_since: dict[str, float] = {}
        self._left_out: tuple[str, ...] = ()
        self._told: set[str] = set()
        self._is_told_of_more = False
        self._waiting: tuple[str, ...] = ()
        self._allowance = Allowance()
        self._doubt: tuple[str, ...] = ()
        self._tried: Config | None = None
        self._looked_at: Listing | None = None
        self._again_at = 0.0

    @property
    def has_looked(self) -> bool:
        """Whether the list was read, or nothing is to be discovered."""
        return self._watch is None or self._watch.listing is not None

    @property
    def problem(self) -> str | None:
        """The reasons why some services have no backend, in words; None where each has one."""
        error = self._watch.error if self._watch is not None else None
        waiting = [self._waiting_words()] if self._waiting else []
        return "; ".join([*([error] if error else []), *waiting, *_shortened(self._left_out), *self._doubt]) or None

    def _waiting_words(self) -> str:
        per_hour = self._config.haproxy.discover_reloads_per_hour
        names = ", ".join(_shortened(self._waiting))
        return f"{names} wait: haproxy.discover_reloads_per_hour is {per_hour}, and each costs a reload"

    def reloaded(self) -> None:
        """Count a reload for a change of the list, made or refused."""
        self._allowance.spend(self._config.haproxy.discover_reloads_per_hour)

    def start(self) -> None:
        """Begin to watch."""
        if self._watch is not None:
            self._watch.start()

    def stop(self) -> None:
        """End the watch."""
        if self._watch is not None:
            self._watch.stop()

    def use(self, config: Config) -> None:
        """Switch to another configuration; raises CatalogError when certificates cannot be used."""
        if (config.consul, bool(config.discover)) != (self._config.consul, bool(self._config.discover)):
            watch = self._made(config)
            self.stop()
            self._watch = watch
            self.start()
        self._config = config

    def try_again(self) -> None:
        """Allow another try of a refused configuration: its cause may be mended."""
        self._tried = None

    def step(
        self,
        settings: Settings,
        wanted: Desired,
        serves: Callable[[str], bool],
        *,
        is_cheap: bool,
        is_reload_due: bool = False,
    ) -> Settings | None:
        """Return the settings to go on with where other services are listed by now, else None.

        A backend is given up once Consul, beyond doubt, has lacked its service for `forget_seconds`. A backend is
        given up at once where HAProxy sends to none of its servers (`serves`). Where its end would cost a reload (not
        `is_cheap`), it waits for a reload for a new backend.

        Registrants of services decide how often the list changes, so at most `discover_reloads_per_hour` reloads are
        made for it (`Allowance`). Later changes wait, unless a reload is due anyway (`is_reload_due`).
        """
        listing = self._watch.listing if self._watch is not None else None
        now = time.monotonic()
        if listing is None:
            return None
        if listing is self._looked_at and now < self._again_at and not (self._waiting and is_reload_due):
            return None
        self._looked_at, self._again_at = listing, now + AGAIN_SECONDS
        found = discover(settings.config, listing)
        if found.left_out != self._left_out:
            self._left_out = found.left_out
            self._tell(found.left_out)
        names = set(found.config.backends)
        forgotten = set(self._forgotten(settings, wanted, found.missing, serves)) if listing.is_whole else set()
        if is_cheap or names != set(settings.config.backends):
            names -= forgotten
        config = with_discovered(found.config, names)
        if config in (settings.config, self._tried):
            self._waiting = ()
            return None
        per_hour = config.haproxy.discover_reloads_per_hour
        if not is_reload_due and self._allowance.wait_seconds(per_hour) > 0:
            was_waiting, self._waiting = bool(self._waiting), tuple(sorted(names ^ set(settings.config.backends)))
            if not was_waiting:
                log.warning("discover %s", self._waiting_words())
            return None
        self._tried, self._waiting = config, ()
        for what, some in (
            ("a backend for it", names - set(settings.config.backends)),
            ("it is gone from Consul, so is its backend", set(settings.config.backends) - names),
        ):
            for name in sorted(some):
                service = {**settings.config.backends, **config.backends}[name].service
                log.info("discover service %s: %s, %s", service, what, name)
        return attrs.evolve(settings, config=config)

    def _forgotten(
        self, settings: Settings, wanted: Desired, missing: frozenset[str], serves: Callable[[str], bool]
    ) -> list[str]:
        """Return the backends of `missing` that may be given up by now."""
        now = time.monotonic()
        gone = {
            name
            for name in missing
            if (want := wanted.backends.get(name)) is not None
            and want.doubt is None
            and not want.is_backwards
            and not want.servers
        }
        self._gone_since = {name: self._gone_since.get(name, now) for name in gone}
        doubtful = in_doubt(settings.config, gone)
        before, self._doubt = self._doubt, tuple(sorted(set(doubtful.values())))
        if self._doubt != before:
            for line in self._doubt:
                log.warning("discover %s", line)
        longest = {
            name: group.forget_seconds
            for group in settings.config.discover.values()
            for name in gone
            if name.startswith(group.prefix)
        }
        return [
            name
            for name in gone
            if not serves(name) or (name not in doubtful and now - self._gone_since[name] >= longest[name])
        ]

    def _tell(self, lines: Collection[str]) -> None:
        """Log each of `lines` once, `TOLD` at most: a registrant of services could fill the log with their names."""
        new = [line for line in lines if line not in self._told]
        room = TOLD - len(self._told)
        for line in new[:room]:
            log.warning("discover %s", line)
        if len(new) > room and not self._is_told_of_more:
            self._is_told_of_more = True
            log.warning("discover: more than %d services get no backend; `hapsync check` names all", TOLD)
        self._told |= set(new[:room])

    def _made(self, config: Config) -> ListingWatch | None:
        return ListingWatch(config.consul, self._on_change) if config.discover else None


def _shortened(lines: Sequence[str]) -> list[str]:
    """Return the first `SHOWN` of `lines`, and the number of the others in words."""
    left = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"and {left} more"] if left > 0 else [])]
