"""Hypothesis strategies for worlds, a Consul and a HAProxy of any state, and a HAProxy that obeys commands.

Addresses are few, so that catalog and slots often have the same; states are any, also such as no HAProxy that
hapsync kept would be in.
"""

import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import attrs
from hypothesis import strategies as st
from hypothesis.vendor.pretty import RepresentationPrinter

from hapsync.config.schema import BackendConfig, Config
from hapsync.haproxy.commands import Command, address_commands, state_commands
from hapsync.model.catalog import Catalog, Doubt, Instance, Reading
from hapsync.model.changes import Change
from hapsync.model.server import (
    NO_LOAD,
    PLACEHOLDER,
    SLOTS_ONLY,
    Address,
    AdminState,
    Backend,
    CheckStatus,
    FirstCheck,
    Load,
    Observed,
    Scaling,
    Server,
)
from hapsync.plan.desired import Desired, desired
from hapsync.plan.guard import Caution
from hapsync.plan.naming import FIRST_ID
from hapsync.plan.plan import Plan

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
    """What an operator wrote, what Consul says, what HAProxy has, what the guard knows and what persons asked for."""

    config: Config
    catalog: Catalog
    observed: Observed
    cautions: Mapping[str, Caution] = attrs.field(factory=dict)
    overrides: Mapping[str, Mapping[Address, AdminState | None]] = attrs.field(factory=dict)

    @property
    def desired(self) -> Desired:
        return attrs.evolve(desired(self.catalog, self.config), overrides=self.overrides)

    def _repr_pretty_(self, printer: RepresentationPrinter, _is_cycle: bool) -> None:  # noqa: FBT001
        """Show a world that breaks a law by what the law is about."""
        wanted, lines = self.desired, []
        for name, backend in self.observed.backends.items():
            want = wanted.backends.get(name)
            lines.append(f"{name}: {'not desired' if want is None else f'{want.slots} slots at least'}")
            if want is not None:
                lines.append(f"  {want.doubt} backwards {want.is_backwards} {self.cautions.get(name)}")
                lines += [f"  wants {one.address} {one.admin.value} {one.weight}" for one in want.servers]
            lines += [f"  aside {address} {admin}" for address, admin in self.overrides.get(name, {}).items()]
            for one in (*backend.slots, *backend.foreign):
                load = one.load and attrs.astuple(one.load)
                health = f"{'up' if one.is_up else 'down'} {one.first_check.value}"
                lines.append(f"  has {one.name} {one.address} {one.admin.value} {one.weight} {health} load {load}")
        printer.text("\n" + "\n".join(lines))


def _any_of(table: Sequence[Item]) -> st.SearchStrategy[Item]:
    """One draw from a large table, at a tenth of the cost of `sampled_from`, which hashes all of it."""
    return st.integers(0, len(table) - 1).map(table.__getitem__)


def _mostly(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 7).flatmap(lambda one: usual if one else odd)


DRAIN_SECONDS = 60
SINCE_SECONDS = {FirstCheck.PASSED: 900, FirstCheck.MISSING: 2, FirstCheck.UNREAD: 2}
"""How long ago a server was last up or down."""


@attrs.frozen
class State:
    """What a slot may be in, apart from its name and address."""

    admin: AdminState
    weight: int
    load: Load | None
    is_up: bool
    first_check: FirstCheck

    def server(self, name: str, address: Address) -> Server:
        is_free = address == PLACEHOLDER and self.admin is AdminState.MAINT
        weight = 1 if is_free else self.weight  # nobody reads that of a free slot
        since_seconds = SINCE_SECONDS[self.first_check]
        return Server(name, address, self.admin, weight, self.is_up, self.load, self.first_check, since_seconds)


