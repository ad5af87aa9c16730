"""Addresses compare in one spelling, and a server knows whether its slot is free."""

import attrs
import pytest

from hapsync.model.server import (
    NO_LOAD,
    PLACEHOLDER,
    Address,
    AdminState,
    Backend,
    FirstCheck,
    Load,
    Server,
    canonical_host,
    server_order,
)

IDLE = Server("srv1", Address("10.0.0.1", 8080), AdminState.MAINT, 0, load=NO_LOAD)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:0db8::0001", "2001:db8::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:a00:1", "10.0.0.1"),
    ],
)
def test_an_ip_address_has_one_spelling(text: str, host: str) -> None:
    assert host == canonical_host(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "-",
            "localhost",
            "web.example.com",
            "10.0.0.1:80",
            "[::1]",
            "10.0.0.01",
            "010.0.0.1",
            "1",
            "0x7f.1",
        ),
        *(
            "fe80::1%eth0",
            "::1%1",
            "10.0.0.1%eth0",
            "10.0.0.1\n",
            "10.0.0.1;",
            "10.0.0.1 ",
            "10.0.0.1/8",
            "10.0.0.1\0",
        ),
        *("\u0661\u0660.0.0.1", "::1\n", "{{ 1 }}", "<<", "/run/app.sock"),
    ],
    ids=ascii,
)
def test_what_is_no_ip_address_has_no_spelling(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|zone"):
        canonical_host(text)


def test_an_address_is_written_with_brackets_only_where_they_are_needed() -> None:
    assert str(Address("10.0.0.1", 80)) == "10.0.0.1:80"
    assert str(Address("2001:db8::1", 80)) == "[2001:db8::1]:80"


def test_addresses_have_an_order() -> None:
    first, second, third = Address("10.0.0.1", 80), Address("10.0.0.1", 443), Address("10.0.0.2", 1)

    assert [first, second, third] == sorted([third, second, first])


@pytest.mark.parametrize("load", [Load(1, 0, 0, 0), Load(0, 1, 0, 0), Load(0, 0, 1, 0), Load(0, 0, 0, 1), None])
def test_a_slot_with_any_load_or_an_unknown_one_is_not_idle(load: Load | None) -> None:
    assert not attrs.evolve(IDLE, load=load).is_idle


@pytest.mark.parametrize("admin", [AdminState.READY, AdminState.DRAIN])
def test_a_slot_that_is_not_in_maint_is_not_idle(admin: AdminState) -> None:
    assert not attrs.evolve(IDLE, admin=admin).is_idle


def test_a_slot_that_no_instance_was_ever_given_is_idle_whatever_is_known() -> None:
    fresh = attrs.evolve(IDLE, address=PLACEHOLDER, load=None)

    assert fresh.is_idle
    assert not attrs.evolve(fresh, load=Load(1, 0, 0, 0)).is_idle
    assert not attrs.evolve(fresh, admin=AdminState.READY).is_idle
    assert not attrs.evolve(fresh, address=None).is_idle


def test_a_load_can_be_put_in_another_s_place() -> None:
    busy = attrs.evolve(IDLE, is_up=True, load=Load(1, 2, 3, 4))

    assert busy == attrs.evolve(IDLE, is_up=True, load=None).with_load(Load(1, 2, 3, 4))


def test_a_slot_in_maint_with_nothing_on_it_is_idle() -> None:
    assert IDLE.is_idle


@pytest.mark.parametrize(
    "name", ["srv0", "srv01", "srv", "SRV1", "srv1234567", "srv1 ", "srv1\n", "xsrv1", "srv-1", "sr1"]
)
def test_a_server_with_another_name_is_foreign(name: str) -> None:
    assert not attrs.evolve(IDLE, name=name).is_slot


@pytest.mark.parametrize(("name", "number"), [("srv1", 1), ("srv10", 10), ("srv999999", 999999)])
def test_a_slot_is_named_by_its_number(name: str, number: int) -> None:
    assert attrs.evolve(IDLE, name=name).is_slot
    assert server_order(name) == (number, "")


def test_only_ready_servers_with_a_weight_can_serve() -> None:
    serving = attrs.evolve(IDLE, admin=AdminState.READY, weight=1)
    drained, silent = attrs.evolve(IDLE, admin=AdminState.DRAIN), attrs.evolve(serving, weight=0)

    assert (serving,) == Backend("web", (IDLE, serving, drained, silent)).ready


def test_haproxy_sends_to_servers_that_can_serve_and_are_up() -> None:
    serving = attrs.evolve(IDLE, admin=AdminState.READY, weight=1, is_up=True)

    assert serving.serves
    assert not attrs.evolve(serving, is_up=False).serves
    assert not attrs.evolve(serving, weight=0).serves
    assert not attrs.evolve(serving, admin=AdminState.DRAIN).serves


@pytest.mark.parametrize("admin", [AdminState.MAINT, AdminState.DRAIN])
def test_a_server_in_maint_or_drain_that_keeps_its_weight_is_a_persons(admin: AdminState) -> None:
    deferred = attrs.evolve(IDLE, admin=admin, weight=1)

    assert deferred.is_overridden
    assert not deferred.is_idle
    assert not attrs.evolve(deferred, weight=0).is_overridden
    assert not attrs.evolve(deferred, admin=AdminState.READY).is_overridden
    assert not attrs.evolve(deferred, address=PLACEHOLDER).is_overridden
    assert not attrs.evolve(deferred, address=None).is_overridden


def test_a_proof_says_nothing_of_what_a_server_is() -> None:
    assert attrs.evolve(IDLE, first_check=FirstCheck.MISSING) == attrs.evolve(IDLE, first_check=FirstCheck.PASSED)
    assert attrs.evolve(IDLE, first_check=FirstCheck.MISSING).with_load(None).first_check is FirstCheck.MISSING
