"""`hapsync plan`: what a pass would do."""

import click

from hapsync.cli.options import CONTEXT, config_option

EPILOG = """\b
Examples:
  hapsync plan
  hapsync plan --config ./hapsync.toml
  hapsync plan --commands    the Runtime API commands, too

\b
Exit codes: 0 HAProxy is in step, nothing to do; 2 there is something to do;
1 cannot tell (Consul or HAProxy did not answer)."""


@click.command("plan", epilog=EPILOG, context_settings=CONTEXT)
@config_option
@click.option("--commands", is_flag=True, help="Also print the commands that would be sent.")
def command(config_path: str, commands: bool) -> int:  # noqa: FBT001
    """Show what a pass would do; change nothing."""
    from hapsync.cli.reading import read_catalog_aloud  # noqa: PLC0415
    from hapsync.desired import desired  # noqa: PLC0415
    from hapsync.edge.files import read_text_or_none  # noqa: PLC0415
    from hapsync.edge.runtime_socket import open_session  # noqa: PLC0415
    from hapsync.picture import picture_now, says_the_same  # noqa: PLC0415
    from hapsync.runtime import address_commands, state_commands  # noqa: PLC0415
    from hapsync.worker.one_pass import look  # noqa: PLC0415
    from hapsync.worker.paper import is_applied  # noqa: PLC0415
    from hapsync.worker.settings import read_settings  # noqa: PLC0415

    settings = read_settings(config_path)
    config = settings.config
    catalog = read_catalog_aloud(config)
    wanted = desired(catalog, config)
    with open_session(config.haproxy.socket, config.haproxy.timeout_seconds) as session:
        seen = look(session, wanted, tuple(config.backends))
    plan = seen.plan
    if str(plan):
        click.echo(str(plan))
    if commands:
        for step in (
            address_commands(plan.incoming),
            state_commands(plan.incoming),
            state_commands(plan.outgoing),
        ):
            for _, line in step:
                click.echo(f"  {line.line}")
    file = read_text_or_none(config.haproxy.config)
    is_same = file is not None and says_the_same(file, picture_now(wanted, seen.observed))
    applied = is_applied(settings, file)
    if not applied:
        click.echo("reload  the template or hapsync.toml changed since the file was written")
    elif not is_same:
        click.echo(f"write   {config.haproxy.config}: {'does not exist yet' if file is None else 'is behind'}")
    if plan.is_empty and is_same and applied and len(wanted.backends) == len(config.backends):
        click.echo("HAProxy is in step with Consul: nothing to do")
        return 0
    return 2 if len(wanted.backends) == len(config.backends) else 1
