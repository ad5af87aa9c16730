"""The operator's two files, read: hapsync.toml and the template it names."""

import contextlib
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

    `next_socket`: where HAProxy's runtime socket is after the next reload, where that moves it; until then it is
    `config.haproxy.socket`.
    """

    config: Config
    template: Template
    next_socket: str | None = None

    @property
    def moved(self) -> "Settings":
        """These settings once HAProxy's runtime socket is where the template has it."""
        return self if self.next_socket is None else self.at_socket(self.next_socket)

    def at_socket(self, path: str, next_socket: str | None = None) -> "Settings":
        """Return these settings for an HAProxy that answers at `path`, and after the next reload at `next_socket`."""
        haproxy = attrs.evolve(self.config.haproxy, socket=path)
        return attrs.evolve(self, config=attrs.evolve(self.config, haproxy=haproxy), next_socket=next_socket)

    def with_discovered_of(self, running: "Settings") -> "Settings":
        """Return these settings with the backends that were discovered under the `running` ones, and their own."""
        names = {*self.config.backends, *running.config.backends}
        return attrs.evolve(self, config=with_discovered(self.config, names))

    def with_agent_of(self, running: "Settings") -> "Settings":
        """Return these settings with `[agent]` as it is `running`, but for the mode: the rest needs a restart."""
        agent, old = self.config.agent, running.config.agent
        kept = attrs.evolve(old, mode=agent.mode)
        if kept == agent:
            return self
        log.warning("settings [agent] changed: all but mode needs a restart of hapsync")
        return attrs.evolve(self, config=attrs.evolve(self.config, agent=kept))


def read_config(path: str) -> Config:
    """Return the configuration in the file at `path`, with the backends that were discovered by haproxy.cfg.

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
        log.warning("%s: %s", path, line)
    if config.discover:
        with contextlib.suppress(OSError, ValueError):  # where it counts, `read_settings` says so
            config = with_discovered(config, discovered_in(config, read_text_or_none(config.haproxy.config)))
    return config


def read_template(config: Config) -> Template:
    """Return the template that `config` names.

    Raises ConfigError when it cannot be read.
    """
    path = config.haproxy.template
    try:
        return Template(path, read_text(path))
    except (OSError, ValueError) as error:
        why = f"haproxy.template cannot be read: {reason(error)}; write it, or name another in hapsync.toml"
        raise ConfigError(path, (why,)) from error


def read_settings(path: str) -> Settings:
    """Return what the file at `path` and its template say, after a trial rendering of it.

    Raises ConfigError.
    """
    config = read_config(path)
    settings = Settings(config, read_template(config))
    render(settings.template, free_slots(config, 1), config, {})
    if config.discover:
        _try_discovery(settings)
    return settings


def _try_discovery(settings: Settings) -> None:
    """Raise ConfigError where the template does not give each discovered backend its section, and no other."""
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
    """Return the target of a HAProxy with nothing but free slots: `count` a backend, else as `config` starts."""
    nothing = Desired({name: DesiredBackend(name, count or one.slots) for name, one in config.backends.items()})
    return TargetState(grow(Observed({}), nothing, ()).backends)