def _numbered(found: Sequence[tuple[int, Address, State]]) -> tuple[Server, ...]:
    numbers = itertools.accumulate(step for step, *_ in found)
    return tuple(
        state.server(f"srv{number}", address) for number, (_, address, state) in zip(numbers, found, strict=True)
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
_UP = ((True, FirstCheck.PASSED),) * 4 + (
    (True, FirstCheck.MISSING),
    (True, FirstCheck.UNREAD),
    (False, FirstCheck.MISSING),
)
_STATES = (
    *(
        State(AdminState.READY, weight, load, is_up, first_check)
        for load, weight, (is_up, first_check) in itertools.product((*LOADS, *LOADS), (1, 1, 0, 10, 256), _UP)
    ),
    *(
        State(AdminState.DRAIN, weight, load, is_up, first_check)
        for load, weight, (is_up, first_check) in itertools.product(LOADS, (0, 0, 0, 0, 10), _UP)
    ),
    *(
        State(AdminState.MAINT, weight, load, is_up=False, first_check=FirstCheck.PASSED)
        for load, weight, _ in itertools.product((*LOADS, NO_LOAD, NO_LOAD), (7, 0, 0, 0, 0), _UP)
    ),
)
"""With a weight above 0 in drain or maint it is held by hand."""
_FREE = State(AdminState.MAINT, 0, NO_LOAD, is_up=False, first_check=FirstCheck.PASSED)
_SLOTS = st.one_of(
    *(
        st.builds(
            lambda found, free: _numbered((*found, *((1, PLACEHOLDER, _FREE),) * free)),
            st.lists(_any_of(tuple(itertools.product((1, 1, 2), addresses, _STATES))), max_size=10),
            _any_of((0, 0, 0, 1, 2)),
        )
        for addresses in ((*ADDRESSES, PLACEHOLDER), OLD_ADDRESSES)
    )
)
_SERVES = State(AdminState.READY, 1, NO_LOAD, is_up=True, first_check=FirstCheck.PASSED)


def _dynamic(found: Sequence[tuple[Address, State]]) -> tuple[Server, ...]:
    servers = [
        state.server(f"dyn-web.{number}-{FIRST_ID + number:07x}", address)
        for number, (address, state) in enumerate(found)
    ]
    if servers and servers[0].admin is AdminState.MAINT:
        since_seconds = SINCE_SECONDS[FirstCheck.MISSING]
        servers[0] = attrs.evolve(servers[0], first_check=FirstCheck.MISSING, since_seconds=since_seconds)
    return tuple(servers)


_DYNAMIC = st.lists(_any_of(tuple(itertools.product((*ADDRESSES, *OLD_ADDRESSES), _STATES))), max_size=3).map(
    _dynamic
)
"""The first, if it is in maint, has not been so for long enough to be deleted."""
_MEANS = _any_of((*((SLOTS_ONLY, False),) * 2, (Scaling(can_add=True, can_wait=True), True), (SLOTS_ONLY, True)))
"""And whether there are dynamic servers; those of a file stay where none can be added any more."""
_FOREIGN = _any_of(
    ((), *((_SERVES.server(name, ADDRESSES[0]),) for name in ("sorry", "srv03", "SRV1", "srv0"))),
)
_HOW: tuple[Literal["auto", "slots", "dynamic"], ...] = ("auto", "auto", "dynamic", "slots")
_STARTS: tuple[Literal["trusted", "checked"], ...] = ("trusted", "checked")
_BACKENDS = _any_of(
    tuple(
        BackendConfig(
            service=service,
            tags=tags,
            slots=slots,
            scaling=scaling,
            start=_STARTS[slots % 4 == 0],
            fallback=ADDRESSES[:3],
            drain_seconds=slots % 3 * DRAIN_SECONDS,
        )
        for service, tags, slots, scaling in itertools.product(SERVICES, ((), (), ("a b",)), range(1, 7), _HOW)
    )
)
_CAUTIONS = _any_of(
    tuple(
        Caution(
            max_loss_fraction=fraction,
            min_ready=min_ready,
            peak=peak,
            is_refilling=refill == "refilling",
            has_refilled=refill == "refilled",
            damped=frozenset(damped),
            taken=frozenset(taken),
            is_released=is_released,
        )
        for fraction, min_ready, peak, refill, damped, taken, is_released in itertools.product(
            (1.0, 0.5, 0.5, 0.2, 0.0),
            (0, 1, 1, 3, 4000),
            (0, 4, 8, 12),
            (*("",) * 6, "refilling", "refilled"),
            ((), (), (), ADDRESSES),
            ((), (), OLD_ADDRESSES[:3]),
            (*(False,) * 7, True),
        )
    )
)
_DOUBTS = _any_of((*(None,) * 28, *Doubt))
_ASIDES: st.SearchStrategy[Mapping[Address, AdminState | None]] = _any_of(
    (
        *({},) * 8,
        {ADDRESSES[0]: AdminState.MAINT},
        {ADDRESSES[1]: AdminState.DRAIN, ADDRESSES[2]: None},
        dict.fromkeys((*ADDRESSES, *OLD_ADDRESSES)),
        {OLD_ADDRESSES[0]: AdminState.DRAIN, OLD_ADDRESSES[1]: AdminState.MAINT},
        *(dict.fromkeys(OLD_ADDRESSES[:many], AdminState.MAINT) for many in (3, 2)),
    )
)
_NAMES = _any_of((*((name,) for name in BACKENDS), *itertools.permutations(BACKENDS, 2)))


_READINGS = {
    name: st.builds(
        lambda name, instances, doubt, backwards: Reading(name, instances, (), doubt, is_backwards=not backwards),
        st.just(name),
        _mostly(_INSTANCES, st.just(())),
        _DOUBTS,
        st.integers(0, 11),
    )
    for name in SERVICES
}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    config = Config(backends={name: draw(_BACKENDS) for name in draw(_NAMES)})
    readings = {name: draw(_READINGS[name]) for name in config.services if draw(st.integers(0, 9))}
    seen = {}
    for name in (*sorted(config.backends), UNWANTED):
        ours, foreign, (scaling, has_dynamic) = draw(_SLOTS), draw(_FOREIGN), draw(_MEANS)
        ours = (*ours, *(draw(_DYNAMIC) if has_dynamic else ()))
        seen[name] = Backend(name, ours, foreign, exists=bool(ours or foreign), scaling=scaling)
    names = sorted(config.backends)
    return World(
        config,
        Catalog(readings),
        Observed(seen),
        {name: draw(_CAUTIONS) for name in names},
        {name: overrides for name in names if (overrides := draw(_ASIDES))},
    )


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
    # Consul takes no node without a name, and an answer that names nobody at all is not Consul's.
    names = _mostly(_any_of([f"id{end}" for end in HOSTILE]), hostile_texts().map(lambda name: name or "id"))
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
    results = {FirstCheck.PASSED: "3", FirstCheck.MISSING: "2", FirstCheck.UNREAD: "4"}
    checks = {first_check: (str(SINCE_SECONDS[first_check]), result) for first_check, result in results.items()}
    rows = [
        {
            "be_id": "3",
            "be_name": backend.name,
            "srv_id": "7",
            "srv_name": server.name,
            "srv_addr": server.address.host if server.address else "-",
            "srv_port": str(server.address.port if server.address else 0),
            "srv_op_state": "2" if server.is_up else "0",
            "srv_admin_state": str(bits[server.admin]),
            "srv_uweight": str(server.weight),
            **dict(zip(("srv_time_since_last_change", "srv_check_result"), checks[server.first_check], strict=True)),
            "srv_check_state": "6",
        }
        for backend in observed.backends.values()
        for server in (*backend.slots, *backend.foreign)
    ]
    columns = (
        "be_id",
        "be_name",
        "srv_id",
        "srv_name",
        "srv_addr",
        "srv_port",
        "srv_op_state",
        "srv_admin_state",
        "srv_uweight",
        "srv_time_since_last_change",
        "srv_check_result",
        "srv_check_state",
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


def _parsed(command: Command) -> tuple[str, str, Sequence[str]]:
    verb, _, where, *words = command.line.replace("shutdown sessions ", "shutdown ").split(" ")
    return verb, where, words


def _changed(server: Server, verb: str, words: Sequence[str], command: Command) -> Server:
    match words:
        case [] if verb == "shutdown":
            assert server.admin is AdminState.MAINT
            assert server.load is not None
            return server.with_load(attrs.evolve(server.load, sessions=0))
        case ["addr", host, "port", port]:
            return attrs.evolve(server, address=Address(host, int(port)))
        case ["weight", weight]:
            return attrs.evolve(server, weight=int(weight))
        case ["health", "down"]:
            return attrs.evolve(server, is_up=False, first_check=FirstCheck.MISSING)
        case ["state", "maint"]:
            return attrs.evolve(server, admin=AdminState.MAINT, is_up=False)
        case ["state", state] if server.admin is AdminState.MAINT:
            return attrs.evolve(server, admin=AdminState(state), is_up=True, first_check=FirstCheck.MISSING)
        case ["state", state]:
            return attrs.evolve(server, admin=AdminState(state))
        case _:
            raise AssertionError(f"HAProxy knows no {command.line!r}")


def obeyed(observed: Observed, commands: Iterable[Command]) -> Observed:
    """Return the reading after a HAProxy has carried out `commands`; KeyError for a server it does not have.

    A dynamic server is added last. A server that leaves maint is up at once, and its first check is still to come.
    """
    servers = {
        (backend.name, server.name): server for backend in observed.backends.values() for server in backend.slots
    }
    for command in commands:
        if command.line.startswith("wait "):
            continue
        verb, where, words = _parsed(command)
        backend_name, _, name = where.partition("/")
        if verb == "add":
            host, _, port = words[0].rpartition(":")
            added = Address(host.strip("[]"), int(port))
            assert (backend_name, name) not in servers
            assert words[1:5] == ["id", str(int(name[-7:], 16)), "weight", "0"]
            servers[backend_name, name] = Server(
                name, added, AdminState.MAINT, 0, load=NO_LOAD, first_check=FirstCheck.MISSING
            )
            continue
        server = servers[backend_name, name]
        if verb == "del":
            assert server.admin is AdminState.MAINT
            del servers[backend_name, name]
        if verb in ("del", "enable"):
            continue
        server = _changed(server, verb, words, command)
        servers[backend_name, name] = server
    return Observed(
        {
            name: attrs.evolve(backend, slots=tuple(one for (where, _), one in servers.items() if where == name))
            for name, backend in observed.backends.items()
        }
    )


def steps_of(plan: Plan) -> Sequence[Command]:
    """Return the commands of `plan` in the order they are sent."""
    steps = (*address_commands(plan.incoming), *state_commands(plan.incoming), *state_commands(plan.outgoing))
    return [command for _, command in steps]


def applied(observed: Observed, plan: Plan) -> Observed:
    """Return the reading after a HAProxy has carried out `plan`."""
    return obeyed(observed, steps_of(plan))


def with_load(observed: Observed, load: Load) -> Observed:
    """Return `observed` with this load on every slot."""
    return _each(observed, lambda slot: attrs.evolve(slot, load=load))


def first_checked(observed: Observed) -> Observed:
    """Return `observed` with every check of its slots passed."""
    return _each(
        observed,
        lambda slot: attrs.evolve(slot, is_up=slot.admin is not AdminState.MAINT, first_check=FirstCheck.PASSED),
    )


def _each(observed: Observed, change: Callable[[Server], Server]) -> Observed:
    return Observed(
        {
            name: attrs.evolve(backend, slots=tuple(map(change, backend.slots)))
            for name, backend in observed.backends.items()
        }
    )


COMMAND = re.compile(
    r"set server [A-Za-z0-9_:.-]{1,128}/(srv[1-9][0-9]{0,5}|dyn-[A-Za-z0-9_.-]{1,40}-[0-9a-f]{7}) "
    r"(addr [0-9a-f.:]{2,39} port [1-9][0-9]{0,4}|weight [0-9]{1,3}|state (ready|drain|maint)|health down)"
    r"|add server [A-Za-z0-9_:.-]{1,128}/dyn-[A-Za-z0-9_.-]{1,40}-[0-9a-f]{7} "
    r"[0-9a-f.:\[\]]{2,41}:[1-9][0-9]{0,4} id [1-9][0-9]{7,8} weight 0 check"
    r"|enable health [A-Za-z0-9_:.-]{1,128}/dyn-[A-Za-z0-9_.-]{1,40}-[0-9a-f]{7}"
    r"|shutdown sessions server [A-Za-z0-9_:.-]{1,128}/(srv[1-9][0-9]{0,5}|dyn-[A-Za-z0-9_.-]{1,40}-[0-9a-f]{7})"
    r"|(wait 1s srv-removable|del server) [A-Za-z0-9_:.-]{1,128}/dyn-[A-Za-z0-9_.-]{1,40}-[0-9a-f]{7}"
)
"""All that may ever be sent to change something."""
