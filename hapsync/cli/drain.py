"""`hapsync drain`: let a server finish what it has, and give it nothing new."""

import click

from hapsync.cli.options import CONTEXT, config_option, for_option, reason_option

EPILOG = """\b
Examples:
  hapsync drain web/srv3 --reason "kernel update"
  hapsync drain web/10.0.0.5:80 --for 30m
  hapsync status web               how many sessions are left?
  hapsync release web/srv3         give it back

\b
Exit codes: 0 it drains; 2 it does not, and why is printed; 1 cannot tell;
64 no such backend, server or time."""


@click.command("drain", epilog=EPILOG, context_settings=CONTEXT)
@config_option
@for_option
@reason_option
@click.argument("target", metavar="BACKEND/SERVER")
def command(config_path: str, for_text: str | None, reason: str, target: str) -> int:
    """Put a server in drain and keep it there, whatever Consul says.

    What runs on it ends in its own time; it gets nothing new but requests that
    a persistence cookie or a stick table sends it. Otherwise like `hold`.
    """
    from hapsync.cli.asking import set_override  # noqa: PLC0415
    from hapsync.model.server import AdminState  # noqa: PLC0415

    return set_override(config_path, target, AdminState.DRAIN, for_text, reason)
