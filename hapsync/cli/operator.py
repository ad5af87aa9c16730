"""The operator's commands: `hapsync hold`, `drain` and `release` a server, `freeze` and `thaw`."""

import contextlib
import os
import time
from collections.abc import Iterator

import click

from hapsync.api.messages import (
    FreezeAll,
    OverrideServer,
    ReleaseBackend,
    ReleaseServer,
    Reply,
    Request,
    Thaw,
    parse_duration,
    parse_reason,
    parse_target,
)
from hapsync.cli.asking import ask_aloud, tell
from hapsync.cli.options import Decorator, config_option
from hapsync.config.schema import Config
from hapsync.errors import LockHeld
from hapsync.model.server import AdminState
from hapsync.text import quoted

_LOCK_SECONDS = 5.0
"""The longest wait for an agent that is just starting, or for an `apply` at work."""
_POLL_SECONDS = 0.1

_server_argument: Decorator = click.argument("target", metavar="BACKEND/SERVER")
_for_option: Decorator = click.option(
    "--for", "for_text", metavar="TIME", help="End it by itself after 90s, 30m, 1h or 2d (at most 31d)."
)
_reason_option: Decorator = click.option(
    "--reason", metavar="TEXT", default="", help="Why, for readers of `hapsync status`."
)


@click.command(
    epilog="""\b
Examples:
  hapsync hold web/srv3 --reason "disk is failing"
  hapsync hold web/10.0.0.5:80 --for 30m
  hapsync hold 'web/[2001:db8::1]:80' --for 2d
  hapsync release web/srv3         give it back

\b
Exit codes: 0 the hold is made; 2 it is not, and why is printed; 1 cannot
tell; 64 no such backend, server or time.""",
)
@config_option
@_for_option
@_reason_option
@_server_argument
def hold(config_path: str, for_text: str | None, reason: str, target: str) -> int:
    """Put a server in maint and keep it there, whatever Consul says.

    SERVER is HAProxy's name of it or its address. The hold is on the address:
    it stays where the server comes back in another slot, after a reload and
    after a restart, until it is released or its time is over.
    """
    return _override(config_path, target, AdminState.MAINT, for_text, reason)


@click.command(
    epilog="""\b
Examples:
  hapsync drain web/srv3 --reason "kernel update"
  hapsync drain web/10.0.0.5:80 --for 30m
  hapsync status web               how many sessions are left?
  hapsync release web/srv3         give it back

\b
Exit codes: 0 it drains; 2 it does not, and why is printed; 1 cannot tell;
64 no such backend, server or time.""",
)
@config_option
@_for_option
@_reason_option
@_server_argument
def drain(config_path: str, for_text: str | None, reason: str, target: str) -> int:
    """Put a server in drain and keep it there, whatever Consul says.

    Its sessions end in their own time. The server gets nothing new but requests that a persistence cookie or a stick
    table sends it. Otherwise like `hold`.
    """
    return _override(config_path, target, AdminState.DRAIN, for_text, reason)


@click.command(
    epilog="""\b
Examples:
  hapsync release web/srv3
  hapsync release web/10.0.0.5:80
  hapsync plan                     what does the guard defer?
  hapsync release web              make it nevertheless, in backend web

\b
Exit codes: 0 done; 2 not, or HAProxy is not in sync yet, and why is printed;
1 cannot tell; 64 no such backend or server.""",
)
@config_option
@click.argument("target", metavar="BACKEND[/SERVER]")
def release(config_path: str, target: str) -> int:
    """Let a server be what Consul says again, or a whole backend.

    With a SERVER: ends a hold or drain, also one made in HAProxy itself (`set server ... state maint`). With a
    BACKEND alone: makes, this once, the removals there that the guard defers; overrides stay.
    """
    with _said_as_usage():
        found = parse_target(target)
    if found.server is not None:
        return _carry_out(config_path, ReleaseServer(found.backend, found.server))
    return _carry_out(config_path, ReleaseBackend(found.backend))


