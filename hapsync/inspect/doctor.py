"""The checks of `hapsync check`, a finding each; nothing is changed."""

import contextlib
import enum
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from hapsync.agent.file_text import empty_slots, is_applied
from hapsync.agent.lock import lock_owners
from hapsync.agent.settings import Settings
from hapsync.config.schema import Config
from hapsync.consul.acl_policy import asked, missing_rights, missing_words, needed_rights
from hapsync.consul.client import ConsulClient
from hapsync.consul.connection_limit import connection_advice
from hapsync.consul.discovery import discover, members
from hapsync.consul.read_once import read_catalog
from hapsync.consul.semaphore import try_permit
from hapsync.consul.services import read_listing
from hapsync.errors import HapsyncError
from hapsync.haproxy.capabilities import version_of
from hapsync.haproxy.cfg import observed_from_file
from hapsync.haproxy.commands import Command
from hapsync.haproxy.lint import lint
from hapsync.haproxy.master import read_processes
from hapsync.haproxy.probe import Probe
from hapsync.haproxy.reload import check_candidate
from hapsync.haproxy.render import labels_of, render
from hapsync.haproxy.socket import open_session
from hapsync.haproxy.uncounted import counts_all
from hapsync.inspect.collect import read_known
from hapsync.model.catalog import Catalog, Doubt
from hapsync.model.server import Backend
from hapsync.plan.desired import Desired, desired, namesake_words
from hapsync.plan.target import target_now
from hapsync.system.files import candidate_file, read_text_or_none
from hapsync.system.sockdiag import count_kept
from hapsync.text import plural, quoted

_NAMED = 5
"""The most names in one line of advice."""
OLDEST = (2, 6)
"""The oldest version of HAProxy in hapsync's tests."""


class Mark(enum.Enum):
    """The outcome of a check; an advice is in order, and could be better."""

    OK = "ok"
    ADVICE = "advice"
    WRONG = "WRONG"


OK, ADVICE, WRONG = Mark.OK, Mark.ADVICE, Mark.WRONG
Finding = tuple[Mark, str]
"""One result of `hapsync check`; where it is wrong, the text names the remedy, too."""


