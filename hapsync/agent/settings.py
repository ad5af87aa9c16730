"""Reads the operator's two files: hapsync.toml and the template named in it."""

import contextlib
import functools
import logging

import attrs

from hapsync.config.schema import Config, Template, parse_config, renamed_keys
from hapsync.consul.discovery import with_discovered
from hapsync.errors import ConfigError
from hapsync.haproxy.cfg import discovered_in, parse_sections
from hapsync.haproxy.render import render
from hapsync.model.server import Observed
from hapsync.plan.desired import Desired, DesiredBackend
from hapsync.plan.simulate import grow
from hapsync.plan.target import TargetState
from hapsync.system.files import read_text, read_text_or_none
from hapsync.text import reason

log = logging.getLogger(__name__)


@attrs.frozen
class Settings:
    """A configuration and the text of its template.

    `next_socket`: the path of HAProxy's runtime socket after a reload that moves it; until then the path is
    `config.haproxy.socket`.
    """

    config: Config
    template: Template
    next_socket: str | None = None

    @property
    def moved(self) -> "Settings":
        """These settings once HAProxy's runtime socket is at the template's path."""
        return self if self.next_socket is None else self.at_socket(self.next_socket)

    def at_socket(self, path: str, next_socket: str | None = None) -> "Settings":
        """Return these settings for an HAProxy that answers at `path`, and after the next reload at `next_socket`."""
        haproxy = attrs.evolve(self.config.haproxy, socket=path)
        return attrs.evolve(self, config=attrs.evolve(self.config, haproxy=haproxy), next_socket=next_socket)

    def with_discovered_of(self, running: "Settings") -> "Settings":
        """Return these settings with the discovered backends of the `running` ones, and their own."""
        names = {*self.config.backends, *running.config.backends}
        return attrs.evolve(self, config=with_discovered(self.config, names))

    def with_agent_of(self, running: "Settings") -> "Settings":
        """Return these settings with the `running` `[agent]`, except for the mode: other keys need a restart."""
        agent, old = self.config.agent, running.config.agent
        kept = attrs.evolve(old, mode=agent.mode)
        if kept == agent:
            return self
        log.warning("settings [agent] changed: all but mode needs a restart of hapsync")
        return attrs.evolve(self, config=attrs.evolve(self.config, agent=kept))


@functools.cache
def _warn_once(path: str, line: str) -> None:
    """Log a warning about the file at `path`; a command reads it twice, and a person reads the warning once."""
    log.warning("%s: %s", path, line)


def read_config(path: str) -> Config:
    """Return the configuration in the file at `path`, with the discovered backends that haproxy.cfg names.

    Raises ConfigError, also where the file cannot be read.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise ConfigError(path, ("there is no such file; name another with --config or HAPSYNC_CONFIG",)) from error
    except (OSError, ValueError) as error:
        raise ConfigError(path, (f"cannot be read ({reason(error)}); name another with --config",)) from error
    config = parse_config(text, path)
    for line in renamed_keys(text):
        _warn_once(path, line)
    if config.discover:
        with contextlib.suppress(OSError, ValueError):  # `read_settings` reports it where it counts
            config = with_discovered(config, discovered_in(config, read_text_or_none(config.haproxy.config)))
    return config


def read_settings(path: str) -> Settings:
    """Return the configuration in the file at `path`, and its template, after a trial rendering.

    Raises ConfigError.
    """
    config = read_config(path)
    name = config.haproxy.template
    try:
        settings = Settings(config, Template(name, read_text(name)))
    except (OSError, ValueError) as error:
        why = f"haproxy.template cannot be read: {reason(error)}; write it, or name another in hapsync.toml"
        raise ConfigError(name, (why,)) from error
    render(settings.template, free_slots(config, 1), config, {})
    if config.discover:
        _try_discovery(settings)
    return settings


def _try_discovery(settings: Settings) -> None:
    """Raise ConfigError unless the template makes a section for each discovered backend.

    A section of the template's own whose name begins with a discovered prefix is an error, too.
    """
    config, template = settings.config, settings.template
    try:
        read_text_or_none(config.haproxy.config)
    except (OSError, ValueError) as error:
        why = f"cannot be read, and it says what was discovered: {reason(error)}"
        raise ConfigError(config.haproxy.config, (why,)) from error
    bare = with_discovered(config, ())
    for section in parse_sections(render(template, free_slots(bare, 1), bare, {})):
        for group, one in config.discover.items():
            if section.is_proxy and section.name.startswith(one.prefix):
                why = f"{section.kind} {section.name} begins with discover.{group}.prefix; name it otherwise"
                raise ConfigError(template.name, (why,))
    for group, one in config.discover.items():
        full = with_discovered(bare, [f"{one.prefix}example"])
        try:
            render(template, free_slots(full, 1), full, {})
        except ConfigError as error:
            hint = f'the section of each backend in backends("{group}") is tried with one named {one.prefix}example'
            raise ConfigError(template.name, (*error.problems, hint)) from error


def free_slots(config: Config, count: int | None = None) -> TargetState:
    """Return the target of a HAProxy with free slots only: `count` in each backend, else as `config` says."""
    nothing = Desired({name: DesiredBackend(name, count or one.slots) for name, one in config.backends.items()})
    return TargetState(grow(Observed({}), nothing, ()).backends)
