"""When HAProxy refuses a configuration for the servers of some backends: the others go on without them."""

import logging
from collections.abc import Mapping

import attrs

from hapsync.agent.settings import Settings
from hapsync.config.schema import BackendConfig
from hapsync.errors import ConfigRefused
from hapsync.haproxy.cfg import parse_sections, server_options_in
from hapsync.haproxy.check_errors import backends_at_fault
from hapsync.system.files import read_text_or_none
from hapsync.text import one_line

log = logging.getLogger(__name__)


@attrs.frozen
class Quarantine:
    """Settings to go on with, and the backends in it that keep the `server_options` they had, each with why."""

    settings: Settings
    why: Mapping[str, str]


def quarantined(settings: Settings, refused: Exception) -> Quarantine | None:
    """Return how to go on where only server lines of hapsync's were `refused`; None where more, or else, is wrong.

    The backends at fault keep the options that they have in the file as it stands, which HAProxy accepted. That file
    must have other options for them than `settings`, or nothing would be gained. So a backend that is new is none of
    these: with other options its servers might be sent what they must not get (no TLS, no PROXY header), and without
    servers it would fail requests that go elsewhere now.
    """
    if not isinstance(refused, ConfigRefused):
        return None
    haproxy = settings.config.haproxy
    try:
        accepted = server_options_in(parse_sections(read_text_or_none(haproxy.config) or ""))
    except (OSError, ValueError):
        return None
    backends = dict(settings.config.backends)
    why = {}
    for name, said in sorted(backends_at_fault(refused.said, refused.text, haproxy.config).items()):
        old = accepted.get(name)
        if name not in backends or old is None or old == " ".join(backends[name].server_options.split()):
            return None
        kept = _with_options(backends[name], old)
        if kept is None:
            return None
        backends[name] = kept
        why[name] = f'backend {name} is quarantined: its server_options stay "{old}", HAProxy says {one_line(said)}'
    if not why:
        return None
    for one in why.values():
        log.error("settings taken, but %s", one)
    config = attrs.evolve(settings.config, backends=backends)
    return Quarantine(attrs.evolve(settings, config=config), why)


def _with_options(config: BackendConfig, options: str) -> BackendConfig | None:
    try:
        return attrs.evolve(config, server_options=options)
    except ValueError:
        return None  # another key needs the new options
