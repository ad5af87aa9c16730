"""What streamed answers keep from us: rights that were lost, a leader that is gone, a state that is no more."""

import json
import threading
from pathlib import Path

import attrs
import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul import read as reader, watch_policy
from hapsync.consul.client import ConsulClient
from hapsync.consul.evidence import Finding, is_streamed
from hapsync.consul.query import Query
from hapsync.consul.watch import Watches
from hapsync.consul.watch_state import Read
from hapsync.model.catalog import Doubt
from tests.edge.test_watch_doubts import ids, watching
from tests.harness.consul import AclConsul, Consul, acl_consul
from tests.harness.processes import wait_until

TEN = tuple(range(1, 11))
ALL = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'


def put(consul: Consul, *numbers: int) -> None:
    for number in numbers:
        consul.put("web", f"w{number}", node=f"n{number:02}", address="10.0.0.1", port=number)


def nodes(*numbers: int) -> str:
    """A policy that may read only some nodes."""
    allowed = "".join(f'node "n{number:02}" {{ policy = "read" }} ' for number in numbers)
    return f'service_prefix "" {{ policy = "read" }} node "lab" {{ policy = "read" }} {allowed}'


def config_of(consul: AclConsul, consistency: str) -> ConsulConfig:
    consul.set_policy("reader", ALL)
    config = ConsulConfig(address=consul.url, token=consul.token("reader"))
    return attrs.evolve(config, consistency=consistency)  # type: ignore[arg-type]


@pytest.mark.parametrize("consistency", ["cached", "stale", "default"])
@pytest.mark.parametrize("left", [9, 7, 4])
def test_a_token_that_loses_part_of_its_rights_takes_nothing_away(work: Path, consistency: str, left: int) -> None:
    with acl_consul(work) as consul:
        put(consul, *TEN)
        with watching(config_of(consul, consistency)) as web:
            web.wait(*TEN)

            consul.set_policy("reader", nodes(*TEN[:left]))
            consul.put("web", "w1", node="n01", address="10.0.0.1", port=1, weights=(7, 3))

            web.wait(*TEN[:left], doubt=Doubt.FILTERED, seconds=20)
            assert [doubt for seen, doubt, _ in web.seen if len(seen) < len(TEN)] == [Doubt.FILTERED]
            put(consul, *TEN[:left], 11)
            consul.set_policy("reader", ALL)
            web.wait(*TEN, 11, seconds=30)


def test_a_safety_read_raises_a_doubt(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_policy, "SAFETY_SECONDS", (0.5, 0.6))
    with acl_consul(work) as consul:
        put(consul, *TEN)
        consul.set_policy("reader", nodes(*TEN[:7]))
        config = ConsulConfig(address=consul.url, token=consul.token("reader"), wait_seconds=1)
        with watching(config) as web:
            web.wait(*TEN[:7], doubt=Doubt.FILTERED)


def test_an_instance_that_leaves_costs_one_plain_read(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain: list[str] = []
    read = reader.Reader.read

    def counted(self: reader.Reader, how: Read) -> Finding:
        if how.consistency != "cached":
            plain.append(how.consistency)
        return read(self, how)

    monkeypatch.setattr(reader.Reader, "read", counted)
    with Consul(work) as consul:
        put(consul, *TEN)
        with watching(ConsulConfig(address=consul.url)) as web:
            web.wait(*TEN)
            assert plain == ["stale"]

            consul.remove("n01", "w1")
            web.wait(*TEN[1:])
            put(consul, 11)
            web.wait(*TEN[1:], 11)

            assert plain == ["stale", "stale"]
            assert {doubt for _, doubt, _ in web.seen} == {None}
            assert web.state.is_cached


def test_a_query_that_avoids_the_stream_waits_for_a_change_at_the_servers(work: Path) -> None:
    with Consul(work) as consul:
        put(consul, *TEN)
        with ConsulClient(ConsulConfig(address=consul.url)) as agent:
            first = agent.read_health("web", Query("stale"))
            index = int(first.headers["x-consul-index"])
            quick = threading.Timer(0.5, put, (consul, 11))
            quick.start()
            streamed = agent.read_health("web", Query("stale", index=1))
            answer = agent.read_health("web", Query("stale", index=index, wait_seconds=20, avoids_stream=True))
            quick.join()

    assert is_streamed(streamed.headers)
    assert not is_streamed(answer.headers)
    assert answer.headers["x-consul-knownleader"] == "true"
    assert len(json.loads(answer.body)) == len(TEN) + 1


def test_a_token_that_could_never_read_all_of_it_is_noticed_with_the_first_answer(work: Path) -> None:
    with acl_consul(work) as consul:
        put(consul, *TEN)
        consul.set_policy("reader", nodes(*TEN[:7]))
        config = ConsulConfig(address=consul.url, token=consul.token("reader"))
        watches = Watches(config, lambda _service: None)
        watches.follow(["web"])
        try:
            wait_until(lambda: "web" in watches.catalog().readings, 10, "the first reading")
            first = watches.catalog().readings["web"]
        finally:
            watches.stop()

    assert [one.instance_id for one in first.instances] == ids(*TEN[:7])
    assert first.doubt is Doubt.FILTERED
