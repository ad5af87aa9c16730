"""Hypothesis strategies for worlds, a Consul and a HAProxy of any state, and a HAProxy that obeys commands.

Addresses are few, so that catalog and slots often have the same; states are any, also such as no HAProxy that
hapsync kept would be in.
"""

import itertools
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
from hypothesis import strategies as st
from hypothesis.vendor.pretty import RepresentationPrinter

from hapsync.catalog import Catalog, Instance, Reading
from hapsync.config import BackendConfig, Config
from hapsync.desired import Desired, desired
from hapsync.diff import Change
from hapsync.model import (
    NO_LOAD,
    PLACEHOLDER,
    Address,
    AdminState,
    Backend,
    CheckStatus,
    Load,
    Observed,
    Server,
)
from hapsync.plan import Plan
from hapsync.runtime import Command, address_commands, state_commands

Item = TypeVar("Item")

ADDRESSES = (
    *(Address(f"10.0.0.{number}", 80) for number in range(1, 8)),
    Address("10.0.0.1", 8080),
    Address("2001:db8::1", 80),
)
OLD_ADDRESSES = tuple(Address(f"10.9.0.{number}", 80) for number in range(1, 8))
"""No instance has these."""
BACKENDS = ("web", "api", "a.b:c-d_1")
SERVICES = ("web", "api")
UNWANTED = "other"
"""A backend that HAProxy has and the configuration does not name."""
LOADS = (NO_LOAD, NO_LOAD, None, Load(1, 0, 0, 0), Load(0, 1, 0, 0), Load(0, 0, 1, 0), Load(0, 0, 0, 1))
HOSTILE = (
    "; quit",
    "\nset server web/srv1 state maint",
    "\0",
    " <<",
    "<<",
    '"',
    "'",
    " ",
    "{{ 1 }}",
    "\\",
    "#",
    "\x85",
)


@attrs.frozen
class World:
    """What an operator wrote, what Consul says, what HAProxy has."""

    config: Config
    catalog: Catalog
    observed: Observed

    @property
    def desired(self) -> Desired:
        return desired(self.catalog, self.config)

    def _repr_pretty_(self, printer: RepresentationPrinter, _is_cycle: bool) -> None:  # noqa: FBT001
        """Show a world that breaks a law by what the law is about."""
        wanted, lines = self.desired, []
        for name, backend in self.observed.backends.items():
            want = wanted.backends.get(name)
            lines.append(f"{name}: {'not desired' if want is None else f'{want.slots} slots at least'}")
            lines += [f"  wants {one.address} {one.admin.value} {one.weight}" for one in want.servers] if want else []
            for one in (*backend.slots, *backend.foreign):
                load = one.load and attrs.astuple(one.load)
                lines.append(f"  has {one.name} {one.address} {one.admin.value} {one.weight} load {load}")
        printer.text("\n" + "\n".join(lines))


def _any_of(table: Sequence[Item]) -> st.SearchStrategy[Item]:
    """One draw from a large table, at a tenth of the cost of `sampled_from`, which hashes all of it."""
    return st.integers(0, len(table) - 1).map(table.__getitem__)


def _mostly(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 7).flatmap(lambda one: usual if one else odd)


def _server(name: str, address: Address, admin: AdminState, weight: int, load: Load | None) -> Server:
    return Server(name, address, admin, weight, is_up=admin is not AdminState.MAINT, load=load)


def _numbered(found: Sequence[tuple[int, Address, int, tuple[AdminState, Load | None]]]) -> tuple[Server, ...]:
    numbers = itertools.accumulate(step for step, *_ in found)
    return tuple(
        _server(f"srv{number}", address, admin, weight, load)
        for number, (_, address, weight, (admin, load)) in zip(numbers, found, strict=True)
    )


