"""What HAProxy before 3.0 does not count, filled into a reading."""

from collections.abc import Collection, Mapping

import attrs
import pytest

from hapsync.haproxy import uncounted
from hapsync.haproxy.uncounted import with_all_loads, with_kept
from hapsync.model.server import (
    NO_LOAD,
    PLACEHOLDER,
    Address,
    AdminState,
    Backend,
    HAProxyProcess,
    Load,
    Observed,
    Server,
)
from hapsync.plan.desired import Desired

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
WEB = Backend("web", SLOTS)


def test_only_servers_in_maint_on_which_haproxy_counts_nothing_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Collection[Address]] = []

    def count_kept(_pid: int, _path: str, addresses: Collection[Address]) -> Mapping[Address, int]:
        asked.append(addresses)
        return {ONE: 1, TWO: 0}

    monkeypatch.setattr(uncounted, "count_kept", count_kept)
    process = HAProxyProcess(1, "2.6.12", 1, is_stopping=False)
    found = with_all_loads(Observed({"web": WEB}, {"api": "odd"}), process, "admin.sock", Desired({}))

    assert asked == [{ONE, TWO}]
    assert found == Observed({"web": with_kept(WEB, {ONE: 1})})
    assert found.unread == {"api": "odd"}


def test_a_server_at_rest_with_a_connection_is_busy_and_one_without_is_idle() -> None:
    found = with_kept(WEB, {ONE: 2, TWO: 0})

    assert [slot.is_idle for slot in found.slots] == [False, True, False, False, False, True]
    assert found.slots[0].load == Load(0, 0, 2, 0)
    assert found.slots[1:] == SLOTS[1:]


def test_no_server_that_had_an_instance_is_idle_where_nothing_is_known() -> None:
    found = with_kept(WEB, None)

    assert [slot.is_idle for slot in found.slots] == [False, False, False, False, False, True]
    assert [slot.load for slot in found.slots[:2]] == [None, None]
