"""Each law is broken by a mistake in the code it is about, so it is able to fail."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from hapsync import (
    catalog,
    cfgfile,
    desired as desired_module,
    diff as diff_module,
    model,
    observed as observed_module,
    picture,
    plan as plan_module,
    render,
    runtime,
)
from hapsync.desired import Desired, DesiredBackend, DesiredServer
from hapsync.diff import Add, Change, Drain, Enable, Remove, Reweigh
from hapsync.model import Address, AdminState, CheckStatus, Observed, Server
from tests import test_laws as laws
from tests.strategies import worlds

Patch = pytest.MonkeyPatch


def in_use_is_idle(patch: Patch) -> None:
    patch.setattr(Server, "is_idle", property(lambda slot: slot.admin is AdminState.MAINT))


def unknown_load_is_idle(patch: Patch) -> None:
    patch.setattr(
        Server,
        "is_idle",
        property(lambda slot: slot.admin is AdminState.MAINT and (slot.load or model.NO_LOAD).is_zero),
    )


def idle_connections_do_not_count(patch: Patch) -> None:
    patch.setattr(model.Load, "is_zero", property(lambda load: not (load.sessions or load.queued)))


def what_drains_is_idle(patch: Patch) -> None:
    patch.setattr(Server, "is_idle", property(lambda slot: slot.load is not None and slot.load.is_zero))


def growth_is_one_slot_too_small(patch: Patch) -> None:
    filled_up = diff_module._filled_up
    patch.setattr(diff_module, "_filled_up", lambda slots, count: filled_up(slots, count - 1))


def growth_adds_nothing(patch: Patch) -> None:
    patch.setattr(laws, "grow", lambda observed, *_: observed)


def growth_gives_names_twice(patch: Patch) -> None:
    def filled_up(slots: Sequence[Server], count: int) -> tuple[Server, ...]:
        new = [
            attrs.evolve(diff_module.FREE_SLOT, name=f"srv{number}") for number in range(1, count - len(slots) + 1)
        ]
        return (*slots, *new)

    patch.setattr(diff_module, "_filled_up", filled_up)


def growth_forgets_addresses(patch: Patch) -> None:
    filled_up = diff_module._filled_up
    patch.setattr(
        diff_module,
        "_filled_up",
        lambda slots, count: tuple(attrs.evolve(one, address=model.PLACEHOLDER) for one in filled_up(slots, count)),
    )


def removals_only_drain(patch: Patch) -> None:
    commanded_by(patch, Remove, "state drain")


def weights_are_not_sent(patch: Patch) -> None:
    commanded_by(patch, Enable, "state ready")


def drains_disable(patch: Patch) -> None:
    commanded_by(patch, Drain, "state maint")


def commanded_by(patch: Patch, kind: type, words: str) -> None:
    state_lines = runtime._state_lines

    def lines(change: Change) -> tuple[str, ...]:
        line = f"set server {change.backend}/{change.server} {words}"
        return (line,) if isinstance(change, kind) else state_lines(change)

    patch.setattr(runtime, "_state_lines", lines)


def weights_are_not_compared(patch: Patch) -> None:
    bring = diff_module._bring
    patch.setattr(diff_module, "_bring", lambda *of: None if isinstance(change := bring(*of), Reweigh) else change)


def duplicates_stay(patch: Patch) -> None:
    diff_backend = diff_module._diff_backend

    def broken(want: Any, have: Any) -> diff_module.Diff:
        found = diff_backend(want, have)
        return attrs.evolve(
            found, changes=tuple(one for one in found.changes if one.reason is not diff_module.Reason.DUPLICATE)
        )

    patch.setattr(diff_module, "_diff_backend", broken)


def the_whole_service_is_let_go(patch: Patch) -> None:
    diff_backend = diff_module._diff_backend

    def broken(want: Any, have: Any) -> diff_module.Diff:
        found = diff_backend(want, have)
        return attrs.evolve(found, changes=(*found.changes, *(held.change for held in found.held)), held=())

    patch.setattr(diff_module, "_diff_backend", broken)


def every_backend_of_haproxy_is_ours(patch: Patch) -> None:
    diff = diff_module.diff
    stray = DesiredServer(Address("10.0.0.1", 80), AdminState.READY, 1, "n", "i", CheckStatus.PASSING)

    def broken(desired: Desired, observed: Observed) -> diff_module.Diff:
        others = {name: DesiredBackend(name, 1, (stray,)) for name in observed.backends}
        return diff(Desired({**others, **desired.backends}), observed)

    patch.setattr(laws, "diff", broken)


def free_slots_are_tidied_everywhere(patch: Patch) -> None:
    tidy = picture._tidy

    def broken(observed: Observed, _: Desired) -> Observed:
        return tidy(observed, Desired({name: DesiredBackend(name, 1) for name in observed.backends}))

    patch.setattr(picture, "_tidy", broken)


def slots_are_taken_in_the_order_of_lines(patch: Patch) -> None:
    patch.setattr(observed_module, "slot_number", lambda _: 0)


def of_two_instances_the_first_read_counts(patch: Patch) -> None:
    patch.setattr(desired_module, "sorted", lambda items, **_: list(items), raising=False)
    patch.setattr(catalog, "sorted", lambda items, **_: list(items), raising=False)


def columns_are_found_by_position(patch: Patch) -> None:
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

    def broken(text: str, backends: Iterable[str]) -> Observed:
        version, _, *rows = text.splitlines()
        return parse("\n".join((version, f"# {' '.join(columns)}", *rows)), tuple(backends))

    parse = observed_module.parse_servers_state
    patch.setattr(laws, "parse_servers_state", broken)


def what_goes_out_goes_first(patch: Patch) -> None:
    brings = plan_module._brings
    patch.setattr(plan_module, "_brings", lambda change: not brings(change))


def nothing_waits(patch: Patch) -> None:
    patch.setattr(plan_module, "keep_half", lambda outgoing, *_: (tuple(outgoing), ()))


def a_weight_of_zero_takes_nothing_out(patch: Patch) -> None:
    takes_out = plan_module._takes_out
    patch.setattr(plan_module, "_takes_out", lambda change: not isinstance(change, Reweigh) and takes_out(change))


def more_names_are_slots(patch: Patch) -> None:
    patch.setattr(model, "SLOT_NAME", re.compile("srv[0-9]+"))


def addresses_are_not_parsed(patch: Patch) -> None:
    patch.setattr(catalog, "_address", lambda host, port: Address(str(host), port if type(port) is int else 1))


def addresses_are_not_parsed_and_lines_are_not_checked(patch: Patch) -> None:
    addresses_are_not_parsed(patch)
    patch.setattr(runtime, "_LINE", re.compile(r"(?s).*"))


def after_forgets_that_a_drained_server_is_drained(patch: Patch) -> None:
    changed = diff_module._changed
    patch.setattr(
        diff_module, "_changed", lambda slot, change: slot if isinstance(change, Drain) else changed(slot, change)
    )


def disabled_is_not_written(patch: Patch) -> None:
    line = render._server_line
    patch.setattr(render, "_server_line", lambda *of: line(*of).replace(" disabled", ""))


def comments_are_not_escaped(patch: Patch) -> None:
    patch.setattr(render, "quoted", lambda text: text)


def the_file_is_read_without_weights(patch: Patch) -> None:
    observed_from_file = cfgfile.observed_from_file

    def broken(text: str, backends: tuple[str, ...]) -> Observed:
        return observed_from_file(text.replace(" weight ", " maxconn "), backends)

    patch.setattr(laws, "observed_from_file", broken)


def additions_take_no_weight(patch: Patch) -> None:
    commanded_by(patch, Add, "state ready")


MISTAKES: Mapping[Callable[..., None], Sequence[Callable[[Patch], None]]] = {
    laws.test_passes_and_growth_lead_to_a_plan_with_nothing_to_do: (growth_adds_nothing, removals_only_drain),
    laws.test_no_server_that_may_be_in_use_is_given_another_address: (
        in_use_is_idle,
        unknown_load_is_idle,
        idle_connections_do_not_count,
        what_drains_is_idle,
    ),
    laws.test_where_nothing_is_short_exactly_what_is_desired_serves: (
        duplicates_stay,
        weights_are_not_compared,
        the_whole_service_is_let_go,
        removals_only_drain,
        additions_take_no_weight,
    ),
    laws.test_after_growth_nothing_is_short_and_what_was_there_stays: (
        growth_is_one_slot_too_small,
        growth_gives_names_twice,
        growth_forgets_addresses,
    ),
    laws.test_backends_that_are_not_desired_are_never_touched: (
        every_backend_of_haproxy_is_ours,
        free_slots_are_tidied_everywhere,
    ),
    laws.test_the_order_of_what_is_read_never_matters: (
        slots_are_taken_in_the_order_of_lines,
        of_two_instances_the_first_read_counts,
        columns_are_found_by_position,
    ),
    laws.test_the_same_pass_twice_does_nothing_the_second_time: (weights_are_not_sent, drains_disable),
    laws.test_capacity_goes_in_before_any_goes_out: (
        what_goes_out_goes_first,
        nothing_waits,
        a_weight_of_zero_takes_nothing_out,
    ),
    laws.test_passes_repeated_while_slots_are_short_keep_half: (nothing_waits,),
    laws.test_foreign_servers_are_never_in_a_change: (more_names_are_slots,),
    laws.test_only_plain_commands_are_ever_made_whatever_consul_answers: (
        addresses_are_not_parsed,
        addresses_are_not_parsed_and_lines_are_not_checked,
    ),
    laws.test_a_change_leads_where_after_says: (after_forgets_that_a_drained_server_is_drained, drains_disable),
    laws.test_a_file_that_is_rendered_says_what_the_picture_says: (
        disabled_is_not_written,
        comments_are_not_escaped,
        the_file_is_read_without_weights,
    ),
}
MORE: Mapping[Callable[..., None], st.SearchStrategy[Any]] = {
    laws.test_the_order_of_what_is_read_never_matters: laws.orders,
    laws.test_only_plain_commands_are_ever_made_whatever_consul_answers: laws.answers,
    laws.test_a_file_that_is_rendered_says_what_the_picture_says: laws.answers,
}
"""What a law is given besides a world."""

searching = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=3000,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def search(law: Callable[..., None]) -> None:
    """Try the law on the same worlds each time, until one breaks it."""
    body: Callable[..., None] = cast(Any, law).hypothesis.inner_test
    drawn = (worlds(), MORE[law]) if law in MORE else (worlds(),)

    @searching
    @given(st.tuples(*drawn))
    def attempt(of: tuple[Any, ...]) -> None:
        body(*of)

    attempt()


@pytest.mark.parametrize(
    ("law", "mistake"),
    [
        pytest.param(law, one, id=f"{one.__name__}-{law.__name__[5:]}")
        for law, some in MISTAKES.items()
        for one in some
    ],
)
def test_a_mistake_breaks_its_law(
    law: Callable[..., None], mistake: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    mistake(monkeypatch)

    refused = (ValueError,) if mistake is addresses_are_not_parsed else ()  # by Command itself
    with pytest.raises((AssertionError, *refused)):
        search(law)


def test_every_law_has_a_mistake_that_breaks_it() -> None:
    named = {
        one
        for name, one in vars(laws).items()
        if name.startswith("test_") and name != "test_the_worlds_are_of_every_kind"
    }

    assert named == set(MISTAKES)
