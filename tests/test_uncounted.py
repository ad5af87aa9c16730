"""What HAProxy before 3.0 does not count, filled into a reading."""

import attrs

from hapsync.haproxy.uncounted import at_rest, with_kept
from hapsync.model.server import NO_LOAD, PLACEHOLDER, Address, AdminState, Backend, Load, Observed, Server

ONE, TWO = Address("10.0.0.1", 80), Address("10.0.0.2", 80)
LEFT = Server("srv1", ONE, AdminState.MAINT, 0, load=NO_LOAD)
SLOTS = (
    LEFT,
    attrs.evolve(LEFT, name="srv2", address=TWO),
    attrs.evolve(LEFT, name="srv3", load=Load(1, 0, 1, 0)),
    attrs.evolve(LEFT, name="srv4", load=None),
    attrs.evolve(LEFT, name="srv5", admin=AdminState.READY, weight=1),
    attrs.evolve(LEFT, name="srv6", address=PLACEHOLDER),
)
OBSERVED = Observed({"web": Backend("web", SLOTS)}, {"api": "odd"})


def test_only_servers_in_maint_on_which_haproxy_counts_nothing_are_asked_for() -> None:
    assert at_rest(OBSERVED) == {ONE, TWO}


def test_a_server_at_rest_with_a_connection_is_busy_and_one_without_is_idle() -> None:
    found = with_kept(OBSERVED, {ONE: 2, TWO: 0})

    assert [slot.is_idle for slot in found.backends["web"].slots] == [False, True, False, False, False, True]
    assert found.backends["web"].slots[0].load == Load(0, 0, 2, 0)
    assert found.backends["web"].slots[1:] == SLOTS[1:]
    assert found.unread == OBSERVED.unread


def test_no_server_that_had_an_instance_is_idle_where_nothing_is_known() -> None:
    found = with_kept(OBSERVED, None)

    assert [slot.is_idle for slot in found.backends["web"].slots] == [False, False, False, False, False, True]
    assert [slot.load for slot in found.backends["web"].slots[:2]] == [None, None]
