"""`hapsync freeze`: change nothing."""

import click

from hapsync.cli.options import CONTEXT, config_option, for_option, reason_option

EPILOG = """\b
Examples:
  hapsync freeze --reason "Consul is being upgraded"
  hapsync freeze --for 1h
  hapsync plan                     what would it do?
  hapsync thaw                     go on

\b
Exit codes: 0 frozen; 2 not, and why is printed; 1 cannot tell."""


@click.command("freeze", epilog=EPILOG, context_settings=CONTEXT)
@config_option
@for_option
@reason_option
def command(config_path: str, for_text: str | None, reason: str) -> int:
    """Change nothing in HAProxy, whatever Consul says, until thawed.

    hapsync goes on reading Consul and HAProxy and shows what it would do. The
    freeze outlasts a restart. It works with Consul or HAProxy down, too.
    """
    from hapsync.agent.operator import freeze_once  # noqa: PLC0415
    from hapsync.agent.settings import read_config  # noqa: PLC0415
    from hapsync.api.messages import FreezeAll, parse_duration, parse_reason  # noqa: PLC0415
    from hapsync.cli.asking import ask_or_do, said_as_usage  # noqa: PLC0415

    with said_as_usage():
        request = FreezeAll(None if for_text is None else parse_duration(for_text), parse_reason(reason))
    config = read_config(config_path)
    return ask_or_do(config_path, config, request, lambda who: freeze_once(config, request, who))
