"""A dynamic server's name and id follow from its instance alone."""

import re

import attrs
import pytest
from hypothesis import given, strategies as st

from hapsync.model.server import DYNAMIC_NAME, Address, AdminState, CheckStatus, dynamic_id
from hapsync.plan.desired import DesiredServer
from hapsync.plan.naming import FIRST_ID, LAST_ID, dynamic_name

ONE = DesiredServer(Address("10.0.0.1", 80), AdminState.READY, 1, "node-a", "web-1", CheckStatus.PASSING)


def test_a_name_holds_the_service_id_and_the_id_in_haproxy() -> None:
    name = dynamic_name(ONE, ())

    assert name == f"dyn-web-1-{dynamic_id(name):07x}"


def test_the_same_instance_has_the_same_name_whatever_its_weight_and_state() -> None:
    other = attrs.evolve(ONE, weight=7, admin=AdminState.DRAIN, status=CheckStatus.MAINTENANCE)

    assert dynamic_name(other, ()) == dynamic_name(ONE, ())


@pytest.mark.parametrize(
    "other",
    [
        attrs.evolve(ONE, node="node-b"),
        attrs.evolve(ONE, instance_id="web-2"),
        attrs.evolve(ONE, address=Address("10.0.0.1", 81)),
    ],
)
def test_another_instance_has_another_id(other: DesiredServer) -> None:
    assert dynamic_id(dynamic_name(other, ())) != dynamic_id(dynamic_name(ONE, ()))


def test_an_id_that_is_taken_is_passed_over() -> None:
    first = dynamic_id(dynamic_name(ONE, ()))
    second = dynamic_id(dynamic_name(ONE, {first}))

    assert second != first
    assert dynamic_id(dynamic_name(ONE, {first, second})) not in {first, second}


@given(st.text(), st.text())
def test_whatever_an_instance_is_called_its_name_is_one_for_haproxy(node: str, instance_id: str) -> None:
    name = dynamic_name(attrs.evolve(ONE, node=node, instance_id=instance_id), ())

    assert DYNAMIC_NAME.fullmatch(name)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
    assert FIRST_ID <= dynamic_id(name) <= LAST_ID
