"""The option that all commands share."""

from collections.abc import Callable
from typing import Any

import click

from hapsync.config.schema import DEFAULT_PATH

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

config_option: Decorator = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    envvar="HAPSYNC_CONFIG",
    default=DEFAULT_PATH,
    help=f"The configuration file [default: {DEFAULT_PATH}].",
)
