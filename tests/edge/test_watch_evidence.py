"""What an answer of a real Consul proves: where its state went back, and where its streams keep something from us.

With any Consul: 1.8 has no streams, from 1.10 on they are the default.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul import servers, watch_policy
from hapsync.consul.evidence import Finding
from hapsync.consul.read import Interrupted, Reader, Shared
from hapsync.consul.watch_state import Read
from hapsync.model.catalog import Doubt, Reading
from hapsync.model.server import CheckStatus
from tests.edge.fake_consul import fake_consul
from tests.edge.test_watch_doubts import Watched, ids, of, watching
from tests.harness.chaos import Chaos
from tests.harness.cluster import Cluster
from tests.harness.consul import Agent, Consul
from tests.harness.processes import wait_until

EIGHT = tuple(range(1, 9))
OLD = (1, 2, 3, 4)
SERVERS = "/v1/catalog/service/consul"
AWAY_SECONDS = 4.0
"""So long without servers an agent has given old content out of its stream again (1.14.11)."""


def put(consul: Agent, *numbers: int) -> None:
    for number in numbers:
        consul.put("web", f"w{number}", node=f"n{number}", address="10.0.0.1", port=number)


def put_when_possible(consul: Agent, number: int) -> None:
    """Put an instance through an agent whose servers have just started: for some seconds it may lose them again."""

    def done() -> bool:
        put(consul, number)
        return True

    wait_until(done, 30, "Consul to take a change")


def went_back(web: Watched) -> bool:
    return any(is_backwards for _, _, is_backwards in web.seen)


def is_critical(web: Watched, instance_id: str) -> bool:
    reading = web.state.reading
    assert reading is not None
    return {one.status for one in reading.instances if one.instance_id == instance_id} == {CheckStatus.CRITICAL}


def believed_losses(web: Watched, *numbers: int) -> list[Any]:
    """The trusted readings without a mark that lack any of `numbers`, before the first that has one."""
    found = []
    for seen, doubt, is_backwards in web.seen:
        if is_backwards:
            break
        if doubt is None and not set(ids(*numbers)) <= set(seen):
            found.append(seen)
    return found


@contextmanager
def grown_since_a_snapshot(work: Path, consistency: str) -> Iterator[tuple[Consul, bytes, Watched]]:
    """A Consul with eight instances, of which a snapshot has the first four, and the watch that saw all eight."""
    with Consul(work) as consul, Chaos(work, consul.host, consul.port) as counting:
        put(consul, *OLD)
        snapshot = consul.snapshot()
        put(consul, *EIGHT[4:])
        with watching(ConsulConfig(address=counting.url, consistency=consistency)) as web:  # type: ignore[arg-type]
            web.wait(*EIGHT)
            wait_until(lambda: counting.seen().asked.get(SERVERS, 0) > 1, 20, "the servers to be watched, too")
            time.sleep(0.3)  # until Consul holds the query, which has just been sent
            web.seen.clear()
            yield consul, snapshot, web


@pytest.mark.parametrize("consistency", ["cached", "stale", "default"])
def test_a_snapshot_restored_into_a_running_consul_is_noticed_at_once(work: Path, consistency: str) -> None:
    with grown_since_a_snapshot(work, consistency) as (consul, snapshot, web):
        consul.restore(snapshot)

        wait_until(lambda: went_back(web), 20, "the older state to be noticed")
        assert believed_losses(web, *EIGHT) == []
        put(consul, 9)
        web.wait(*OLD, 9)


@pytest.mark.parametrize("consistency", ["cached", "stale", "default"])
def test_a_restored_snapshot_is_noticed_though_the_service_changed_at_once_after_it(
    work: Path, consistency: str
) -> None:
    with grown_since_a_snapshot(work, consistency) as (consul, snapshot, web):
        consul.restore(snapshot)
        consul.remove("n1", "w1")

        web.wait(*OLD[1:])
        assert went_back(web)
        assert believed_losses(web, *EIGHT) == []


def test_an_instance_that_a_snapshot_brought_back_shows_it_though_nothing_else_did(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers.ServersWatch, "run", lambda _self: None)
    with Consul(work) as consul:
        put(consul, *OLD)
        snapshot = consul.snapshot()
        consul.remove("n1", "w1")
        put(consul, 5)
        with watching(ConsulConfig(address=consul.url)) as web:
            web.wait(*OLD[1:], 5)

            consul.restore(snapshot)
            put(consul, 5, 6)

            web.wait(*OLD, 5, 6)
            assert went_back(web)


@pytest.mark.parametrize("consistency", ["cached", "stale", "default"])
def test_a_server_that_stops_and_starts_again_is_no_restored_snapshot(work: Path, consistency: str) -> None:
    with Cluster(work, servers=1) as cluster:
        put(cluster.client, *EIGHT)
        config = ConsulConfig(address=cluster.client.url, consistency=consistency)  # type: ignore[arg-type]
        with watching(config) as web:
            web.wait(*EIGHT)
            wait_until(
                lambda: web.watches._servers and web.watches._servers._index, 10, "the servers to be watched, too"
            )

            cluster.servers[1].stop()
            web.wait(*EIGHT, doubt=Doubt.AWAY, seconds=30)
            cluster.start_all_servers()
            web.wait(*EIGHT, seconds=30)
            one = web.watches._watches["web"]
            wait_until(lambda: not one._watching.trust.is_rewind_open(time.monotonic()), 20, "the leader to be heard")
            cluster.client.remove("n1", "w1")

            web.wait(*EIGHT[1:], seconds=30)
            restored = one._watching.trust.warned(time.monotonic(), is_rewound=True)
            one._watching = attrs.evolve(one._watching, trust=restored)  # as where the leader has not been heard yet
            cluster.client.put("web", "w2", node="n2", address="10.0.0.1", port=2, status="critical")

            wait_until(lambda: is_critical(web, "w2"), 30, "the check that failed since")
            assert not went_back(web)


# -- what a real one cannot be made to show when it is needed ------------------------------------------------------


@pytest.mark.parametrize("consistency", ["cached", "stale", "default"])
def test_a_restored_snapshot_that_is_told_while_the_leader_is_asked_counts_for_what_the_leader_says(
    monkeypatch: pytest.MonkeyPatch, consistency: str
) -> None:
    confirm = Reader.confirm
    is_told = threading.Event()

    def told_meanwhile(reader: Reader, seen: Reading, *, is_again: bool) -> Finding:
        found = confirm(reader, seen, is_again=is_again)
        if not is_told.is_set():
            is_told.set()
            web.watches._look_afresh(is_rewound=True)
        return found

    monkeypatch.setattr(Reader, "confirm", told_meanwhile)
    with fake_consul() as fake:
        fake.views["default"] = attrs.evolve(fake.views["stale"])
        fake.show(*EIGHT, at=22)
        with watching(attrs.evolve(of(fake), consistency=consistency)) as web:  # type: ignore[arg-type]
            web.wait(*EIGHT)
            fake.show(*OLD[1:], at=23)

            web.wait(*OLD[1:])
            assert is_told.is_set()
            assert went_back(web)
            assert believed_losses(web, *EIGHT) == []


def test_a_safety_read_that_finds_an_older_state_is_settled_by_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_policy, "SAFETY_SECONDS", (0.3, 0.4))
    with fake_consul(*EIGHT) as fake, watching(of(fake)) as web:
        fake.show(*EIGHT, at=300)
        wait_until(lambda: web.state.index == 300, 10, "the first state")
        fake.show(*OLD, at=290, only="stale")
        wait_until(lambda: fake.of("consistent"), 10, "the leader to be asked, for the server may lag")
        assert sorted(web.ids) == ids(*EIGHT)

        fake.show(*OLD, at=290, only="consistent")

        web.wait(*OLD)
        assert went_back(web)


@pytest.mark.parametrize("consistency", ["cached", "stale", "default"])
@pytest.mark.parametrize("has_leader", [True, False])
def test_what_leaves_after_an_early_end_that_took_nothing_leaves_in_the_ordinary_way(
    consistency: str,
    has_leader: bool,  # noqa: FBT001
) -> None:
    with fake_consul() as fake:
        fake.views["default"] = attrs.evolve(fake.views["stale"])
        fake.show(*EIGHT, at=22)
        with watching(attrs.evolve(of(fake), consistency=consistency)) as web:  # type: ignore[arg-type]
            web.wait(*EIGHT)
            wait_until(
                lambda: web.watches._servers and web.watches._servers._index and fake.servers_reads > 1,
                10,
                "the servers to be watched",
            )
            if not has_leader:
                fake.show(*EIGHT, at=22, only="consistent", status=500)
            fake.restore()
            wait_until(lambda: fake.of("consistent"), 10, "the leader to be asked")
            if not has_leader:
                wait_until(lambda: len(fake.of("consistent")) > 1, 10, "it to be asked again")
                fake.show(*EIGHT, at=22, only="consistent", status=200)
                begun = len(fake.of("consistent"))
                wait_until(lambda: len(fake.of("consistent")) > begun, 10, "its answer")
            fake.show(*EIGHT[1:], at=23)

            web.wait(*EIGHT[1:])
            assert not went_back(web)
            begun = len(fake.of("consistent"))
            fake.show(*EIGHT[2:], at=24)
            web.wait(*EIGHT[2:])
            assert len(fake.of("consistent")) == begun


@pytest.mark.parametrize("consistency", ["cached", "stale", "default"])
def test_a_stream_that_gives_the_old_state_after_the_new_one_is_not_believed(consistency: str) -> None:
    with fake_consul() as fake:
        fake.is_streaming = True
        fake.views["default"] = attrs.evolve(fake.views["stale"])
        fake.show(*EIGHT, at=22)
        with watching(attrs.evolve(of(fake), consistency=consistency)) as web:  # type: ignore[arg-type]
            web.wait(*EIGHT)
            wait_until(
                lambda: web.watches._servers and web.watches._servers._index and fake.servers_reads > 1,
                10,
                "the servers to be watched",
            )
            for name in ("stale", "default", "consistent"):
                fake.show(1, at=21, only=name)
            fake.restore()
            wait_until(lambda: went_back(web), 10, "the older state to be noticed")
            web.seen.clear()
            asked = len(fake.of("consistent"))

            fake.show(*OLD, at=23, only="cached")
            fake.restore()
            wait_until(lambda: len(fake.of("consistent")) >= asked + 2, 20, "the leader to be asked about the stream")
            assert {tuple(seen) for seen, doubt, _ in web.seen if doubt is None} <= {("w1",)}
            assert web.ids == ["w1"]

            fake.show(1, 9, at=24)
            web.wait(1, 9)


@pytest.mark.parametrize("consistency", ["cached", "stale", "default"])
def test_a_stream_below_the_index_that_is_known_is_followed_and_not_waited_for(consistency: str) -> None:
    with fake_consul() as fake:
        fake.is_streaming = True
        fake.views["default"] = attrs.evolve(fake.views["stale"])
        fake.show(*OLD, at=300)
        with watching(attrs.evolve(of(fake), consistency=consistency)) as web:  # type: ignore[arg-type]
            web.wait(*OLD)
            fake.show(*OLD, at=20, only="cached")
            begun = len(fake.reads)
            wait_until(lambda: any(read.index == 20 for read in fake.reads[begun:]), 20, "the stream's own index")

            fake.show(*OLD, 9, at=21, only="cached")
            for name in ("stale", "default", "consistent"):
                fake.show(*OLD, 9, at=301, only=name)

            web.wait(*OLD, 9)
            assert not went_back(web)


# -- clusters -------------------------------------------------------------------------------------------------


def test_servers_that_lose_their_quorum_are_doubted_while_nothing_changes(work: Path) -> None:
    with Cluster(work) as cluster:
        put(cluster.client, *OLD)
        with watching(ConsulConfig(address=cluster.client.url)) as web:
            web.wait(*OLD)
            leader = cluster.leader()
            for number in {1, 2, 3} - {leader}:
                cluster.kill_server(number)

            wait_until(lambda: web.doubt in {Doubt.NO_LEADER, Doubt.AWAY}, 60, "a doubt")
            wait_until(lambda: web.doubt is Doubt.NO_LEADER, 60, "its reason")
            assert sorted(web.ids) == ids(*OLD)
            for number in {1, 2, 3} - {leader}:
                cluster.start_server(number)
            web.wait(*OLD, seconds=60)


def test_servers_that_lost_their_state_are_followed_and_what_they_had_is_never_believed_again(work: Path) -> None:
    with Cluster(work) as cluster:
        for _ in range(3):  # so that the new index is the lower one, whatever else the new servers write
            put(cluster.client, *OLD)
            for number in OLD:
                cluster.client.remove(f"n{number}", f"w{number}")
        put(cluster.client, *OLD)
        with watching(ConsulConfig(address=cluster.client.url)) as web:
            web.wait(*OLD)

            cluster.wipe_all_servers()
            web.wait(*OLD, doubt=Doubt.AWAY)
            web.seen.clear()
            time.sleep(AWAY_SECONDS)
            assert [doubt for _, doubt, _ in web.seen if doubt is None] == []
            cluster.start_all_servers()

            wait_until(lambda: went_back(web), 60, "the loss to be noticed")
            put_when_possible(cluster.client, 9)
            web.wait(9, seconds=30)
            put_when_possible(cluster.client, 8)
            web.wait(8, 9, seconds=30)
            after = web.seen[next(at for at, one in enumerate(web.seen) if one[2]) :]
            assert [seen for seen, doubt, _ in after if doubt is None and set(ids(*OLD)) & set(seen)] == []


def test_another_datacenter_that_lost_its_state_is_followed_at_once(work: Path) -> None:
    with Cluster(work, servers=1, is_joined=True) as near, Cluster(work, servers=1, beside=near) as far:
        wait_until(lambda: near.client.request("GET", "/v1/health/service/consul?dc=dc2&stale"), 60, "dc2 in dc1")
        put(far.client, *OLD)
        with watching(ConsulConfig(address=near.client.url, datacenter="dc2")) as web:
            web.wait(*OLD)
            wait_until(
                lambda: web.watches._servers and web.watches._servers._index, 10, "the servers to be watched, too"
            )

            far.wipe_all_servers()
            web.wait(*OLD, doubt=Doubt.AWAY)
            web.seen.clear()
            time.sleep(AWAY_SECONDS)
            assert [doubt for _, doubt, _ in web.seen if doubt is None] == []
            far.start_all_servers()
            put_when_possible(far.client, 9)

            web.wait(9, seconds=40)
            assert went_back(web)
            after = web.seen[next(at for at, one in enumerate(web.seen) if one[2]) :]
            assert [seen for seen, doubt, _ in after if doubt is None and set(ids(*OLD)) & set(seen)] == []
            began = len(web.seen)
            put_when_possible(far.client, 10)
            web.wait(9, 10, seconds=30)
            assert len(web.seen) > began


def test_a_blocking_query_that_was_not_sent_yet_when_it_was_interrupted_is_never_sent() -> None:
    with fake_consul(1, 2) as fake:
        reader = Reader("web", of(fake), Shared(of(fake)), threading.Event())
        index = reader.read(Read("stale")).index
        reader.interrupt()

        with pytest.raises(Interrupted):
            reader.read(Read("stale", index=index, wait_seconds=60))

        assert [read.index for read in fake.of("stale")] == [0]
        assert reader.read(Read("stale")).index == index
        assert reader.read(Read("stale", index=index - 1, wait_seconds=60)).index == index
        reader.leave()
