"""`hapsync status`: HAProxy's servers beside those of the catalog."""

import click

from hapsync.cli import say
from hapsync.cli.options import config_option

EPILOG = """\b
Examples:
  hapsync status
  hapsync status web api     only these backends
  hapsync status --json | jq .sync.verdict
  hapsync status --queues    also the accept queues of HAProxy's listeners

\b
Works with the agent down: it then reads Consul itself.
Exit codes: 0 in sync; 2 out of sync, and why is printed; 1 cannot tell."""


@click.command("status", epilog=EPILOG)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs instead.")
@click.option("--queues", "all_queues", is_flag=True, help="Show all accept queues of HAProxy, the empty ones too.")
@click.argument("backends", nargs=-1)
def command(config_path: str, as_json: bool, all_queues: bool, backends: tuple[str, ...]) -> int:  # noqa: FBT001
    """Show each server as HAProxy has it, beside what Consul asks for.

    HAProxy is read live. The catalog is the running agent's, or Consul's own
    where no agent runs.
    """
    from hapsync.agent.settings import read_config  # noqa: PLC0415
    from hapsync.inspect.collect import collect  # noqa: PLC0415
    from hapsync.inspect.status import view_to_json  # noqa: PLC0415

    config = read_config(config_path)
    unknown = sorted(set(backends) - set(config.backends))
    if unknown:
        raise click.UsageError(
            f"no such backend: {', '.join(unknown)}; {config_path} has {', '.join(sorted(config.backends))}"
        )
    view = collect(config, set(backends), all_queues=all_queues)
    if as_json:
        click.echo(view_to_json(view))
    else:
        from hapsync.cli.tables import print_view  # noqa: PLC0415

        print_view(view)
    if view.queues_error is not None:
        say(view.queues_error)
    return view.verdict.value
