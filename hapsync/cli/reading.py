"""What several commands read before they say anything."""

import click

from hapsync.catalog import Catalog
from hapsync.config import Config


def read_catalog_aloud(config: Config) -> Catalog:
    """Read all wanted services once, saying on stderr which could not be read.

    Raises CatalogError when none could.
    """
    from hapsync.edge.sweep import read_catalog  # noqa: PLC0415
    from hapsync.errors import CatalogError  # noqa: PLC0415

    catalog, errors = read_catalog(config.consul, config.services)
    if errors and not catalog.readings:
        raise CatalogError(next(iter(errors.values())))
    for error in errors.values():
        click.echo(f"hapsync: {error}; its backends are left as they are", err=True)
    return catalog