_STATUSES = (*CheckStatus, *(CheckStatus.PASSING,) * 4, CheckStatus.MAINTENANCE, CheckStatus.CRITICAL)
_WEIGHTS = tuple(itertools.product((1, 1, 0, 10, 256, 300, 65535), (1, 0, 7, 65535)))
_TAGS = ((), ("a b",), ("`c`", "a b"))
_INSTANCES = st.lists(_any_of(tuple(itertools.product(ADDRESSES, _STATUSES, _WEIGHTS, _TAGS))), max_size=16).map(
    lambda found: tuple(
        Instance(f"n{place % 3}", f"id {place}", address, status, *weights, tags=tags)
        for place, (address, status, weights, tags) in enumerate(found)
    )
)
_STATES = (
    *((AdminState.READY, load) for load in (*LOADS, *LOADS)),
    *((AdminState.DRAIN, load) for load in LOADS),
    *((AdminState.MAINT, load) for load in (*LOADS, NO_LOAD, NO_LOAD)),
)
_SLOTS = st.one_of(
    *(
        st.lists(_any_of(tuple(itertools.product((1, 1, 2), addresses, (1, 1, 0, 10, 256), _STATES))), max_size=10)
        for addresses in ((*ADDRESSES, PLACEHOLDER), OLD_ADDRESSES)
    )
).map(_numbered)
_FOREIGN = _any_of(
    (
        (),
        *(
            (_server(name, ADDRESSES[0], AdminState.READY, 1, NO_LOAD),)
            for name in ("sorry", "srv03", "SRV1", "srv0")
        ),
    )
)
_BACKENDS = _any_of(
    tuple(
        BackendConfig(service=service, tags=tags, slots=slots)
        for service, tags, slots in itertools.product(SERVICES, ((), (), ("a b",)), range(1, 7))
    )
)
_NAMES = _any_of((*((name,) for name in BACKENDS), *itertools.permutations(BACKENDS, 2)))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    config = Config(backends={name: draw(_BACKENDS) for name in draw(_NAMES)})
    readings = {name: Reading(name, draw(_INSTANCES)) for name in config.services if draw(st.integers(0, 9))}
    seen = {}
    for name in (*sorted(config.backends), UNWANTED):
        ours, foreign = draw(_SLOTS), draw(_FOREIGN)
        seen[name] = Backend(name, ours, foreign, exists=bool(ours or foreign))
    return World(config, Catalog(readings), Observed(seen))


def hostile_texts() -> st.SearchStrategy[str]:
    return st.one_of(
        st.sampled_from([f"10.0.0.1{end}" for end in HOSTILE]),
        st.sampled_from([str(address.host) for address in ADDRESSES]),
        st.sampled_from(("", "web.example.com", "fe80::1%eth0", "0.0.0.0", "a" * 300, *HOSTILE)),
        st.text(max_size=20),
    )


def hostile_answers() -> st.SearchStrategy[bytes]:
    """Answers of Consul that are whole, with anything in them."""
    anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), hostile_texts())
    names = _mostly(_any_of([f"id{end}" for end in HOSTILE]), hostile_texts())
    hosts = _mostly(_any_of([address.host for address in ADDRESSES]), hostile_texts())
    ports = _mostly(_any_of((80, 8080)), anything)
    weights = _mostly(_any_of(({"Passing": 1}, {}, None)), st.dictionaries(st.just("Passing"), anything) | anything)
    entry = st.builds(
        lambda node, one, host, port, weights, tags, status: {
            "Node": {"Node": node, "Address": host},
            "Service": {"ID": one, "Address": host, "Port": port, "Weights": weights, "Tags": tags},
            "Checks": [{"CheckID": one, "Status": status}],
        },
        names,
        names,
        hosts,
        ports,
        weights,
        st.one_of(st.none(), st.lists(anything, max_size=2)),
        _any_of(("passing", "passing", "warning", "critical", "\n; quit")),
    )
    return st.lists(entry, max_size=6).map(lambda entries: json.dumps(entries).encode())


def answer_of(reading: Reading, shuffle: random.Random) -> bytes:
    """Return an answer of Consul that gives `reading`, its entries in any order."""
    checks = {
        CheckStatus.MAINTENANCE: ("_node_maintenance", "critical"),
        **{status: ("check", status.value) for status in (CheckStatus.PASSING, CheckStatus.WARNING)},
        CheckStatus.CRITICAL: ("check", "critical"),
    }
    entries = [
        {
            "Node": {"Node": one.node, "Address": "127.0.0.9"},
            "Service": {
                "ID": one.instance_id,
                "Address": one.address.host,
                "Port": one.address.port,
                "Weights": {"Passing": one.passing_weight, "Warning": one.warning_weight},
                "Tags": shuffled(one.tags, shuffle),
            },
            "Checks": [dict(zip(("CheckID", "Status"), checks[one.status], strict=True))],
        }
        for one in reading.instances
    ]
    return json.dumps(shuffled(entries, shuffle)).encode()


