"""`[discover]` and the listing of services in, a configuration with a backend for each discovered service out.

The rendered file holds the discovered backends, each with its group's prefix, over a restart. An HAProxy that runs
from this file is never asked to give them up because Consul is away.
"""

import json
from collections.abc import Collection, Iterable, Mapping

import attrs

from hapsync.config.schema import BackendConfig, Config
from hapsync.errors import CatalogError
from hapsync.model.server import HAPROXY_NAME
from hapsync.text import quoted


@attrs.frozen
class Listing:
    """The names of all services and their tags, as one answer of Consul gave them.

    `is_whole`: no evidence speaks against the answer, so a service missing in it is gone. `unreadable` names the
    services whose tags are not a list of texts.
    """

    services: Mapping[str, frozenset[str]]
    is_whole: bool = False
    unreadable: frozenset[str] = frozenset()


def parse_listing(body: bytes, *, is_whole: bool) -> Listing:
    """Return the listing that `body`, the answer of `/v1/catalog/services`, holds; raises CatalogError."""
    try:
        tree = json.loads(body)
        services = {name: frozenset(tags or ()) for name, tags in tree.items() if tags is None or _are_texts(tags)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CatalogError(f"the list of services: Consul's answer cannot be read: {error}") from error
    return Listing(services, is_whole, frozenset(tree) - frozenset(services))


def _are_texts(tags: object) -> bool:
    return isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)


@attrs.frozen
class Discovered:
    """A configuration with its discovered backends, services left out (a line each), and backends gone in Consul."""

    config: Config
    left_out: tuple[str, ...] = ()
    missing: frozenset[str] = frozenset()


def with_discovered(config: Config, names: Iterable[str]) -> Config:
    """Return `config` with exactly the discovered backends `names`, each in the group of its prefix."""
    if not config.discover:
        return config
    prefixes = tuple(one.prefix for one in config.discover.values())
    backends = {name: one for name, one in config.backends.items() if not name.startswith(prefixes)}
    for name in sorted(set(names)):
        for group in config.discover.values():
            if name.startswith(group.prefix) and name != group.prefix:
                keys = attrs.asdict(group.each, recurse=False)
                service = name.removeprefix(group.prefix)
                backends[name] = BackendConfig(service=service, tags=(group.tag,), **keys)
    return attrs.evolve(config, backends=backends)


def members(config: Config, group: str) -> tuple[str, ...]:
    """Return the discovered backends of `group`, sorted; raises KeyError when there is no such group."""
    prefix = config.discover[group].prefix
    return tuple(sorted(name for name in config.backends if name.startswith(prefix)))


def in_doubt(config: Config, gone: Collection[str]) -> Mapping[str, str]:
    """Return the backends among `gone` that must not be given up by time alone, and why.

    A Consul that lost its state lists almost nothing, and its answer carries no doubt. Where more than half of a
    group, and more than one backend, is gone at once, the backends stay until they are back or an operator releases
    them.
    """
    found: dict[str, str] = {}
    for group in config.discover:
        there = members(config, group)
        lost = [name for name in there if name in gone]
        if len(lost) > max(1, len(there) / 2):
            why = f"{len(lost)} of {len(there)} services of discover.{group} are gone at once; "
            found |= dict.fromkeys(lost, f"{why}their backends stay until they are back, or released one by one")
    return found


def discover(config: Config, listing: Listing) -> Discovered:
    """Return `config` with a backend for each service in `listing` that has a group's tag; it loses none here.

    Where a group has more than `max_backends`, the present backends stay, and new ones come in by name. A registrant
    chooses a service's name freely, so only names that HAProxy takes get a backend.
    """
    names: set[str] = set()
    left_out: list[str] = []
    missing: set[str] = set()
    for group_name, group in sorted(config.discover.items()):
        there = set(members(config, group_name))
        tagged = {f"{group.prefix}{service}" for service, tags in listing.services.items() if group.tag in tags}
        good = {name for name in tagged if HAPROXY_NAME.fullmatch(name) and name != group.prefix}
        left_out += [
            f"service {quoted(name.removeprefix(group.prefix), length=60)} gets no backend: "
            "HAProxy takes A-Z a-z 0-9 _ : . - in a name, 128 at most with the prefix"
            for name in sorted(tagged - good)
        ]
        room = max(0, group.max_backends - len(there))
        new = sorted(good - there)
        left_out += [
            f"service {name.removeprefix(group.prefix)} gets no backend: "
            f"discover.{group_name}.max_backends is {group.max_backends}"
            for name in new[room:]
        ]
        names |= there | set(new[:room])
        missing |= there - tagged - {f"{group.prefix}{service}" for service in listing.unreadable}
    return Discovered(with_discovered(config, names), tuple(left_out), frozenset(missing))
