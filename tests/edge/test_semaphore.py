"""Reload slots of a group, at a real Consul."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.semaphore import (
    RIGHTS,
    Busy,
    Permit,
    acquire_permit,
    is_held,
    key_of,
    release,
    renew,
    try_permit,
    wait_for_change,
)
from hapsync.errors import CatalogError
from tests.harness.consul import Consul, acl_consul
from tests.harness.ports import free_port
from tests.harness.processes import wait_until


@contextmanager
def balancer(url: str) -> Iterator[ConsulClient]:
    with ConsulClient(ConsulConfig(address=url, timeout_seconds=5)) as agent:
        yield agent


def taken(agent: ConsulClient, group: str, at_once: int = 1, value: str = "one") -> Permit:
    permit = acquire_permit(agent, group, at_once, value)
    assert isinstance(permit, Permit)
    return permit


def test_the_only_slot_is_held_by_one_and_the_other_is_told_by_whom(shared_consul: Consul) -> None:
    with balancer(shared_consul.url) as one, balancer(shared_consul.url) as two:
        permit = taken(one, "only", value="lb1: slots ran out")

        assert acquire_permit(two, "only", 1, "lb2") == Busy(("lb1: slots ran out",))
        assert is_held(one, permit)


def test_of_two_slots_two_are_held_and_the_third_waits(shared_consul: Consul) -> None:
    with balancer(shared_consul.url) as agent:
        first, second = taken(agent, "pair", 2), taken(agent, "pair", 2)

        assert {first.key, second.key} == {key_of("pair", 0), key_of("pair", 1)}
        assert isinstance(acquire_permit(agent, "pair", 2, "three"), Busy)


def test_groups_do_not_wait_for_each_other(shared_consul: Consul) -> None:
    with balancer(shared_consul.url) as agent:
        taken(agent, "east")

        taken(agent, "west")


def test_a_slot_that_was_given_back_can_be_taken(shared_consul: Consul) -> None:
    with balancer(shared_consul.url) as one, balancer(shared_consul.url) as two:
        permit = taken(one, "back")
        renew(one, permit.session)
        release(one, permit)

        wait_until(lambda: isinstance(acquire_permit(two, "back", 1, "two"), Permit), 10, "the slot to be free")
        assert not is_held(one, permit)


def test_a_lost_session_is_noticed(shared_consul: Consul) -> None:
    with balancer(shared_consul.url) as agent:
        permit = taken(agent, "lost")
        agent.session.destroy(permit.session)

        assert not is_held(agent, permit)
        with pytest.raises(CatalogError):
            renew(agent, permit.session)


def test_a_value_is_safe_to_show(shared_consul: Consul) -> None:
    with balancer(shared_consul.url) as agent:
        taken(agent, "shown", value="lb1\x1b[2J")

        assert acquire_permit(agent, "shown", 1, "lb2") == Busy((r"lb1\u001b[2J",))


def test_a_consul_that_is_away_is_an_error_and_no_slot() -> None:
    with balancer(f"http://127.0.0.1:{free_port()}") as agent, pytest.raises(CatalogError, match="refuses the conn"):
        acquire_permit(agent, "away", 1, "one")


def test_a_token_needs_the_rights_that_the_message_names_and_no_others(work: Path) -> None:
    with acl_consul(work) as consul:
        consul.set_policy("none", 'service_prefix "" { policy = "read" }')
        consul.set_policy("all", 'key_prefix "hapsync/" { policy = "write" } session_prefix "" { policy = "write" }')
        for policy in ("none", "all"):
            config = ConsulConfig(address=consul.url, token=consul.token(policy))
            with ConsulClient(config) as agent:
                if policy == "none":
                    with pytest.raises(CatalogError, match=re.escape(RIGHTS)):
                        try_permit(agent, "lbs")
                else:
                    try_permit(agent, "lbs")
                    assert isinstance(acquire_permit(agent, "lbs", 1, "one"), Permit)


def test_a_slot_that_is_given_back_is_free_at_once_and_who_waits_for_it_is_woken(shared_consul: Consul) -> None:
    with balancer(shared_consul.url) as one, balancer(shared_consul.url) as two:
        permit = taken(one, "woken", value="lb1")
        index = wait_for_change(two, "woken", 0, 60)
        woken: list[int] = []
        waiting = threading.Thread(target=lambda: woken.append(wait_for_change(two, "woken", index, 60)))
        waiting.start()
        release(one, permit)
        waiting.join(30)

        assert woken, "still waiting"
        assert woken[0] > index
        assert isinstance(acquire_permit(two, "woken", 1, "lb2"), Permit)  # not empty for a while
