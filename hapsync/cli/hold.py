"""`hapsync hold`: take a server out, and keep it out."""

import click

from hapsync.cli.options import CONTEXT, config_option, for_option, reason_option

EPILOG = """\b
Examples:
  hapsync hold web/srv3 --reason "disk is failing"
  hapsync hold web/10.0.0.5:80 --for 30m
  hapsync hold 'web/[2001:db8::1]:80' --for 2d
  hapsync release web/srv3         give it back

\b
Exit codes: 0 the hold is made; 2 it is not, and why is printed; 1 cannot
tell; 64 no such backend, server or time."""


@click.command("hold", epilog=EPILOG, context_settings=CONTEXT)
@config_option
@for_option
@reason_option
@click.argument("target", metavar="BACKEND/SERVER")
def command(config_path: str, for_text: str | None, reason: str, target: str) -> int:
    """Put a server in maint and keep it there, whatever Consul says.

    SERVER is HAProxy's name of it or its address. The hold is on the address:
    it stays where the server comes back in another slot, after a reload and
    after a restart, until it is released or its time is over.
    """
    from hapsync.cli.asking import set_override  # noqa: PLC0415
    from hapsync.model.server import AdminState  # noqa: PLC0415

    return set_override(config_path, target, AdminState.MAINT, for_text, reason)
