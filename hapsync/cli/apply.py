"""`hapsync apply`: one pass, with the reload and the file if they are due."""

import gc

import click

from hapsync.cli.options import config_option

EPILOG = """\b
Examples:
  hapsync apply
  hapsync apply --force              also what the guard defers
  */1 * * * * root hapsync apply     without an agent, from cron

\b
Exit codes: 0 HAProxy is in sync now; 2 it is not, and why is printed;
1 cannot tell (Consul or HAProxy did not answer, or another apply runs)."""


@click.command("apply", epilog=EPILOG)
@config_option
@click.option("--force", is_flag=True, help="Also make, this once, the changes that only the guard defers.")
def command(config_path: str, force: bool) -> int:  # noqa: FBT001
    """Make one pass: read Consul and HAProxy, change what differs, read again.

    Where slots run out it reloads HAProxy into a grown, checked configuration,
    like the agent would; then it writes the file, so that a restart comes up
    right. Where an agent runs, the agent makes the pass.
    """
    from hapsync.agent.lock import locked  # noqa: PLC0415
    from hapsync.agent.once import apply_once  # noqa: PLC0415
    from hapsync.agent.settings import read_config, read_settings  # noqa: PLC0415
    from hapsync.api.messages import Apply  # noqa: PLC0415
    from hapsync.cli.asking import ask_aloud, tell  # noqa: PLC0415
    from hapsync.cli.reading import discover_aloud, read_catalog_aloud  # noqa: PLC0415
    from hapsync.plan.assessment import Verdict  # noqa: PLC0415

    gc.disable()  # the command ends within seconds
    config = read_config(config_path)
    reply = ask_aloud(config, Apply(force))
    if reply is not None:
        return tell(reply)
    settings = read_settings(config_path)
    with locked(settings.config, config_path, "apply"):
        settings = discover_aloud(settings)
        result = apply_once(settings, read_catalog_aloud(settings.config), force=force)
    for line in result.lines:
        click.echo(line)
    if result.verdict is not Verdict.CANNOT_TELL:
        click.echo("HAProxy is in sync with Consul" if result.in_sync else "HAProxy is not in sync with Consul")
    return result.verdict.value
