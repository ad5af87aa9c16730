"""`hapsync release`: give a server back that was held, or let go what the guard holds back."""

import click

from hapsync.cli.options import CONTEXT, config_option

EPILOG = """\b
Examples:
  hapsync release web/srv3
  hapsync release web/10.0.0.5:80
  hapsync plan                     what does the guard defer?
  hapsync release web              do it all the same, in backend web

\b
Exit codes: 0 done; 2 not, or HAProxy is not in sync yet, and why is printed;
1 cannot tell; 64 no such backend or server."""


@click.command("release", epilog=EPILOG, context_settings=CONTEXT)
@config_option
@click.argument("target", metavar="BACKEND[/SERVER]")
def command(config_path: str, target: str) -> int:
    """Let a server be what Consul says again, or a whole backend.

    With a SERVER: ends a hold or drain, also one made in HAProxy itself
    (`set server ... state maint`). With a BACKEND alone: makes, this once, the
    removals there that the guard holds back; servers that people hold stay.
    """
    from hapsync.api.messages import ReleaseBackend, ReleaseServer, Reply, parse_target  # noqa: PLC0415
    from hapsync.cli.asking import (  # noqa: PLC0415
        ask_or_do,
        ask_or_do_with_haproxy,
        read_config_with,
        said_as_usage,
    )

    with said_as_usage():
        found = parse_target(target)
    config = read_config_with(config_path, found.backend)
    if found.server is not None:
        return ask_or_do_with_haproxy(config_path, config, ReleaseServer(found.backend, found.server))
    # What is held back is known only to whoever has the catalog, too.
    instead = Reply.not_done("no agent runs; `hapsync apply --force` does it, in all backends")
    return ask_or_do(config_path, config, ReleaseBackend(found.backend), lambda _: instead)