@click.command(
    epilog="""\b
Examples:
  hapsync freeze --reason "Consul is being upgraded"
  hapsync freeze --for 1h
  hapsync plan                     what would it do?
  hapsync thaw                     go on

\b
Exit codes: 0 frozen; 2 not, and why is printed; 1 cannot tell.""",
)
@config_option
@_for_option
@_reason_option
def freeze(config_path: str, for_text: str | None, reason: str) -> int:
    """Change nothing in HAProxy, whatever Consul says, until thawed.

    hapsync goes on reading Consul and HAProxy and shows what it would do. The
    freeze outlasts a restart. It works with Consul or HAProxy down, too.
    """
    with _said_as_usage():
        request = FreezeAll(_seconds(for_text), parse_reason(reason))
    return _carry_out(config_path, request)


@click.command(
    epilog="""\b
Examples:
  hapsync plan                     what will it do?
  hapsync thaw

\b
Exit codes: 0 nothing is frozen; 2 it still is, and why is printed;
1 cannot tell.""",
)
@config_option
@click.option(
    "--acknowledge",
    is_flag=True,
    help="Go on though memory.json was damaged or is of another version; a freeze stays.",
)
def thaw(config_path: str, acknowledge: bool) -> int:  # noqa: FBT001
    """Go on after `hapsync freeze`.

    Changes due by then are made at once, as far as the guard lets them. With --acknowledge: go on after overrides and
    a freeze were lost with a damaged memory.json, or are in a memory.json of another version of hapsync. That file is
    kept. `hapsync status` says so before.
    """
    return _carry_out(config_path, Thaw(acknowledge))


@contextlib.contextmanager
def _said_as_usage() -> Iterator[None]:
    """Turn a ValueError about an argument into wrong usage, exit code 64."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


def _seconds(for_text: str | None) -> int | None:
    return None if for_text is None else parse_duration(for_text)


def _override(config_path: str, target: str, admin: AdminState, for_text: str | None, reason: str) -> int:
    """Request that a server is kept in `admin`."""
    with _said_as_usage():
        found = parse_target(target)
        if found.server is None:
            raise ValueError(f"say which server: {found.backend}/srv3, or its address: {found.backend}/10.0.0.5:80")
        request = OverrideServer(found.backend, found.server, admin, _seconds(for_text), parse_reason(reason))
    return _carry_out(config_path, request)


def _carry_out(config_path: str, request: Request) -> int:
    """Let the agent carry out `request`, or do it here where no agent runs; return the exit code of the reply.

    Raises ConfigError, click.UsageError for an unknown backend, with the names of all, and LockHeld where an agent
    neither answers nor lets this process do it.
    """
    from hapsync.agent.lock import locked  # noqa: PLC0415
    from hapsync.agent.settings import read_config  # noqa: PLC0415

    config, context = read_config(config_path), click.get_current_context()
    backend = getattr(request, "backend", None)
    if backend is not None and backend not in config.backends:
        there = ", ".join(sorted(config.backends))
        raise click.UsageError(f"no such backend: {quoted(backend)}; {config_path} has {there}", context)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        reply = ask_aloud(config, request)
        if reply is not None:
            return tell(reply)
        try:
            with locked(config, config_path, str(context.info_name)):
                return tell(_do(config_path, config, request))
        except LockHeld:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_POLL_SECONDS)


def _do(config_path: str, config: Config, request: Request) -> Reply:
    """Carry out `request` on the state file and HAProxy; the caller holds the lock. Raises HapsyncError, OSError."""
    from hapsync.agent.operator import do_once, freeze_once  # noqa: PLC0415
    from hapsync.agent.settings import read_settings  # noqa: PLC0415
    from hapsync.api.client import claimed_user, user_name  # noqa: PLC0415

    who = user_name(os.geteuid(), claimed_user())
    match request:
        case FreezeAll() | Thaw():
            return freeze_once(config, request, who)
        case ReleaseBackend():  # only a process with the catalog knows the deferred changes
            return Reply.not_done("no agent runs; `hapsync apply --force` does it, in all backends")
        case _:
            return do_once(read_settings(config_path), request, who)
