"""`hapsync render`: the configuration alone."""

import click

from hapsync.cli.options import CONTEXT, config_option

EPILOG = """\b
Examples:
  hapsync render > /tmp/haproxy.cfg && haproxy -c -f /tmp/haproxy.cfg
  hapsync render --config ./hapsync.toml | diff /etc/haproxy/haproxy.cfg -
  hapsync render --offline    ask neither HAProxy nor Consul

\b
Without HAProxy the slots are those of the file on disk, else as many free
ones as `slots` says; without Consul nothing about them is changed."""


@click.command("render", epilog=EPILOG, context_settings=CONTEXT)
@config_option
@click.option("--offline", is_flag=True, help="Ask neither HAProxy nor Consul.")
def command(config_path: str, offline: bool) -> None:  # noqa: FBT001
    """Write the configuration HAProxy should have to standard output.

    Only the configuration goes there; where it came from is said on standard
    error.
    """
    import attrs  # noqa: PLC0415

    from hapsync.agent.config_file import empty_slots, initial_target, observe_all, observe_file, served_now  # noqa: PLC0415
    from hapsync.agent.guard_state import operator_overrides  # noqa: PLC0415
    from hapsync.agent.settings import read_settings  # noqa: PLC0415
    from hapsync.errors import CatalogError, ConfigError, RuntimeAPIError  # noqa: PLC0415
    from hapsync.haproxy.render import labels_of, render  # noqa: PLC0415
    from hapsync.inspect.collect import read_report, read_rules  # noqa: PLC0415
    from hapsync.model.catalog import Catalog  # noqa: PLC0415
    from hapsync.plan.desired import desired  # noqa: PLC0415
    from hapsync.system.files import read_text_or_none  # noqa: PLC0415

    settings = read_settings(config_path)
    if not offline:
        from hapsync.cli.reading import discover_aloud  # noqa: PLC0415

        settings = discover_aloud(settings)
    config = settings.config
    wanted = desired(Catalog({}), config)
    sources = []
    if not offline:
        from hapsync.cli.reading import read_catalog_aloud  # noqa: PLC0415

        try:
            wanted = desired(read_catalog_aloud(config), config, served_now(settings))
            sources.append("instances from Consul")
        except CatalogError as error:
            click.echo(f"hapsync: {error}", err=True)
    try:
        current = read_text_or_none(config.haproxy.config)
    except (OSError, ValueError) as error:
        raise ConfigError(config.haproxy.config, (str(error),)) from error
    problems: list[str] = []
    rules, saved = read_rules(config, read_report(config, problems), problems)
    for problem in problems:
        click.echo(f"hapsync: {problem}", err=True)
    wanted = attrs.evolve(wanted, overrides=operator_overrides(saved))
    seen = None
    if not offline:
        try:
            seen = observe_all(settings, wanted, rules.cautions)
            sources.append("slots from the running HAProxy")
        except RuntimeAPIError as error:
            click.echo(f"hapsync: {error}", err=True)
    if seen is None:
        seen = observe_file(settings, wanted, rules.cautions, current)
        sources.append(f"slots from {config.haproxy.config}" if current is not None else "free slots")
    target = initial_target(wanted, seen)
    text = render(
        settings.template, empty_slots(settings, target), config, labels_of(wanted, current, config.backends)
    )
    click.echo(text.encode("utf-8", "surrogateescape"), nl=False)
    click.echo(f"hapsync: rendered {config.haproxy.template}: {', '.join(sources)}", err=True)