def state_of(observed: Observed, shuffle: random.Random) -> str:
    """Return a `show servers state` that gives `observed` without its loads, columns and lines in any order."""
    bits = {AdminState.READY: 4, AdminState.DRAIN: 12, AdminState.MAINT: 5}
    rows = [
        {
            "be_id": "3",
            "be_name": backend.name,
            "srv_name": server.name,
            "srv_addr": server.address.host if server.address else "-",
            "srv_port": str(server.address.port if server.address else 0),
            "srv_op_state": "2" if server.is_up else "0",
            "srv_admin_state": str(bits[server.admin]),
            "srv_uweight": str(server.weight),
        }
        for backend in observed.backends.values()
        for server in (*backend.slots, *backend.foreign)
    ]
    columns = (
        "be_id",
        "be_name",
        "srv_name",
        "srv_addr",
        "srv_port",
        "srv_op_state",
        "srv_admin_state",
        "srv_uweight",
    )
    order = shuffled(columns, shuffle)
    lines = shuffled([" ".join(row[column] for column in order) for row in rows], shuffle)
    return "\n".join(("1", f"# {' '.join(order)}", *lines, "", ""))


def loads_of(observed: Observed) -> Mapping[tuple[str, str], Load]:
    return {
        (backend.name, server.name): server.load
        for backend in observed.backends.values()
        for server in (*backend.slots, *backend.foreign)
        if server.load is not None
    }


def shuffled(items: Iterable[Item], shuffle: random.Random) -> list[Item]:
    turned = list(items)
    shuffle.shuffle(turned)
    return turned


def commands_of(change: Change) -> Sequence[Command]:
    return [command for _, command in (*address_commands([change]), *state_commands([change]))]


def obeyed(observed: Observed, commands: Iterable[Command]) -> Observed:
    """Return the reading after a HAProxy has carried out `commands`; KeyError for a server it does not have."""
    servers = {
        (backend.name, server.name): server for backend in observed.backends.values() for server in backend.slots
    }
    for command in commands:
        _, _, where, *words = command.line.split(" ")
        backend_name, _, name = where.partition("/")
        server = servers[backend_name, name]
        match words:
            case ["addr", host, "port", port]:
                server = attrs.evolve(server, address=Address(host, int(port)))
            case ["weight", weight]:
                server = attrs.evolve(server, weight=int(weight))
            case ["state", state]:
                server = attrs.evolve(server, admin=AdminState(state), is_up=state != "maint")
            case _:
                raise AssertionError(f"HAProxy knows no {command.line!r}")
        servers[backend_name, name] = server
    return Observed(
        {
            name: attrs.evolve(backend, slots=tuple(servers[name, slot.name] for slot in backend.slots))
            for name, backend in observed.backends.items()
        }
    )


def applied(observed: Observed, plan: Plan) -> Observed:
    """Return the reading after a HAProxy has carried out `plan`, in the order it is sent."""
    steps = (
        *address_commands(plan.incoming),
        *state_commands(plan.incoming),
        *state_commands(plan.outgoing),
    )
    return obeyed(observed, [command for _, command in steps])


def with_load(observed: Observed, load: Load) -> Observed:
    """Return `observed` with this load on every slot."""
    return Observed(
        {
            name: attrs.evolve(backend, slots=tuple(attrs.evolve(slot, load=load) for slot in backend.slots))
            for name, backend in observed.backends.items()
        }
    )


COMMAND = re.compile(
    r"set server [A-Za-z0-9_:.-]{1,128}/srv[1-9][0-9]{0,5} "
    r"(addr [0-9a-f.:]{2,39} port [1-9][0-9]{0,4}|weight [0-9]{1,3}|state (ready|drain|maint))"
)
"""All that may ever be sent to change something."""
