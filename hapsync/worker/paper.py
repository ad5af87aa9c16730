"""haproxy.cfg as it should stand, and the reload into it."""

from collections.abc import Iterable

from hapsync.cfgfile import observed_from_file, skeleton
from hapsync.desired import Desired
from hapsync.diff import diff
from hapsync.edge.files import read_text_or_none
from hapsync.edge.reload import install, reload_into
from hapsync.edge.runtime_socket import open_session
from hapsync.errors import WouldEmpty
from hapsync.model import HAProxyProcess, Observed
from hapsync.picture import emptied, picture_grown, picture_now
from hapsync.render import labels_of, render
from hapsync.text import quoted
from hapsync.worker.settings import Settings, free_slots


def observe_all(settings: Settings) -> Observed:
    """Read all configured backends of the live HAProxy, without loads; raises RuntimeAPIError."""
    haproxy = settings.config.haproxy
    with open_session(haproxy.socket, haproxy.timeout_seconds) as session:
        session.read_process()
        return session.read_servers(tuple(settings.config.backends))


def picture_to_start_with(wanted: Desired, observed: Observed) -> Observed:
    """Return what to start a HAProxy with that has the slots of `observed`, grown where they do not suffice."""
    picture = picture_now(wanted, observed)
    short = [shortage.backend for shortage in diff(wanted, picture).shortages]
    return picture_grown(wanted, observed, short) if short else picture


def empty_slots(settings: Settings, picture: Observed) -> Observed:
    """Return `picture` with `slots` free ones where a backend has none and nothing is known of it."""
    free = free_slots(settings.config).backends
    return Observed({name: backend if backend.slots else free[name] for name, backend in picture.backends.items()})


def is_applied(settings: Settings, current: str | None) -> bool:
    """Return whether the file `current` was made from these settings, whatever slots it has.

    While HAProxy answers, the file is written from new settings only together with the reload that makes them live,
    so this then says whether the running HAProxy has them, too.

    Raises ConfigError when the template cannot be used.
    """
    if current is None:
        return False
    anew = render(settings.template, free_slots(settings.config, 1), settings.config, {})
    return skeleton(anew) == skeleton(current)


def write_file(settings: Settings, wanted: Desired, observed: Observed | None) -> bool:
    """Let the file say what a HAProxy started now should be; return whether it had to be written.

    Raises ConfigError (the template), ReloadError (the check or the disk).
    """
    text = new_text(settings, wanted, observed)
    if text is not None:
        install(settings.config.haproxy, text)
    return text is not None


def new_text(settings: Settings, wanted: Desired, observed: Observed | None) -> str | None:
    """Return what the file should say, None where it has not to be written.

    That is where it says so already, and where HAProxy lacks a backend: then the reload that brings it writes the
    file. `observed` is the live HAProxy, None while it is away.

    Raises ConfigError.
    """
    path = settings.config.haproxy.config
    current = read_text_or_none(path)
    if observed is None:
        on_paper = observed_from_file(current or "", tuple(settings.config.backends))
        picture = picture_to_start_with(wanted, on_paper)
    else:
        picture = picture_now(wanted, observed)
    if not all(backend.exists for backend in picture.backends.values()):
        return None
    text = render(settings.template, picture, settings.config, labels_of(wanted, current, settings.config.backends))
    return text if text != current else None


def reload_grown(settings: Settings, wanted: Desired, short: Iterable[str]) -> HAProxyProcess:
    """Reload HAProxy with slots for everything and return its new worker.

    Raises RuntimeAPIError, ConfigError, ReloadError; then the old file stands and HAProxy has what it had.
    """
    observed = observe_all(settings)
    picture = empty_slots(settings, picture_grown(wanted, observed, short))
    current = read_text_or_none(settings.config.haproxy.config)
    text = render(settings.template, picture, settings.config, labels_of(wanted, current, settings.config.backends))
    for name in emptied(observed, text):
        service = quoted(settings.config.backends[name].service)
        seen = "has no instance that may serve" if name in wanted.backends else "could not be read"
        raise WouldEmpty(
            f"backend {name} serves now and would be left without a server, for service {service} {seen} in Consul; "
            f"look at the service's name, the token and Consul itself"
        )
    return reload_into(settings.config.haproxy, text, picture)
