"""What the commands share that ask something of the running agent, or do it themselves where none runs."""

import contextlib
from collections.abc import Callable, Iterator

import click

from hapsync.api.messages import OverrideServer, Reply, Request, Target
from hapsync.config.schema import Config
from hapsync.model.server import AdminState

_LOCK_SECONDS = 5.0
"""How long to wait for an agent that is just starting, or for an `apply` that is at work."""
_POLL_SECONDS = 0.1
_LONGEST_ANSWER_SECONDS = 600.0


def answer_seconds(config: Config) -> float:
    """Return how long the agent may take to answer: it may be in the middle of a reload."""
    haproxy = config.haproxy
    reload_seconds = haproxy.reload_gap_seconds + haproxy.check_timeout_seconds + haproxy.reload_timeout_seconds
    return min(_LONGEST_ANSWER_SECONDS, reload_seconds + 4 * haproxy.timeout_seconds + 10)


@contextlib.contextmanager
def said_as_usage() -> Iterator[None]:
    """Turn a ValueError about what was typed into wrong usage, exit code 64."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


def read_config_with(config_path: str, backend: str) -> Config:
    """Return the configuration, which has `backend`.

    Raises ConfigError, and click.UsageError with the backends there are.
    """
    from hapsync.agent.settings import read_config  # noqa: PLC0415
    from hapsync.text import quoted  # noqa: PLC0415

    config = read_config(config_path)
    if backend not in config.backends:
        there = ", ".join(sorted(config.backends))
        said = f"no such backend: {quoted(backend)}; {config_path} has {there}"
        raise click.UsageError(said, click.get_current_context())
    return config


def parse_server_target(text: str) -> tuple[str, str]:
    """Return backend and server of BACKEND/SERVER; raises click.UsageError."""
    from hapsync.api.messages import parse_target  # noqa: PLC0415

    with said_as_usage():
        target: Target = parse_target(text)
        if target.server is None:
            raise ValueError(f"say which server: {target.backend}/srv3, or its address: {target.backend}/10.0.0.5:80")
        return target.backend, target.server


def set_override(config_path: str, target: str, admin: AdminState, for_text: str | None, reason: str) -> int:
    """Ask for a server to be kept in `admin`; the body of `hold` and `drain`, returns the exit code."""
    from hapsync.api.messages import parse_duration, parse_reason  # noqa: PLC0415

    backend, server = parse_server_target(target)
    with said_as_usage():
        seconds = None if for_text is None else parse_duration(for_text)
        request = OverrideServer(backend, server, admin, seconds, parse_reason(reason))
    return ask_or_do_with_haproxy(config_path, read_config_with(config_path, backend), request)


def ask_or_do_with_haproxy(config_path: str, config: Config, request: Request) -> int:
    """Ask the agent for `request`; where none runs, do it on HAProxy here. Returns the exit code."""

    def alone(who: str) -> Reply:
        from hapsync.agent.operator import do_once  # noqa: PLC0415
        from hapsync.agent.settings import read_settings  # noqa: PLC0415

        return do_once(read_settings(config_path), request, who)

    return ask_or_do(config_path, config, request, alone)


def ask_aloud(config: Config, request: Request) -> Reply | None:
    """Ask the running agent for `request`; None where none runs. What a person who waits should know is said.

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
    """Ask the agent for `request`; where none runs, call `alone` with the lock held and who asks.

    Prints what is to be said and returns the exit code. Raises LockHeld when neither is possible.
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

    Raises LockHeld when another does, ConfigError when they cannot be made.
    """
    from hapsync.agent.lock import locked  # noqa: PLC0415

    with locked(config, config_path, str(click.get_current_context().info_name)):
        yield


def tell(reply: Reply) -> int:
    """Print `reply`, to standard error where nothing can be told, and return the exit code."""
    from hapsync.api.messages import DONE, NOT_DONE  # noqa: PLC0415
    from hapsync.text import one_line  # noqa: PLC0415

    is_answer = reply.exit_code in (DONE, NOT_DONE)
    for line in reply.lines:
        click.echo(one_line(line if is_answer else f"hapsync: {line}", length=1000), err=not is_answer)
    return reply.exit_code
