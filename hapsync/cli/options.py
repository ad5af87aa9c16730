"""The options that commands share."""

from collections.abc import Callable
from typing import Any

import click

from hapsync.config import DEFAULT_PATH

config_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    envvar="HAPSYNC_CONFIG",
    default=DEFAULT_PATH,
    help=f"The configuration file [default: {DEFAULT_PATH}].",
)

json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for programs instead."
)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 80}
