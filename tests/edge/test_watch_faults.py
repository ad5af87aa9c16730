"""A real Consul behind a proxy that misbehaves: the state stays, nothing spins, and it goes on once that is over."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul.watch import Watches
from hapsync.model.catalog import Doubt, Reading
from tests.harness.chaos import HEALTH, Chaos, http_answer
from tests.harness.consul import Consul
from tests.harness.processes import wait_until

SECONDS = 2.0


def reset(chaos: Chaos) -> None:
    chaos.reset_new()
    chaos.reset_all()


FAULTS: Mapping[str, Callable[[Chaos], None]] = {
    "refuse": Chaos.refuse,
    "reset": reset,
    "half open": Chaos.half_open,
    "stall": Chaos.stall,
    "half an answer": lambda chaos: chaos.cut_after(250),
    "half a head": lambda chaos: chaos.cut_after(20, is_reset=True),
    "an answer that drips": lambda chaos: chaos.slow(100),
    "half a list": lambda chaos: chaos.rewrite(body='[{"Node":{"Node":"n1"'),
    "no index": lambda chaos: chaos.rewrite(headers={"X-Consul-Index": None}),
    "too many connections": lambda chaos: chaos.answer(http_answer(429, "Your IP is issuing too many")),
    "an error page": lambda chaos: chaos.answer(http_answer(200, "<html>", {"X-Consul-Index": "5"})),
    "a sign-in page": lambda chaos: chaos.answer(http_answer(302, "", {"Location": "http://127.0.0.1/"})),
}


@contextmanager
def watching(config: ConsulConfig, *services: str) -> Iterator[Watches]:
    watches = Watches(config, lambda _service: None)
    watches.follow(services)
    try:
        yield watches
    finally:
        watches.stop()


def reading(watches: Watches, service: str) -> Reading:
    return watches.catalog().readings[service]


def ids(watches: Watches, service: str) -> list[str]:
    return [one.instance_id for one in reading(watches, service).instances]


@pytest.mark.parametrize(
    ("fault", "is_unix"),
    [*((fault, False) for fault in FAULTS), ("refuse", True), ("half open", True), ("stall", True)],
)
def test_whatever_the_connection_does_the_state_stays_until_it_is_over(
    shared_consul: Consul,
    work: Path,
    fault: str,
    is_unix: bool,  # noqa: FBT001
) -> None:
    service = f"{fault}-{is_unix}"
    for number in (1, 2, 3):
        shared_consul.put(service, f"i{number}", node=f"n{number}", address="10.0.0.1", port=number)
    path = work / "consul.sock" if is_unix else None
    with Chaos(work, shared_consul.host, shared_consul.port, listen_path=path) as chaos:
        config = ConsulConfig(address=chaos.url, wait_seconds=1, timeout_seconds=1)
        with watching(config, service) as watches:
            wait_until(lambda: len(ids(watches, service)) == 3, 10, "all three")

            FAULTS[fault](chaos)
            shared_consul.remove("n1", "i1")

            wait_until(lambda: reading(watches, service).doubt is Doubt.AWAY, 10, "Consul to be away")
            kept = ids(watches, service)  # a query that was blocked before may still have brought the change
            before, began = chaos.seen(), time.monotonic()
            time.sleep(SECONDS)
            after, seconds = chaos.seen(), time.monotonic() - began
            assert (ids(watches, service), reading(watches, service).doubt) == (kept, Doubt.AWAY)
            assert kept[-2:] == ["i2", "i3"]
            assert watches.states()[service].error
            assert sum(after.asked.values()) - sum(before.asked.values()) <= 5 * seconds
            assert after.accepted - before.accepted <= 6 * seconds

            chaos.pass_through()
            wait_until(lambda: reading(watches, service).doubt is None, 10, "Consul to be back")
            assert ids(watches, service) == ["i2", "i3"]
            shared_consul.put(service, "i4", node="n4", address="10.0.0.1", port=4)
            wait_until(lambda: len(ids(watches, service)) == 3, 10, "what came after it")


def test_one_service_that_cannot_be_read_is_no_matter_for_another(shared_consul: Consul, work: Path) -> None:
    shared_consul.put("bad", "b1", node="n1", address="10.0.0.1", port=1)
    shared_consul.put("good", "g1", node="n1", address="10.0.0.1", port=2)
    with (
        Chaos(work, shared_consul.host, shared_consul.port) as chaos,
        watching(ConsulConfig(address=chaos.url, timeout_seconds=1), "bad", "good") as watches,
    ):
        wait_until(lambda: ids(watches, "bad") + ids(watches, "good") == ["b1", "g1"], 10, "both")
        chaos.answer(http_answer(500, "no"), only=f"{HEALTH}bad")
        chaos.reset_all()
        wait_until(lambda: reading(watches, "bad").doubt, 10, "the bad one to be away")

        shared_consul.put("good", "g2", node="n2", address="10.0.0.1", port=3)

        wait_until(lambda: ids(watches, "good") == ["g1", "g2"], 10, "the good one's change")
        assert reading(watches, "good").doubt is None
        assert reading(watches, "bad").doubt is Doubt.AWAY


def test_a_cache_that_cuts_the_list_short_is_found_out(shared_consul: Consul, work: Path) -> None:
    for number in range(1, 11):
        shared_consul.put("cut", f"c{number}", node="n1", address="10.0.0.1", port=number)
    with (
        Chaos(work, shared_consul.host, shared_consul.port) as chaos,
        watching(ConsulConfig(address=chaos.url, timeout_seconds=1), "cut") as watches,
    ):
        wait_until(lambda: len(ids(watches, "cut")) == 10, 10, "all ten")

        chaos.rewrite(keep=2, times=1)
        shared_consul.put("cut", "c11", node="n1", address="10.0.0.1", port=11)

        wait_until(lambda: len(ids(watches, "cut")) == 11, 10, "what is true")
        assert reading(watches, "cut").doubt is None


def test_above_the_agents_limit_of_connections_what_was_read_stays_and_nothing_spins(work: Path) -> None:
    services = [f"s{number}" for number in range(16)]
    with Consul(work, config={"limits": {"http_max_conns_per_client": 12}}) as consul:
        for number, service in enumerate(services):
            consul.put(service, f"i{number}", node="n1", address="10.0.0.1", port=number + 1)
        with (
            Chaos(work, consul.host, consul.port) as chaos,
            watching(ConsulConfig(address=chaos.url, timeout_seconds=1), *services) as watches,
        ):
            wait_until(lambda: len(watches.catalog().readings) >= 8, 20, "those within the limit")
            before = chaos.seen()
            time.sleep(SECONDS)
            after = chaos.seen()

            assert after.accepted - before.accepted <= 50 * SECONDS
            assert {one.doubt for one in watches.catalog().readings.values()} <= {None, Doubt.AWAY}
