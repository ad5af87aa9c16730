"""Readings of Consul at the beginning of several commands."""

import attrs

from hapsync.agent.settings import Settings
from hapsync.cli import say
from hapsync.config.schema import Config
from hapsync.consul.discovery import discover
from hapsync.consul.read_once import read_catalog
from hapsync.consul.services import read_listing
from hapsync.errors import CatalogError
from hapsync.model.catalog import Catalog


def discover_aloud(settings: Settings) -> Settings:
    """Return `settings` with a backend for each service that Consul lists for `[discover]`; no backend is removed.

    Services without a backend, and an unreadable list, are reported on stderr.
    """
    if not settings.config.discover:
        return settings
    try:
        found = discover(settings.config, read_listing(settings.config.consul))
    except CatalogError as error:
        say(f"{error}; the backends discovered before stay")
        return settings
    for line in found.left_out:
        say(line)
    return attrs.evolve(settings, config=found.config)


def read_catalog_aloud(config: Config) -> Catalog:
    """Read all configured services once, and report unreadable ones on stderr.

    Raises CatalogError when none could be read.
    """
    catalog, errors = read_catalog(config.consul, config.services, config.max_servers)
    if errors and not catalog.readings:
        raise CatalogError(next(iter(errors.values())))
    for error in errors.values():
        say(f"{error}; its backends are left as they are")
    return catalog
