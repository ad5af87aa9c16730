"""Readings of Consul at the beginning of several commands."""

from typing import TYPE_CHECKING

import click

from hapsync.config.schema import Config
from hapsync.model.catalog import Catalog

if TYPE_CHECKING:
    from hapsync.agent.settings import Settings


def discover_aloud(settings: "Settings") -> "Settings":
    """Return `settings` with a backend for each service that Consul lists for `[discover]`; no backend is removed.

    Services without a backend, and an unreadable list, are reported on stderr.
    """
    if not settings.config.discover:
        return settings
    import attrs  # noqa: PLC0415

    from hapsync.consul.discovery import discover  # noqa: PLC0415
    from hapsync.consul.services import read_listing  # noqa: PLC0415
    from hapsync.errors import CatalogError  # noqa: PLC0415

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
    from hapsync.consul.read_once import read_catalog  # noqa: PLC0415
    from hapsync.errors import CatalogError  # noqa: PLC0415

    catalog, errors = read_catalog(config.consul, config.services, config.max_servers)
    if errors and not catalog.readings:
        raise CatalogError(next(iter(errors.values())))
    for error in errors.values():
        click.echo(f"hapsync: {error}; its backends are left as they are", err=True)
    return catalog
