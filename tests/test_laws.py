"""What holds for every Consul, every HAProxy and every configuration; tests/test_laws_can_fail.py breaks each."""

import random
from collections import Counter
from collections.abc import Mapping

import attrs
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from hapsync.catalog import Catalog, parse_reading
from hapsync.cfgfile import observed_from_file
from hapsync.config import Config, Template
from hapsync.desired import Desired, DesiredBackend, desired
from hapsync.diff import Change, Diff, after, as_new_worker, diff, grow
from hapsync.model import NO_LOAD, PLACEHOLDER, AdminState, Load, Observed, Server
from hapsync.observed import parse_servers_state, with_loads
from hapsync.picture import picture_grown, picture_now
from hapsync.plan import Plan, make_plan
from hapsync.render import labels_of, render
from tests.strategies import (
    COMMAND,
    SERVICES,
    UNWANTED,
    World,
    answer_of,
    applied,
    commands_of,
    hostile_answers,
    loads_of,
    obeyed,
    shuffled,
    state_of,
    with_load,
    worlds,
)

ROUNDS = 8
"""Passes until all is done: a change, a growth, and a few for the halves that wait."""

laws = settings(
    deadline=None,
    max_examples=250,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


orders = st.randoms(use_true_random=False)
answers = st.fixed_dictionaries({name: hostile_answers() for name in SERVICES})


def planned(wanted: Desired, observed: Observed) -> Plan:
    return make_plan(diff(wanted, observed), observed)


def short_of(found: Diff) -> list[str]:
    return [shortage.backend for shortage in found.shortages]


def ready_counts(observed: Observed) -> Mapping[str, int]:
    return {
        name: sum(slot.admin is AdminState.READY and slot.weight > 0 for slot in backend.slots)
        for name, backend in observed.backends.items()
    }


def half_of(want: DesiredBackend) -> int:
    return (sum(one.admin is AdminState.READY and one.weight > 0 for one in want.servers) + 1) // 2


def is_free(slot: Server) -> bool:
    """Nothing is on it; what it would be is not known of a slot no instance was ever given."""
    return slot.address == PLACEHOLDER if slot.load is None else attrs.astuple(slot.load) == (0, 0, 0, 0)


def template_of(config: Config) -> Template:
    return Template("t", "".join(f'backend {name}\n    {{{{ servers("{name}") }}}}\n' for name in config.backends))


@laws
@given(worlds())
def test_passes_and_growth_lead_to_a_plan_with_nothing_to_do(world: World) -> None:
    wanted, observed = world.desired, world.observed
    for _ in range(ROUNDS):
        plan = planned(wanted, observed)
        observed = with_load(applied(observed, plan), NO_LOAD)
        short = short_of(diff(wanted, observed))
        if short and not plan.changes:
            observed = as_new_worker(grow(observed, wanted, short))

    assert planned(wanted, observed).is_empty


@laws
@given(worlds())
def test_no_server_that_may_be_in_use_is_given_another_address(world: World) -> None:
    later = applied(world.observed, planned(world.desired, world.observed))
    for name, backend in world.observed.backends.items():
        for before, now in zip(backend.slots, later.backends[name].slots, strict=True):
            if before.admin is not AdminState.MAINT or not is_free(before):
                assert (before.name, before.address) == (now.name, now.address)


@laws
@given(worlds())
def test_where_nothing_is_short_exactly_what_is_desired_serves(world: World) -> None:
    found = diff(world.desired, world.observed)
    later = applied(world.observed, make_plan(found, world.observed))
    for name, want in world.desired.backends.items():
        if name in short_of(found):
            continue
        if not want.servers:  # the whole service is gone: held
            assert later.backends[name] == world.observed.backends[name]
            continue
        serving = [slot for slot in later.backends[name].slots if slot.admin is not AdminState.MAINT]
        ready = Counter((slot.address, slot.weight) for slot in serving if slot.admin is AdminState.READY)
        drained = {slot.address for slot in serving if slot.admin is AdminState.DRAIN}

        assert ready == Counter((one.address, one.weight) for one in want.servers if one.admin is AdminState.READY)
        assert drained <= {one.address for one in want.servers if one.admin is AdminState.DRAIN}


@laws
@given(worlds())
def test_after_growth_nothing_is_short_and_what_was_there_stays(world: World) -> None:
    wanted, observed = world.desired, world.observed
    short = short_of(diff(wanted, observed))
    grown = grow(observed, wanted, short)

    assert short_of(diff(wanted, as_new_worker(grown))) == []
    for name, backend in grown.backends.items():
        old = observed.backends[name].slots
        names = [slot.name for slot in backend.slots]

        assert [slot for slot in backend.slots if slot in old] == list(old)
        assert len(set(names)) == len(names)
        assert all(slot.is_slot and slot.is_idle for slot in backend.slots if slot not in old)
        assert backend.foreign == observed.backends[name].foreign
        if name in short:
            assert len(names) >= 2 * len(old)
        if name in wanted.backends:
            assert len(names) >= wanted.backends[name].slots


@laws
@given(worlds())
def test_backends_that_are_not_desired_are_never_touched(world: World) -> None:
    wanted, observed = world.desired, world.observed
    found = diff(wanted, observed)
    plan = make_plan(found, observed)
    named = {one.backend for one in (*plan.changes, *plan.shortages)}
    named |= {one.change.backend for one in (*plan.held, *plan.waiting)}

    assert named <= set(wanted.backends)
    for later in (
        applied(observed, plan),
        after(observed, found.changes),
        grow(observed, wanted, short_of(found)),
        picture_now(wanted, as_new_worker(observed)),
    ):
        for name in set(observed.backends) - set(wanted.backends):
            assert later.backends[name].slots in (
                observed.backends[name].slots,
                as_new_worker(observed).backends[name].slots,
            )
    assert UNWANTED not in named


@laws
@given(worlds(), orders)
def test_the_order_of_what_is_read_never_matters(world: World, shuffle: random.Random) -> None:
    readings = {
        name: parse_reading(name, answer_of(reading, shuffle))
        for name, reading in shuffled(world.catalog.readings.items(), shuffle)
    }
    config = Config(backends=dict(shuffled(world.config.backends.items(), shuffle)))
    text = state_of(world.observed, shuffle)
    observed = with_loads(
        parse_servers_state(text, shuffled(world.observed.backends, shuffle)), loads_of(world.observed)
    )
    wanted = desired(Catalog(readings), config)
    one, other = planned(world.desired, world.observed), planned(wanted, observed)

    assert one == other
    assert str(one) == str(other)
    pictures = picture_now(world.desired, world.observed), picture_now(wanted, observed)
    assert pictures[0] == pictures[1]
    template = template_of(world.config)
    texts = (
        render(template, pictures[0], world.config, labels_of(world.desired, None, ())),
        render(template, pictures[1], config, labels_of(wanted, None, ())),
    )
    assert texts[0] == texts[1]


@laws
@given(worlds())
def test_the_same_pass_twice_does_nothing_the_second_time(world: World) -> None:
    wanted, observed = world.desired, world.observed
    wanted = wanted.only(set(wanted.backends) - set(short_of(diff(wanted, observed))))

    assert planned(wanted, applied(observed, planned(wanted, observed))).is_empty


@laws
@given(worlds())
def test_capacity_goes_in_before_any_goes_out(world: World) -> None:
    observed = world.observed
    plan = planned(world.desired, observed)
    half = {one.backend: half_of(world.desired.backends[one.backend]) for one in plan.shortages}
    before = now = ready_counts(observed)
    lowest = dict(before)
    going_down: set[str] = set()
    for change in plan.changes:
        observed = obeyed(observed, commands_of(change))
        was, now = now, ready_counts(observed)
        if now[change.backend] < was[change.backend]:
            going_down.add(change.backend)
        assert now[change.backend] <= was[change.backend] or change.backend not in going_down
        lowest[change.backend] = min(lowest[change.backend], now[change.backend])

    for name, count in lowest.items():
        assert count >= min(before[name], half.get(name, now[name]))


@laws
@given(worlds())
def test_passes_repeated_while_slots_are_short_keep_half(world: World) -> None:
    wanted, observed = world.desired, with_load(world.observed, Load(1, 0, 0, 0))
    before = ready_counts(observed)
    for _ in range(ROUNDS):
        observed = applied(observed, planned(wanted, observed))
    now = ready_counts(observed)
    for shortage in diff(wanted, observed).shortages:
        assert now[shortage.backend] >= min(before[shortage.backend], half_of(wanted.backends[shortage.backend]))


@laws
@given(worlds())
def test_foreign_servers_are_never_in_a_change(world: World) -> None:
    text = state_of(world.observed, random.Random(0))
    observed = with_loads(parse_servers_state(text, tuple(world.observed.backends)), loads_of(world.observed))
    plan = planned(world.desired, observed)
    later = applied(observed, plan)
    foreign = {
        (backend.name, server.name) for backend in world.observed.backends.values() for server in backend.foreign
    }
    changes: list[Change] = [*plan.changes, *(held.change for held in (*plan.held, *plan.waiting))]

    assert not {(change.backend, change.server) for change in changes} & foreign
    assert all(later.backends[name].foreign == one.foreign for name, one in world.observed.backends.items())


@laws
@given(worlds(), answers)
def test_only_plain_commands_are_ever_made_whatever_consul_answers(world: World, told: dict[str, bytes]) -> None:
    catalog = Catalog({name: parse_reading(name, answer) for name, answer in told.items()})
    for change in planned(desired(catalog, world.config), world.observed).changes:
        for command in commands_of(change):
            assert COMMAND.fullmatch(command.line)


@laws
@given(worlds())
def test_a_change_leads_where_after_says(world: World) -> None:
    plan = planned(world.desired, world.observed)

    assert applied(world.observed, plan) == after(world.observed, plan.changes)


@laws
@given(worlds(), answers)
def test_a_file_that_is_rendered_says_what_the_picture_says(world: World, told: dict[str, bytes]) -> None:
    hostile = {name: parse_reading(name, answer) for name, answer in told.items()}
    wanted = desired(Catalog({**world.catalog.readings, **hostile}), world.config)
    short = short_of(diff(wanted, world.observed))
    picture = picture_grown(wanted, world.observed, short)
    text = render(template_of(world.config), picture, world.config, labels_of(wanted, None, ()))
    on_paper = {
        name: attrs.evolve(
            backend,
            slots=tuple(
                attrs.evolve(slot, admin=AdminState.MAINT, is_up=False) if slot.admin is AdminState.DRAIN else slot
                for slot in backend.slots
            ),
            foreign=(),
            exists=bool(backend.slots),
        )
        for name, backend in picture.backends.items()
        if name in world.config.backends
    }

    lines = [1 + max(1, len(picture.backends[name].slots)) for name in world.config.backends]

    assert observed_from_file(text, tuple(world.config.backends)).backends == on_paper
    assert text.isascii()
    assert text.count("\n") == 1 + sum(lines)


def test_the_worlds_are_of_every_kind() -> None:
    seen: Counter[str] = Counter()

    @settings(laws, derandomize=True, database=None, max_examples=600)
    @given(worlds())
    def look(world: World) -> None:
        plan = planned(world.desired, world.observed)
        seen.update({type(change).__name__ for change in plan.changes})
        seen.update(word for word in ("waiting", "held", "shortages") if getattr(plan, word))
        seen.update(["quarantined"] * any(one.quarantined for one in world.desired.backends.values()))
        seen.update(["settled"] * plan.is_empty)

    look()
    kinds = (
        "Add",
        "Enable",
        "Reweigh",
        "Drain",
        "Disable",
        "Remove",
        "waiting",
        "held",
        "shortages",
        "quarantined",
        "settled",
    )

    assert [kind for kind in kinds if not seen[kind]] == []
