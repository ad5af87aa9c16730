"""The operator's two files, read: hapsync.toml and the template it names."""

import attrs

from hapsync.config import Config, Template, parse_config
from hapsync.desired import Desired, DesiredBackend
from hapsync.diff import grow
from hapsync.edge.files import read_text
from hapsync.errors import ConfigError
from hapsync.model import Observed


@attrs.frozen
class Settings:
    """A configuration and the text of its template."""

    config: Config
    template: Template


def read_config(path: str) -> Config:
    """Return the configuration in the file at `path`.

    Raises ConfigError, also where the file cannot be read.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise ConfigError(path, ("there is no such file; name another with --config or HAPSYNC_CONFIG",)) from error
    except (OSError, ValueError) as error:
        raise ConfigError(path, (f"cannot be read: {error}",)) from error
    return parse_config(text, path)


def read_template(config: Config) -> Template:
    """Return the template that `config` names.

    Raises ConfigError when it cannot be read.
    """
    path = config.haproxy.template
    try:
        return Template(path, read_text(path))
    except (OSError, ValueError) as error:
        raise ConfigError(path, (f"haproxy.template cannot be read: {error}",)) from error


def read_settings(path: str) -> Settings:
    """Return what the file at `path` and its template say, after a trial rendering of it.

    Raises ConfigError.
    """
    config = read_config(path)
    settings = Settings(config, read_template(config))
    from hapsync.render import render  # noqa: PLC0415  (Jinja2 takes 60 ms, and a wrong configuration does not need it)

    render(settings.template, free_slots(config, 1), config, {})
    return settings


def free_slots(config: Config, count: int | None = None) -> Observed:
    """Return the picture of a HAProxy with nothing but free slots: `count` a backend, else as `config` starts."""
    nothing = Desired({name: DesiredBackend(name, count or one.slots) for name, one in config.backends.items()})
    return grow(Observed({}), nothing, ())
