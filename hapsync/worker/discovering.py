"""Backends for the services that Consul lists: which settings to go on with, as services appear and vanish."""

import logging
import time
from collections.abc import Callable

import attrs

from hapsync.config import Config
from hapsync.desired import Desired
from hapsync.discovery import Listing, discover, in_doubt, with_discovered
from hapsync.edge.listing import ListingWatch
from hapsync.worker.settings import Settings

log = logging.getLogger(__name__)

AGAIN_SECONDS = 0.4
"""The same list is looked at this often, for what is forgotten with time."""


class Discovering:
    """Follows the list of services where `[discover]` asks for it; all methods are the worker's."""

    def __init__(self, config: Config, on_change: Callable[[], None]) -> None:
        """Take what to follow, and whom to wake; raises CatalogError when certificates cannot be used."""
        self._on_change = on_change
        self._config = config
        self._watch = self._made(config)
        self._gone_since: dict[str, float] = {}
        self._left_out: tuple[str, ...] = ()
        self._doubt: tuple[str, ...] = ()
        self._tried: Config | None = None
        self._looked_at: Listing | None = None
        self._again_at = 0.0

    @property
    def has_looked(self) -> bool:
        """The list was read, or there is nothing to be discovered."""
        return self._watch is None or self._watch.listing is not None

    @property
    def problem(self) -> str | None:
        """Why not every service has its backend, in words; None where each has."""
        error = self._watch.error if self._watch is not None else None
        return "; ".join([*([error] if error else []), *self._left_out, *self._doubt]) or None

    def start(self) -> None:
        """Begin to watch."""
        if self._watch is not None:
            self._watch.start()

    def stop(self) -> None:
        """End the watch."""
        if self._watch is not None:
            self._watch.stop()

    def use(self, config: Config) -> None:
        """Go on with another configuration; raises CatalogError when certificates cannot be used."""
        if (config.consul, bool(config.discover)) != (self._config.consul, bool(self._config.discover)):
            watch = self._made(config)
            self.stop()
            self._watch = watch
            self.start()
        self._config = config

    def try_again(self) -> None:
        """What HAProxy refused may have been mended."""
        self._tried = None

    def step(
        self, settings: Settings, wanted: Desired, serves: Callable[[str], bool], *, is_cheap: bool
    ) -> Settings | None:
        """Return the settings to go on with where other services are listed by now, else None.

        A backend is given up once Consul, beyond doubt, has not had its service for `forget_seconds`, or at once
        where HAProxy sends to none of its servers (`serves`). Where that would cost a reload (not `is_cheap`) it
        waits for one that is made for a newcomer.
        """
        listing = self._watch.listing if self._watch is not None else None
        now = time.monotonic()
        if listing is None or (listing is self._looked_at and now < self._again_at):
            return None
        self._looked_at, self._again_at = listing, now + AGAIN_SECONDS
        found = discover(settings.config, listing)
        if found.left_out != self._left_out:
            self._left_out = found.left_out
            for line in found.left_out:
                log.warning("discover %s", line)
        names = set(found.config.backends)
        forgotten = set(self._forgotten(settings, wanted, found.missing, serves)) if listing.is_whole else set()
        if is_cheap or names != set(settings.config.backends):
            names -= forgotten
        config = with_discovered(found.config, names)
        if config in (settings.config, self._tried):
            return None
        self._tried = config
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
        """Return those of the `missing` that may be given up by now."""
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
        self._note_doubt(tuple(sorted(set(doubtful.values()))))
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

    def _note_doubt(self, doubt: tuple[str, ...]) -> None:
        if doubt != self._doubt:
            self._doubt = doubt
            for line in doubt:
                log.warning("discover %s", line)

    def _made(self, config: Config) -> ListingWatch | None:
        return ListingWatch(config.consul, self._on_change) if config.discover else None
