"""`hapsync thaw`: go on after a freeze."""

import click

from hapsync.cli.options import CONTEXT, config_option

EPILOG = """\b
Examples:
  hapsync plan                     what will it do?
  hapsync thaw

\b
Exit codes: 0 nothing is frozen; 2 it still is, and why is printed;
1 cannot tell."""


@click.command("thaw", epilog=EPILOG, context_settings=CONTEXT)
@config_option
@click.option(
    "--acknowledge",
    is_flag=True,
    help="Go on though memory.json was damaged or is of another version; a freeze stays.",
)
def command(config_path: str, acknowledge: bool) -> int:  # noqa: FBT001
    """Go on after `hapsync freeze`.

    What Consul said meanwhile is done at once, as far as the guard lets it.
    With --acknowledge: go on after what people asked for (holds, a freeze) was
    lost with a damaged memory.json, or stands in one of another version of
    hapsync, which is kept aside. `hapsync status` says so before.
    """
    from hapsync.agent.operator import freeze_once  # noqa: PLC0415
    from hapsync.agent.settings import read_config  # noqa: PLC0415
    from hapsync.api.messages import Thaw  # noqa: PLC0415
    from hapsync.cli.asking import ask_or_do  # noqa: PLC0415

    config = read_config(config_path)
    request = Thaw(acknowledge)
    return ask_or_do(config_path, config, request, lambda who: freeze_once(config, request, who))
