"""`hapsync plan`: the changes that a pass would make."""

import click

from hapsync.cli import say
from hapsync.cli.options import config_option
from hapsync.errors import Exit

EPILOG = """\b
Examples:
  hapsync plan
  hapsync plan --config ./hapsync.toml
  hapsync plan --commands    the Runtime API commands, too

\b
Exit codes: 0 HAProxy is in sync, nothing to do; 2 there is something to do,
or deferred changes need an operator; 1 cannot tell (Consul or HAProxy did
not answer)."""


@click.command("plan", epilog=EPILOG)
@config_option
@click.option("--commands", is_flag=True, help="Also print the commands that would be sent.")
def command(config_path: str, commands: bool) -> int:  # noqa: FBT001
    """Show what a pass would do; change nothing."""
    from hapsync.agent.file_text import is_applied  # noqa: PLC0415
    from hapsync.agent.settings import read_settings  # noqa: PLC0415
    from hapsync.cli.reading import discover_aloud, read_catalog_aloud  # noqa: PLC0415
    from hapsync.haproxy.commands import address_commands, agents_in, quiet_commands, state_commands  # noqa: PLC0415
    from hapsync.inspect.collect import read_known, read_report  # noqa: PLC0415
    from hapsync.inspect.status import file_behind  # noqa: PLC0415
    from hapsync.model.overrides import stopped_words  # noqa: PLC0415
    from hapsync.plan.assessment import Verdict, judge  # noqa: PLC0415
    from hapsync.system.files import read_text_or_none  # noqa: PLC0415

    settings = read_settings(config_path)
    # The agent's own catalog, doubts included, gives the agent's next pass, even while Consul does not answer.
    if read_report(settings.config, []) is not None:
        known = read_known(settings)
    else:
        settings = discover_aloud(settings)
        known = read_known(settings, read_catalog_aloud(settings.config))
    if known.catalog is None:
        known = read_known(settings, read_catalog_aloud(settings.config))
    for problem in known.problems:
        say(problem)
    config = settings.config
    seen = known.reconciler.assess()
    plan, found = seen.plan, judge(config, seen)
    if seen.rules.stopped is not None:
        click.echo(f"stopped {stopped_words(seen.rules.stopped, seen.rules.saved)}")
    _echo(*str(plan).splitlines())
    if commands:
        agents = agents_in(seen.observed)
        steps = (
            *address_commands(plan.incoming, agents),
            *state_commands(plan.incoming, agents),
            *quiet_commands(plan.outgoing, agents),
            *state_commands(plan.outgoing, agents),
        )
        _echo(*(f"  {command.line}" for _, command in steps))
    file = read_text_or_none(config.haproxy.config)
    behind, applied = file_behind(config, file, seen), is_applied(settings, file)
    worrying = [*found.worrying, *found.unknown]
    if not applied or plan.shortages:
        lost, refusal = known.reconciler.lost_by_reload([one.backend for one in plan.shortages])
        _echo(*(f"lose    {one} (foreign: the reload takes it out)" for one in lost))
        worrying += [refusal] if refusal else []
    if not applied:
        click.echo("reload  the file was not written from the current template and hapsync.toml")
    else:
        _echo(*(f"write   {line}" for line in behind))
    _echo(*(f"alarm   {alarm}" for alarm in worrying))
    if found.verdict is Verdict.IN_SYNC and not worrying and not behind and applied:
        click.echo("HAProxy is in sync with Consul: nothing to do")
        return Exit.DONE
    return Exit.CANNOT_TELL if found.verdict is Verdict.CANNOT_TELL else Exit.NOT_DONE


def _echo(*lines: str) -> None:
    for line in lines:
        click.echo(line)
