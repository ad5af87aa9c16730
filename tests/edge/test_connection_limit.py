"""The connections to Consul's agent: a reserve stays for others, and no service is never followed."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path

import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul import connection_limit
from hapsync.consul.connection_limit import FEWEST, GUEST_REST_SECONDS, ConnectionLimit, connection_advice
from hapsync.consul.wait_limit import SHORTEST_SECONDS
from hapsync.consul.watch import Watches
from tests.edge.fake_consul import Read, fake_consul
from tests.harness.chaos import Chaos
from tests.harness.consul import Consul
from tests.harness.processes import wait_until


def kept(limit: ConnectionLimit, count: int, *, is_empty: bool = False, disturbed: list[str] | None = None) -> int:
    noted = disturbed if disturbed is not None else []
    names = [f"s{number}" for number in range(count)]
    return sum(
        limit.may_keep(name, lambda name=name: noted.append(name), is_empty=is_empty)  # type: ignore[misc]
        for name in names
    )


def test_all_services_keep_a_connection_where_there_are_enough() -> None:
    limit = ConnectionLimit(20)
    limit.expect(20)

    assert kept(limit, 20, is_empty=True) == 20


def test_where_there_are_too_few_some_places_are_for_those_beyond_by_turns() -> None:
    limit = ConnectionLimit(20)
    limit.expect(30)
    assert kept(limit, 30) == 18

    assert [limit.may_open(f"s{number}", 0) for number in range(30)] == [True] * 20 + [False] * 10
    limit.hung_up("s18")
    assert limit.may_open("s25", 0)
    assert not limit.may_open("s26", 0)


def test_where_there_are_too_few_a_service_without_instances_gives_its_connection_away() -> None:
    limit = ConnectionLimit(20)
    limit.expect(30)
    assert kept(limit, 30) == 18

    assert not limit.may_keep("s0", lambda: None, is_empty=True)

    assert limit.may_keep("s25", lambda: None, is_empty=False)


def test_a_refusal_leaves_fewer_connections_and_who_has_to_go_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, disturbed = ConnectionLimit(150), list[str]()
    limit.expect(150)
    assert kept(limit, 100, disturbed=disturbed) == 100
    assert all(limit.may_open(f"s{number}", 0) for number in range(101))

    limit.refused("s100")

    assert len(disturbed) == 100 - 72  # of 80 connections 8 are for guests
    assert kept(limit, 150) == 72
    monkeypatch.setattr(connection_limit, "RECOVER_SECONDS", -1.0)
    assert kept(limit, 150) > 72


def test_however_often_the_agent_refuses_some_connections_are_tried() -> None:
    limit = ConnectionLimit(150)
    limit.expect(150)
    for number in range(150):
        limit.refused(f"s{number}")

    assert kept(limit, 150) == FEWEST - 1
    assert limit.may_open("s149", 0)


def test_from_150_services_on_check_says_what_to_set() -> None:
    assert connection_advice(149, 150) is None
    near, beyond = connection_advice(150, 150), connection_advice(250, 150)

    assert near is not None
    assert "by turns" not in near
    assert beyond is not None
    for said in ("100 of them are read by turns", "limits.http_max_conns_per_client", "350 or more", "to 270"):
        assert said in beyond


@contextmanager
def watching(config: ConsulConfig, services: list[str]) -> Iterator[Watches]:
    watches = Watches(config, lambda _: None)
    watches.follow(services)
    try:
        yield watches
    finally:
        watches.stop()


def instances(watches: Watches, service: str) -> int:
    reading = watches.catalog().readings.get(service)
    return len(reading.instances) if reading is not None else -1


def test_more_services_than_connections_are_all_followed_and_others_on_this_machine_are_let_in(work: Path) -> None:
    services = [f"s{number}" for number in range(40)]
    with Consul(work, config={"limits": {"http_max_conns_per_client": 30}}) as consul, ExitStack() as stack:
        for service in services:
            consul.put(service, f"{service}-one", node="n1", address="10.0.0.1", port=1)
        config = ConsulConfig(address=consul.url, max_connections=20)
        watches = stack.enter_context(watching(config, services))
        wait_until(lambda: all(instances(watches, one) == 1 for one in services), 60, "all to be read")

        for _ in range(6):  # beside those of the harness
            other = HTTPConnection(consul.host, consul.port)
            stack.callback(other.close)
            other.request("GET", "/v1/status/leader")
            assert other.getresponse().read()
        for service in services:
            consul.put(service, f"{service}-two", node="n1", address="10.0.0.1", port=2)

        wait_until(lambda: all(instances(watches, one) == 2 for one in services), 60, "all to be followed")
        assert {state.error for state in watches.states().values()} == {None}


def test_an_agent_that_takes_fewer_connections_than_configured_has_every_service_followed_all_the_same(
    work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    services = [f"s{number}" for number in range(40)]
    with Consul(work, config={"limits": {"http_max_conns_per_client": 25}}) as consul:
        for service in services:
            consul.put(service, f"{service}-one", node="n1", address="10.0.0.1", port=1)
        consul.hang_up()
        with (
            Chaos(work, consul.host, consul.port) as chaos,
            watching(ConsulConfig(address=chaos.url), services) as watches,
        ):
            wait_until(lambda: all(instances(watches, one) == 1 for one in services), 60, "all to be read")
            for service in services:
                consul.put(service, f"{service}-two", node="n1", address="10.0.0.1", port=2)

            wait_until(lambda: all(instances(watches, one) == 2 for one in services), 60, "all to be followed")

    assert "the agent takes no more connections" in caplog.text
    assert "stays as it was last read" not in caplog.text


def test_a_proxy_that_takes_and_closes_every_connection_is_an_outage_and_no_limit(
    shared_consul: Consul, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    services = [f"outage-{number}" for number in range(20)]
    for service in services:
        shared_consul.put(service, f"{service}-one", node="n1", address="10.0.0.1", port=1)
    with (
        Chaos(work, shared_consul.host, shared_consul.port) as chaos,
        watching(ConsulConfig(address=chaos.url), services) as watches,
    ):
        wait_until(lambda: all(instances(watches, one) == 1 for one in services), 60, "all to be read")

        time.sleep(SHORTEST_SECONDS + 0.5)  # what is cut after that is asked for again at once, by all together
        chaos.reset_new()
        chaos.reset_all()
        wait_until(lambda: all(state.error for state in watches.states().values()), 30, "the outage to be noticed")
        chaos.pass_through()

        wait_until(lambda: not any(state.error for state in watches.states().values()), 30, "its end")
        assert "the agent takes no more connections" not in caplog.text
        wait_until(
            lambda: all(watches._shared.connections.keeps(service) for service in services),
            30,
            "all to keep connections again",
        )


def test_a_connection_that_is_closed_is_a_limit_only_where_earlier_ones_work_still() -> None:
    limit = ConnectionLimit(20)
    for number in range(FEWEST):
        limit.answered(f"s{number}", 10.0)
    assert not limit.closed("new", 10.0)  # all were opened after it
    for number in range(FEWEST // 2):
        limit.failed(f"s{number}")
    assert limit.closed("new", 11.0)
    assert kept(limit, 20) == FEWEST

    limit.hung_up(f"s{FEWEST - 1}")
    assert not limit.closed("new", 11.0)


def test_what_is_read_by_turns_is_read_seldom() -> None:
    services = [f"s{number}" for number in range(40)]

    def guests() -> list[Read]:
        return [read for read in list(fake.reads) if read.wait == "10ms"]

    with fake_consul(1) as fake, watching(ConsulConfig(address=fake.url, max_connections=10), services):
        wait_until(lambda: len(guests()) >= 60, 60, "two turns")

    by_service: dict[str, list[float]] = {}
    for read in guests():
        by_service.setdefault(read.service, []).append(read.at)
    rests = [after - before for reads in by_service.values() for before, after in pairwise(reads)]
    assert rests
    assert min(rests) > GUEST_REST_SECONDS
