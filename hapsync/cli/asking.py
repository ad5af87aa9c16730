"""Requests to the running agent, shared by the commands, and replies on the screen."""

import click

from hapsync.api.messages import Reply, Request
from hapsync.cli import say
from hapsync.config.schema import Config
from hapsync.errors import Exit
from hapsync.text import one_line

_LONGEST_ANSWER_SECONDS = 600.0


def ask_aloud(config: Config, request: Request) -> Reply | None:
    """Send `request` to the running agent, and return its reply; None where no agent runs. A wait is told on stderr.

    The agent may be in the middle of a reload, so its reply is waited for as long as a reload may take.

    Raises ConfigError, AgentError.
    """
    from hapsync.api.client import WITHDRAWN, ask_agent  # noqa: PLC0415

    haproxy = config.haproxy
    reload_seconds = haproxy.reload_gap_seconds + haproxy.check_timeout_seconds + haproxy.reload_timeout_seconds
    timeout_seconds = min(_LONGEST_ANSWER_SECONDS, reload_seconds + 4 * haproxy.timeout_seconds + 10)
    try:
        return ask_agent(config.agent.runtime_dir, request, timeout_seconds, say)
    except KeyboardInterrupt:
        say(f"given up; {WITHDRAWN}")
        raise


def tell(reply: Reply) -> int:
    """Print `reply`, to standard error where its outcome is an error, and return its exit code."""
    is_answer = reply.exit_code in (Exit.DONE, Exit.NOT_DONE)
    for line in reply.lines:
        click.echo(one_line(line if is_answer else f"hapsync: {line}", length=1000), err=not is_answer)
    return reply.exit_code
