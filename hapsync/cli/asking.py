"""Requests to the running agent, shared by the commands; without an agent a command acts itself."""

import contextlib
from collections.abc import Callable, Iterator

import click

from hapsync.api.messages import DONE, NOT_DONE, Reply, Request
from hapsync.config.schema import Config
from hapsync.text import one_line

_LOCK_SECONDS = 5.0
"""The longest wait for an agent that is just starting, or for an `apply` at work."""
_POLL_SECONDS = 0.1
_LONGEST_ANSWER_SECONDS = 600.0


def answer_seconds(config: Config) -> float:
    """Return the longest time, in seconds, for the agent's reply: the agent may be in the middle of a reload."""
    haproxy = config.haproxy
    reload_seconds = haproxy.reload_gap_seconds + haproxy.check_timeout_seconds + haproxy.reload_timeout_seconds
    return min(_LONGEST_ANSWER_SECONDS, reload_seconds + 4 * haproxy.timeout_seconds + 10)


@contextlib.contextmanager
def said_as_usage() -> Iterator[None]:
    """Turn a ValueError about an argument into wrong usage, exit code 64."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


def ask_aloud(config: Config, request: Request) -> Reply | None:
    """Send `request` to the running agent, and return its reply; None where no agent runs. A wait is told on stderr.

    Raises ConfigError, AgentError.
    """
    from hapsync.api.client import WITHDRAWN, ask_agent  # noqa: PLC0415

    def say(what: str) -> None:
        click.echo(f"hapsync: {what}", err=True)

    try:
        return ask_agent(config.agent.runtime_dir, request, answer_seconds(config), say)
    except KeyboardInterrupt:
        say(f"given up; {WITHDRAWN}")
        raise


def ask_or_do(config_path: str, config: Config, request: Request, alone: Callable[[str], Reply]) -> int:
    """Send `request` to the agent; without an agent, call `alone` with the lock held and the asking user.

    The reply is printed, and its exit code returned. Raises LockHeld when neither is possible.
    """
    import os  # noqa: PLC0415
    import time  # noqa: PLC0415

    from hapsync.api.client import claimed_user, user_name  # noqa: PLC0415
    from hapsync.errors import LockHeld  # noqa: PLC0415

    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        reply = ask_aloud(config, request)
        if reply is not None:
            return tell(reply)
        try:
            with state_lock(config_path, config):
                reply = alone(user_name(os.geteuid(), claimed_user()))
            return tell(reply)
        except LockHeld:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def state_lock(config_path: str, config: Config) -> Iterator[None]:
    """Hold the locks that the agent holds while it runs.

    Raises LockHeld when another process holds one, ConfigError when they cannot be made.
    """
    from hapsync.agent.lock import locked  # noqa: PLC0415

    with locked(config, config_path, str(click.get_current_context().info_name)):
        yield


def tell(reply: Reply) -> int:
    """Print `reply`, to standard error where its outcome is an error, and return its exit code."""
    is_answer = reply.exit_code in (DONE, NOT_DONE)
    for line in reply.lines:
        click.echo(one_line(line if is_answer else f"hapsync: {line}", length=1000), err=not is_answer)
    return reply.exit_code
