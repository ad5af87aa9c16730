"""`hapsync apply`: one pass, with the reload and the file if they are due."""

import click

from hapsync.cli.options import CONTEXT, config_option

EPILOG = """\b
Examples:
  hapsync apply
  */1 * * * * root hapsync apply     without an agent, from cron

\b
Exit codes: 0 HAProxy is in step now; 2 it is not, and why is printed;
1 cannot tell (Consul or HAProxy did not answer, or an agent runs already)."""


@click.command("apply", epilog=EPILOG, context_settings=CONTEXT)
@config_option
def command(config_path: str) -> int:
    """Make one pass: read Consul and HAProxy, change what differs, look again.

    Where slots run out it reloads HAProxy into a grown, checked configuration,
    like the agent would; then it writes the file, so that a restart comes up
    right.
    """
    import contextlib  # noqa: PLC0415
    import os  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from hapsync.cli.reading import read_catalog_aloud  # noqa: PLC0415
    from hapsync.edge.files import lock  # noqa: PLC0415
    from hapsync.edge.process import collect_never  # noqa: PLC0415
    from hapsync.errors import ConfigError  # noqa: PLC0415
    from hapsync.worker.once import apply_once  # noqa: PLC0415
    from hapsync.worker.settings import read_settings  # noqa: PLC0415

    collect_never()
    settings = read_settings(config_path)
    state_dir = Path(settings.config.agent.state_dir)
    with contextlib.ExitStack() as stack:
        try:
            state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            stack.enter_context(lock(str(state_dir / "lock"), f"hapsync apply, pid {os.getpid()},"))
        except OSError as error:
            what = f"agent.state_dir {state_dir}: {error}; make it, owned by this user"
            raise ConfigError(config_path, (what,)) from error
        result = apply_once(settings, read_catalog_aloud(settings.config))
    for line in result.lines:
        click.echo(line)
    if not result.is_whole:
        return 1
    click.echo("HAProxy is in step with Consul" if result.in_step else "HAProxy is not in step with Consul")
    return 0 if result.in_step else 2
