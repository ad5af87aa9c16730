"""Readings of Consul at the beginning of several commands."""

import attrs
import click

from hapsync.agent.settings import Settings
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
        click.echo(f"hapsync: {error}; the backends discovered before stay", err=True)
        return settings
    for line in found.left_out:
        click.echo(f"hapsync: {line}", err=True)
    return attrs.evolve(settings, config=found.config)


def read_catalog_aloud(config: Config) -> Catalog:
    """Read all configured services once, and report unreadable ones on stderr.

    Raises CatalogError when none could be read.
    """
    catalog, errors = read_catalog(config.consul, config.services, config.max_servers)
    if errors and not catalog.readings:
        raise CatalogError(next(iter(errors.values())))
    for error in errors.values():
        click.echo(f"hapsync: {error}; its backends are left as they are", err=True)
    return catalog
