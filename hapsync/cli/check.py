"""`hapsync check`: whether everything is in order before the agent starts."""

import click

from hapsync.cli.options import config_option
from hapsync.errors import Exit

EPILOG = """\b
Examples:
  hapsync check
  hapsync check --config ./hapsync.toml

\b
Changes nothing. Exit codes: 0 every line is ok; 2 at least one is not, and
says what to do; 78 the configuration itself is wrong."""


@click.command("check", epilog=EPILOG)
@config_option
def command(config_path: str) -> int:
    """Check whether everything hapsync needs is in order.

    Configuration, template, HAProxy's sockets and version, permissions, the
    check command, Consul and each service: a line each.
    """
    from hapsync.agent.settings import read_settings  # noqa: PLC0415
    from hapsync.inspect.doctor import Mark, run_checks  # noqa: PLC0415
    from hapsync.text import plural  # noqa: PLC0415

    settings = read_settings(config_path)
    found = run_checks(settings)
    click.echo(f"ok    configuration {config_path}: {plural(len(settings.config.backends), 'backend')}")
    for mark, what in found:
        click.echo(f"{mark.value:<5} {what}")
    wrong = sum(mark is Mark.WRONG for mark, _ in found)
    click.echo("everything is in order" if not wrong else f"not in order: {wrong} of {len(found) + 1}")
    return Exit.NOT_DONE if wrong else Exit.DONE
