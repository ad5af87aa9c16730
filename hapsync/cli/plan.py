"""`hapsync plan`: what a pass would do."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hapsync.cli.options import CONTEXT, config_option

if TYPE_CHECKING:
    from hapsync.model.changes import Reason
    from hapsync.model.overrides import SavedState
    from hapsync.model.server import Observed
    from hapsync.plan.desired import Desired
    from hapsync.plan.plan import Plan

EPILOG = """\b
Examples:
  hapsync plan
  hapsync plan --config ./hapsync.toml
  hapsync plan --commands    the Runtime API commands, too

\b
Exit codes: 0 HAProxy is in sync, nothing to do; 2 there is something to do,
or deferred changes need an operator; 1 cannot tell (Consul or HAProxy did
not answer)."""


@click.command("plan", epilog=EPILOG, context_settings=CONTEXT)
@config_option
@click.option("--commands", is_flag=True, help="Also print the commands that would be sent.")
def command(config_path: str, commands: bool) -> int:  # noqa: FBT001
    """Show what a pass would do; change nothing."""
    import attrs  # noqa: PLC0415

    from hapsync.agent.config_file import is_applied, lost_by_reload, served_now  # noqa: PLC0415
    from hapsync.agent.guard_state import operator_overrides  # noqa: PLC0415
    from hapsync.agent.reconcile import look  # noqa: PLC0415
    from hapsync.agent.settings import read_settings  # noqa: PLC0415
    from hapsync.cli.reading import discover_aloud, read_catalog_aloud  # noqa: PLC0415
    from hapsync.haproxy.compare import says_the_same  # noqa: PLC0415
    from hapsync.haproxy.probe import Probe  # noqa: PLC0415
    from hapsync.haproxy.socket import open_session  # noqa: PLC0415
    from hapsync.inspect.collect import read_catalog_known, read_report, read_rules  # noqa: PLC0415
    from hapsync.plan.desired import desired  # noqa: PLC0415
    from hapsync.plan.target import target_now  # noqa: PLC0415
    from hapsync.system.files import read_text_or_none  # noqa: PLC0415

    settings = read_settings(config_path)
    problems: list[str] = []
    report = read_report(settings.config, problems)
    if report is None:
        settings = discover_aloud(settings)
    config = settings.config
    rules, saved = read_rules(config, report, problems)
    # The agent's own catalog, doubts included: what it would do, even while Consul does not answer.
    catalog = read_catalog_known(config, report, problems)[0] if report is not None else None
    if catalog is None:
        catalog = read_catalog_aloud(config)
    for problem in problems:
        click.echo(f"hapsync: {problem}", err=True)
    wanted = attrs.evolve(desired(catalog, config, served_now(settings)), overrides=operator_overrides(saved))
    with open_session(config.haproxy.socket, config.haproxy.timeout_seconds) as session:
        seen = look(session, wanted, tuple(config.backends), rules, Probe(config))
    plan = seen.plan
    if rules.stopped is not None:
        _echo_stopped(rules.stopped, saved)
    _echo(*str(plan).splitlines())
    if commands:
        _echo(*_commands(plan, seen.observed))
    file = read_text_or_none(config.haproxy.config)
    is_same = file is not None and says_the_same(file, target_now(wanted, seen.observed, plan.deferred))
    applied = is_applied(settings, file)
    worrying = _worrying(plan, wanted, seen.observed)
    if not applied or plan.shortages:
        lost, refusal = lost_by_reload(settings, wanted, rules.cautions, [one.backend for one in plan.shortages])
        _echo(*(f"lose    {one} (foreign: the reload takes it out)" for one in lost))
        worrying += [refusal] if refusal else []
    if not applied:
        click.echo("reload  the file was not written from the current template and hapsync.toml")
    elif not is_same:
        click.echo(f"write   {_file_words(config.haproxy.config, file)}")
    _echo(*(f"look    {alarm}" for alarm in worrying))
    is_whole = len(wanted.backends) == len(config.backends) and not seen.observed.unread
    if plan.is_empty and not worrying and is_same and applied and is_whole:
        click.echo("HAProxy is in sync with Consul: nothing to do")
        return 0
    return 2 if is_whole else 1


def _file_words(path: str, text: str | None) -> str:
    return f"{path} {'does not exist yet' if text is None else 'differs from the running HAProxy'}"


def _commands(plan: "Plan", observed: "Observed") -> Iterator[str]:
    from hapsync.haproxy.commands import address_commands, agents_in, quiet_commands, state_commands  # noqa: PLC0415

    agents = agents_in(observed)
    for step in (
        address_commands(plan.incoming, agents),
        state_commands(plan.incoming, agents),
        quiet_commands(plan.outgoing, agents),
        state_commands(plan.outgoing, agents),
    ):
        yield from (f"  {command.line}" for _, command in step)


def _worrying(plan: "Plan", wanted: "Desired", observed: "Observed") -> list[str]:
    from hapsync.plan.plan import alarms  # noqa: PLC0415
    from hapsync.plan.problems import unread_lines, unserved  # noqa: PLC0415

    return [*alarms(plan), *unread_lines(observed), *unserved(wanted, observed)]


def _echo(*lines: str) -> None:
    for line in lines:
        click.echo(line)


def _echo_stopped(stopped: "Reason", saved: "SavedState") -> None:
    from hapsync.model.overrides import stopped_words  # noqa: PLC0415

    click.echo(f"stopped {stopped_words(stopped, saved)}")
