"""`hapsync render`: the configuration alone."""

import click

from hapsync.cli import say
from hapsync.cli.options import config_option

EPILOG = """\b
Examples:
  hapsync render > /tmp/haproxy.cfg && haproxy -c -f /tmp/haproxy.cfg
  hapsync render --config ./hapsync.toml | diff /etc/haproxy/haproxy.cfg -
  hapsync render --offline    ask neither HAProxy nor Consul

\b
Without HAProxy the slots are those of the file on disk, else as many free
ones as `slots` says; without Consul nothing about them is changed."""


@click.command("render", epilog=EPILOG)
@config_option
@click.option("--offline", is_flag=True, help="Ask neither HAProxy nor Consul.")
def command(config_path: str, offline: bool) -> None:  # noqa: FBT001
    """Print the haproxy.cfg that hapsync would write.

    Only the configuration goes there; where it came from is said on standard
    error.
    """
    from hapsync.agent.file_text import empty_slots, initial_target  # noqa: PLC0415
    from hapsync.agent.settings import read_settings  # noqa: PLC0415
    from hapsync.errors import CatalogError, ConfigError, RuntimeAPIError  # noqa: PLC0415
    from hapsync.haproxy.render import labels_of, render  # noqa: PLC0415
    from hapsync.inspect.collect import read_known  # noqa: PLC0415
    from hapsync.model.catalog import Catalog  # noqa: PLC0415
    from hapsync.system.files import read_text_or_none  # noqa: PLC0415

    settings, catalog, sources = read_settings(config_path), Catalog({}), []
    if not offline:
        from hapsync.cli.reading import discover_aloud, read_catalog_aloud  # noqa: PLC0415

        settings = discover_aloud(settings)
        try:
            catalog = read_catalog_aloud(settings.config)
            sources.append("instances from Consul")
        except CatalogError as error:
            say(error)
    config = settings.config
    try:
        current = read_text_or_none(config.haproxy.config)
    except (OSError, ValueError) as error:
        raise ConfigError(config.haproxy.config, (str(error),)) from error
    known = read_known(settings, catalog)
    for problem in known.problems:
        say(problem)
    seen = None
    if not offline:
        try:
            seen = known.reconciler.target()
            sources.append("slots from the running HAProxy")
        except RuntimeAPIError as error:
            say(error)
    if seen is None:
        seen = known.reconciler.target(is_down=True)
        sources.append(f"slots from {config.haproxy.config}" if current is not None else "free slots")
    target = initial_target(seen)
    text = render(
        settings.template, empty_slots(settings, target), config, labels_of(seen.desired, current, config.backends)
    )
    click.echo(text.encode("utf-8", "surrogateescape"), nl=False)
    say(f"rendered {config.haproxy.template}: {', '.join(sources)}")
