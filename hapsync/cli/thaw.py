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
def command(config_path: str) -> int:
    """Go on after `hapsync freeze`.

    What Consul said meanwhile is done at once, as far as the guard lets it.
    """
    from hapsync.cli.asking import ask_or_do  # noqa: PLC0415
    from hapsync.request import Thaw  # noqa: PLC0415
    from hapsync.worker.people import freeze_once  # noqa: PLC0415
    from hapsync.worker.settings import read_config  # noqa: PLC0415

    config = read_config(config_path)
    return ask_or_do(config_path, config, Thaw(), lambda who: freeze_once(config, Thaw(), who))
