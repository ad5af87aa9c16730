"""The options that commands share."""

from collections.abc import Callable
from typing import Any

import click

from hapsync.config.schema import DEFAULT_PATH

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
for_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--for", "for_text", metavar="TIME", help="End it by itself after 90s, 30m, 1h or 2d (at most 31d)."
)
reason_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--reason", metavar="TEXT", default="", help="Why, for readers of `hapsync status`."
)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 80}
