"""A trial of settings before the agent takes them: whether hapsync reaches HAProxy and Consul by them.

Settings that reach neither would leave the agent blind, and unable to report it.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path

import attrs

from hapsync.agent.executor import Executor
from hapsync.agent.settings import Settings, free_slots
from hapsync.config.schema import Config, ConsulConfig, HAProxyConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.health import parse_reading
from hapsync.consul.query import Query
from hapsync.errors import CatalogError, ConfigError, HapsyncError, RuntimeAPIError, TooLarge
from hapsync.haproxy.cfg import stats_sockets
from hapsync.haproxy.commands import Command
from hapsync.haproxy.master import read_processes
from hapsync.haproxy.render import render
from hapsync.haproxy.socket import open_session
from hapsync.system.files import read_text_or_none
from hapsync.system.process import no_program, program_path
from hapsync.text import quoted

HAPROXY_SECONDS = 3.0
"""The longest wait for each answer of HAProxy here, however long its timeout: no change is followed meanwhile."""
_reach = attrgetter("address", "token", "token_file", "datacenter", "ca_file", "cert_file", "key_file")
"""The part of a ConsulConfig that decides which Consul is reached, and with which rights."""
CONSUL_SECONDS = 5.0
"""The longest time of all questions to Consul here, from name resolution to the last byte."""
_WHERE = "hapsync.toml"


def tried(settings: Settings, running: Settings, known: Collection[str]) -> Settings:
    """Return `settings` as the agent can take them instead of the `running` ones.

    `known` are services with instances in Consul by the running settings. Endpoints that differ from the running ones
    are asked first. Where the settings move HAProxy's runtime socket together with the template, the next reload
    makes the move.

    Raises ConfigError with everything that is out of reach.
    """
    problems = [
        *_about_reloads(settings.config.haproxy, running.config.haproxy),
        *_within(
            CONSUL_SECONDS,
            lambda: _about_consul(settings.config, running.config.consul, known),
            f"consul: Consul at {settings.config.consul.address}: no whole answer within {CONSUL_SECONDS:g} s",
        ),
    ]
    try:
        found = _with_socket(settings, running)
    except RuntimeAPIError as error:
        problems.append(f"haproxy.socket: {error}")
        found = settings
    if problems:
        raise ConfigError(_WHERE, tuple(f"{one}; send SIGHUP again once it is mended" for one in problems))
    return found


def where_haproxy_is(settings: Settings) -> tuple[Settings, str | None]:
    """Return `settings` for the running HAProxy, and the error in them, if any.

    Where nothing listens at `haproxy.socket`, but a HAProxy answers at another `stats socket` of the present
    haproxy.cfg, hapsync goes on with this HAProxy: the settings were changed since its start. If the template has
    `haproxy.socket`, the next reload moves HAProxy there.
    """
    wanted = settings.moved.config.haproxy.socket
    here = settings.config.haproxy.socket
    for path in dict.fromkeys((here, wanted)):
        if not _is_nobody_at(settings, path):
            return (settings if path == here else settings.moved), None
    try:
        others = stats_sockets(read_text_or_none(settings.config.haproxy.config) or "")
    except (OSError, ValueError):
        others = ()
    other = next((path for path in others if _why_not(settings, path) is None), None)
    if other is None:
        return settings, None
    if _is_in_template(settings, wanted):
        return settings.at_socket(other, wanted), None
    why = (
        f"haproxy.socket {wanted}: nobody is there, and the template has no such `stats socket`; "
        f"HAProxy answers at {other}, as haproxy.cfg says"
    )
    return settings.at_socket(other), why


def _with_socket(settings: Settings, running: Settings) -> Settings:
    """Return `settings` for the running HAProxy; raises RuntimeAPIError where they would lose it."""
    wanted, here = settings.config.haproxy.socket, running.config.haproxy.socket
    if wanted == here:
        return settings
    why = _why_not(settings, wanted)
    if why is None:
        return settings
    if not _is_in_template(settings, wanted):
        raise RuntimeAPIError(f"{why}; nor has the template such a `stats socket`; {here} stays")
    # No HAProxy runs: the next one starts with the template's file, and listens at its path.
    return settings if _is_nobody_at(running, here) else settings.at_socket(here, wanted)


def _is_in_template(settings: Settings, path: str) -> bool:
    """Return whether a HAProxy started with the template opens its runtime socket at `path`."""
    text = render(settings.template, free_slots(settings.config, 1), settings.config, {})
    return os.path.realpath(path) in map(os.path.realpath, stats_sockets(text))


def _is_nobody_at(settings: Settings, path: str) -> bool:
    try:
        with open_session(path, _haproxy_seconds(settings.config.haproxy)):
            return False
    except RuntimeAPIError as error:
        return error.is_down


def _why_not(settings: Settings, path: str) -> str | None:
    """Return why the HAProxy at `path` cannot be followed; None where it can."""
    try:
        with open_session(path, _haproxy_seconds(settings.config.haproxy)) as session:
            session.read_process()
            (level,) = session.ask((Command("show cli level"),))
    except RuntimeAPIError as error:
        return str(error)
    return None if level.strip() == "admin" else f"HAProxy's socket {path}: has no `level admin`"


def _haproxy_seconds(haproxy: HAProxyConfig) -> float:
    return min(haproxy.timeout_seconds, HAPROXY_SECONDS)


def _within(seconds: float, ask: Callable[[], Iterable[str]], late: str) -> Sequence[str]:
    """Return the result of `ask`, or only `late` where `ask` takes longer.

    A late `ask` goes on in its thread, for nothing ends the system's name resolution; its other steps have limits of
    their own.
    """
    asked = Executor().submit("trial", lambda: tuple(ask()))
    try:
        found = asked.result(seconds)
    except TimeoutError:
        return (late,)
    if isinstance(found, HapsyncError):
        raise found
    return found


def _about_reloads(haproxy: HAProxyConfig, running: HAProxyConfig) -> Iterator[str]:
    if haproxy.master is not None and haproxy.master != running.master:
        try:
            read_processes(haproxy.master, _haproxy_seconds(haproxy))
        except RuntimeAPIError as error:
            yield f"haproxy.master_socket: {error}"
    for key, words, old in (
        ("reload_command", haproxy.reload_command, running.reload_command),
        ("check_command", haproxy.check_command, running.check_command),
    ):
        if words is not None and words != old and program_path(words[0]) is None:
            yield f"haproxy.{key}: {no_program(words[0])}"
    folder = Path(haproxy.config).parent
    if haproxy.config != running.config and not os.access(folder, os.W_OK | os.X_OK):
        yield f"haproxy.config: this user may not write to the folder {folder}"


def _about_consul(config: Config, running: ConsulConfig, known: Collection[str]) -> Iterator[str]:
    consul = attrs.evolve(config.consul, timeout_seconds=min(config.consul.timeout_seconds, CONSUL_SECONDS))
    if _reach(consul) == _reach(running):
        return
    try:
        with ConsulClient(consul) as agent:
            agent.read_leader()
            yield from _about_token(agent, config, known)
    except CatalogError as error:
        yield f"consul: {error}"


def _about_token(agent: ConsulClient, config: Config, known: Collection[str]) -> Iterator[str]:
    """Read a service that has instances now: a token without the right to it gets an empty list, or a refusal."""
    first = next((name for name in config.services if name in known), None)
    for name in [first] if first is not None else config.services[:1]:
        try:
            body = agent.read_health(name, Query("stale"), max_servers=0).body
        except TooLarge:
            continue  # an answer too large to read to its end shows instances
        found = parse_reading(name, body)
        if first is not None and found.is_empty:
            yield (
                f"consul: {config.consul.address} shows no instance of service {quoted(name)}, which has some now; "
                "may the token read it, and is this the right datacenter?"
            )