def run_checks(settings: Settings) -> tuple[Finding, ...]:
    """Check everything that the agent needs, in the order of its needs."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _template,
        _folders,
        _secrets,
        _runtime_socket,
        _reload_ways,
        _consul,
        _foreign,
        _networks,
        _discovery,
        _fleet,
    )
    found: list[Finding] = []
    for check in checks:
        try:
            found += check(settings)
        except HapsyncError as error:
            found.append((WRONG, str(error)))
    return tuple(found)


def _template(settings: Settings) -> Iterator[Finding]:
    config = settings.config.haproxy
    try:
        current = read_text_or_none(config.config)
    except (OSError, ValueError) as error:
        yield WRONG, f"haproxy.config {config.config} cannot be read: {error}"
        return
    filed = observed_from_file(current or "", tuple(settings.config.backends))
    target = empty_slots(settings, target_now(Desired({}), filed))
    labels = labels_of(desired(Catalog({}), settings.config), current, settings.config.backends)
    text = render(settings.template, target, settings.config, labels)
    yield OK, f"template {config.template} renders"
    for one in lint(text, settings.config.backends, has_master=config.master is not None):
        yield ADVICE, f"{config.config} line {one.line}, {one.where}: {one.what}"
    folder = Path(config.config).parent
    if not os.access(folder, os.W_OK | os.X_OK):
        yield WRONG, f"folder {folder}: this user may not write there; hapsync replaces {config.config} in one step"
        return
    try:
        with candidate_file(config.config, text) as candidate:
            check_candidate(config, candidate)
    except OSError as error:
        yield WRONG, f"folder {folder}: {error}"
        return
    yield OK, f"haproxy.check_command accepts the configuration rendered for {config.config}"


def _folders(settings: Settings) -> Iterator[Finding]:
    agent = settings.config.agent
    for key, name in (("state_dir", agent.state_dir), ("runtime_dir", agent.runtime_dir)):
        folder = Path(name)
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if os.access(there, os.W_OK | os.X_OK) and there.is_dir():
            yield OK, f"agent.{key} {name} {'is' if there == folder else 'can be made'} writable"
        else:
            yield WRONG, f"agent.{key} {name}: not writable for this user; create it, owned by the agent's user"
        if there == folder and folder.stat().st_mode & stat.S_IWOTH:
            yield WRONG, f"agent.{key} {name} is writable by everyone: chmod o-w {name}"
    with contextlib.suppress(PermissionError):
        if next(lock_owners(settings.config), None) is not None:
            yield OK, "an agent is running here"


def _secrets(settings: Settings) -> Iterator[Finding]:
    token_file = settings.config.consul.token_file
    if token_file is None:
        return
    try:
        is_open = Path(token_file).stat().st_mode & (stat.S_IROTH | stat.S_IWOTH)
    except OSError:
        return  # reading the token reports it
    if is_open:
        yield WRONG, f"consul.token_file {token_file} is open to everyone: chmod o= {token_file}"


def _runtime_socket(settings: Settings) -> Iterator[Finding]:
    config = settings.config.haproxy
    with open_session(config.socket, config.timeout_seconds) as session:
        process = session.read_process()
        (level,) = session.ask((Command("show cli level"),))
        observed = session.read_servers(tuple(settings.config.backends))
        if level.strip() == "admin":
            observed = Probe(settings.config).attach(session, process, observed)
    yield OK, f"haproxy.socket {config.socket}: HAProxy {process.version} answers, pid {process.pid}"
    if level.strip() == "admin":
        yield OK, "haproxy.socket has level admin"
    else:
        yield WRONG, f"haproxy.socket has level {level.strip()}: add `level admin` to its `stats socket` line"
    version = version_of(process.version)
    if version >= OLDEST:
        yield OK, f"HAProxy {'.'.join(map(str, version))} is new enough"
    else:
        oldest = ".".join(map(str, OLDEST))
        yield WRONG, f"HAProxy {process.version} is older than {oldest}, the oldest hapsync is tested with"
    if not counts_all(process):
        try:
            count_kept(process.pid, config.socket, ())
        except HapsyncError as error:
            what = f"HAProxy {process.version} does not count all of its connections, and {error}"
            yield WRONG, f"slots of servers that left are free again only after a reload: {what}"
    for name, why in observed.unread.items():
        yield WRONG, f"backend {name} cannot be read: {why}"
    for backend in observed.backends.values():
        if backend.exists:
            foreign = f", {plural(len(backend.foreign), 'foreign server')}" if backend.foreign else ""
            yield OK, f"backend {backend.name}: {_places(backend)} in HAProxy{foreign}; {_scaling_words(backend)}"
        else:
            yield OK, f"backend {backend.name}: not in HAProxy yet; the agent's first reload brings it"


def _networks(settings: Settings) -> Iterator[Finding]:
    """Yield the advice to set `networks`: without it, a registrant chooses the addresses of instances freely."""
    config = settings.config
    prefixes = tuple(one.prefix for one in config.discover.values())
    bare = [name for name, one in sorted(config.backends.items()) if not one.networks]
    anywhere = [f"backends.{name}" for name in bare if not name.startswith(prefixes)]
    anywhere += [f"discover.{name}.each" for name, one in sorted(config.discover.items()) if not one.each.networks]
    if anywhere:
        more = f" and {len(anywhere) - _NAMED} more" if len(anywhere) > _NAMED else ""
        what = (
            "without them whoever may register an instance can have HAProxy send requests to any address that this "
            "machine reaches, its own services on loopback among them"
        )
        yield ADVICE, f"{', '.join(anywhere[:_NAMED])}{more}: set `networks`: {what}"


def _places(backend: Backend) -> str:
    dynamic = sum(server.is_dynamic for server in backend.slots)
    slots = plural(len(backend.slots) - dynamic, "slot")
    return f"{slots} and {plural(dynamic, 'dynamic server')}" if dynamic else slots


def _scaling_words(backend: Backend) -> str:
    """Return how a backend grows beyond its slots, and why it does not grow live."""
    if backend.scaling.can_add:
        return "servers beyond these slots are added live"
    return "growing past these slots needs a reload" + (f": {backend.scaling.why}" if backend.scaling.why else "")


def _reload_ways(settings: Settings) -> Iterator[Finding]:
    config = settings.config.haproxy
    if config.master is None:
        yield OK, "reloads are made by haproxy.reload_command"
        return
    workers = read_processes(config.master, config.timeout_seconds).workers
    yield OK, f"haproxy.master_socket {config.master}: the master answers, {plural(len(workers), 'worker')}"


def _consul(settings: Settings) -> Iterator[Finding]:
    config = settings.config
    rights = needed_rights(config)
    with ConsulClient(config.consul) as agent:
        if leader := agent.read_leader():
            yield OK, f"consul.address {config.consul.address}: the agent answers, leader {leader}"
        else:
            yield WRONG, f"consul.address {config.consul.address}: the agent answers, but its servers have no leader"
        if not config.discover:
            yield from _connections(config)
        # No other answer shows that a token may not see a part of it.
        missing = missing_rights(rights, *agent.authorize(asked(rights)))
    if missing:
        yield WRONG, missing_words(missing, config)
    elif missing is not None:
        yield OK, "the token of [consul] has all rights that hapsync needs"
    yield from _services(config)


def _services(config: Config) -> Iterator[Finding]:
    canary = config.consul.canary
    names = (*config.services, *([canary] if canary and canary not in config.services else []))
    catalog, errors = read_catalog(config.consul, names, config.max_servers)
    for error in errors.values():
        yield WRONG, error
    for name, reading in catalog.readings.items():
        service = f"service {quoted(name)}"
        if reading.doubt is not None and reading.doubt is not Doubt.UNCONFIRMED:
            yield WRONG, f"{service}: {reading.doubt.value}; nothing is removed because of such an answer"
        if name == canary and name not in config.services:
            if not reading.instances:
                what = "no instance is seen, so a service that becomes empty is never emptied"
                remedy = "may the token read it? Name a service that is never empty"
                yield WRONG, f"consul.canary {quoted(canary)}: {what}; {remedy}"
            continue
        if reading.instances or reading.quarantined:
            left_out = f", {len(reading.quarantined)} quarantined" if reading.quarantined else ""
            yield OK, f"{service}: {plural(len(reading.instances), 'instance')}{left_out}"
        elif reading.namesakes:
            yield WRONG, namesake_words(name, sorted({one.service for one in reading.namesakes}))
        else:
            yield WRONG, f"{service}: no instance; is the name right, and may the token read it?"


def _foreign(settings: Settings) -> Iterator[Finding]:
    """Name the foreign servers that the next reload would take out."""
    config = settings.config
    try:
        if is_applied(settings, read_text_or_none(config.haproxy.config)):
            return  # the file has the template's foreign servers, and a reload for more slots keeps them
        catalog, _ = read_catalog(config.consul, config.services, config.max_servers)
        lost, refusal = read_known(settings, catalog).reconciler.lost_by_reload()
    except (HapsyncError, OSError):
        return  # another check reports the error
    for line in lost:
        yield ADVICE, f"{line} is foreign, and the next reload takes it out"
    if refusal is not None:
        yield WRONG, f"the next reload will not be made: {refusal}"


def _connections(config: Config) -> Iterator[Finding]:
    if (advice := connection_advice(len(config.services), config.consul.max_connections)) is not None:
        yield ADVICE, advice


def _discovery(settings: Settings) -> Iterator[Finding]:
    config = settings.config
    if not config.discover:
        return
    listing = read_listing(config.consul)
    if not listing.is_whole:
        why = "not all services are seen: may the token read them, and the canary among them?"
        yield WRONG, f"the list of services: {why}"
    found = discover(config, listing)
    yield from _connections(found.config)
    for name, group in config.discover.items():
        tagged = sum(group.tag in tags for tags in listing.services.values())
        backends = plural(len(members(found.config, name)), "backend")
        yield OK, f"discover.{name}: {plural(tagged, 'service')} with tag {quoted(group.tag)}, {backends}"
    for line in found.left_out:
        yield WRONG, line


def _fleet(settings: Settings) -> Iterator[Finding]:
    config = settings.config
    if config.fleet is None:
        return
    with ConsulClient(config.consul) as agent:
        try_permit(agent, config.fleet.group)
    yield OK, f"fleet.group {config.fleet.group}: Consul gives reload permits"
