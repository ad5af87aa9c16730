"""The watch of Consul's servers: what it takes for trouble, and what it does not."""

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul.client import ConsulClient
from hapsync.consul.connection import Answer
from hapsync.consul.query import Query
from hapsync.consul.read import Shared
from hapsync.consul.servers import ServersWatch
from hapsync.consul.wait_limit import ALIKE_SHORT, MOST_IN_A_ROW, SHORTEST_SECONDS, Holding
from hapsync.errors import CutShort
from tests.edge.fake_consul import FakeConsul, fake_consul
from tests.harness.processes import wait_until


@attrs.frozen
class Told:
    """What the watch of the servers of `fake` told: each time, whether a snapshot may have been restored."""

    fake: FakeConsul
    watch: ServersWatch
    seen: list[bool]

    def waits(self) -> None:
        wait_until(lambda: self.watch._index, 10, "a blocking query")

    def change(self, **fields: object) -> None:
        self.fake.change_servers(**fields)


@contextmanager
def watching() -> Iterator[Told]:
    seen: list[bool] = []
    with fake_consul() as fake:
        config = ConsulConfig(address=fake.url, timeout_seconds=2)
        watch = ServersWatch(config, Shared(config), lambda *, is_rewound: seen.append(is_rewound))
        watch.start()
        told = Told(fake, watch, seen)
        try:
            told.waits()
            yield told
        finally:
            watch.stop()
            fake.close()
            watch.join(20)
            assert not watch.is_alive()


def test_a_query_that_ends_early_with_nothing_new_is_a_restored_snapshot() -> None:
    with watching() as told:
        wait_until(lambda: told.fake.servers_reads > 1, 10, "the blocking query to be there")
        told.fake.restore()

        wait_until(lambda: told.seen == [True], 10, "it to be told")


def test_servers_that_come_and_go_are_no_trouble() -> None:
    with watching() as told:
        told.change(index=8)
        told.change(index=9)
        wait_until(lambda: told.fake.servers_reads > 2, 10, "the blocking query after it")

        assert told.seen == []


def test_an_index_that_fell_is_told() -> None:
    with watching() as told:
        told.change(index=3)

        wait_until(lambda: told.seen == [False], 10, "it to be told")


def test_a_server_that_went_away_is_told_and_so_is_its_return() -> None:
    with watching() as told:
        told.change(status=500)
        wait_until(lambda: told.seen == [False], 10, "it to be told")
        told.change(status=200)

        wait_until(lambda: told.seen == [False, False], 10, "its return to be told")


@pytest.mark.parametrize("headers", [{"X-Consul-KnownLeader": "false"}, {"X-Consul-LastContact": "12000"}])
def test_a_server_that_has_no_leader_or_lost_touch_with_it_is_told_once(headers: dict[str, str]) -> None:
    with watching() as told:
        told.change(index=8, headers=headers)
        wait_until(lambda: told.seen == [False], 10, "it to be told")
        reads = told.fake.servers_reads
        wait_until(lambda: told.fake.servers_reads >= reads + 2, 20, "it to be asked again")

        assert told.seen == [False]


def test_what_the_token_may_not_read_of_consuls_own_nodes_is_no_trouble() -> None:
    with watching() as told:
        told.change(index=8, headers={"X-Consul-Results-Filtered-By-ACLs": "true"})
        wait_until(lambda: told.fake.servers_reads > 2, 10, "the blocking query after it")

        assert told.seen == []


def test_only_an_answer_long_before_its_time_is_early() -> None:
    holding = Holding()

    assert not holding.is_early(10.3, 10)
    assert not holding.is_early(8.0, 10)
    assert holding.is_early(0.01, 10)
    assert holding.is_early(5.0, 10)
    assert not holding.is_early(5.1, 10)  # the servers' own bound, it seems
    assert not holding.is_early(5.2, 10)
    assert holding.is_early(0.01, 10)


def test_a_consul_that_holds_nothing_back_is_no_evidence_without_end() -> None:
    holding = Holding()

    assert [holding.is_early(0.001, 10) for _ in range(6)] == [*[True] * MOST_IN_A_ROW, *[False] * 3]
    assert not holding.is_early(10, 10)
    assert holding.is_early(0.001, 10)


def test_it_ends_at_once_in_the_middle_of_a_query() -> None:
    with watching() as told:
        told.watch.stop()
        told.watch.join(20)

        assert not told.watch.is_alive()


def test_queries_cut_within_a_second_are_failures_and_no_timeout_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[CutShort] = []
    ask = ServersWatch._ask

    def cut(watch: ServersWatch, agent: ConsulClient, query: Query) -> Answer:
        if query.index:
            cuts.append(CutShort("cut", SHORTEST_SECONDS / 2))
            raise cuts[-1]
        return ask(watch, agent, query)

    with watching() as told:
        monkeypatch.setattr(ServersWatch, "RETRY_SECONDS", (0.0, 0.0))
        monkeypatch.setattr(ServersWatch, "_ask", cut)
        told.change(index=8)
        wait_until(lambda: len(cuts) > ALIKE_SHORT, 20, "cuts enough")

        assert told.watch._shared.wait_limit.longest_seconds() == ConsulConfig().wait_seconds
