"""The operator's two files, read: hapsync.toml and the template it names."""

import attrs

from hapsync.config import Config, parse_config
from hapsync.edge.files import read_text
from hapsync.errors import ConfigError
from hapsync.render import Template


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
    """Return what the file at `path` and its template say; raises ConfigError."""
    config = read_config(path)
    return Settings(config, read_template(config))
