"""What a watch believes, when it asks twice, and what it makes of a Consul that is away, old, or shows too little."""

import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul import read as reader, watch_policy, watch_state
from hapsync.consul.health import parse_reading
from hapsync.consul.watch import Watches, WatchState
from hapsync.model.catalog import Doubt, Reading
from tests.edge.fake_consul import FakeConsul, entries, fake_consul
from tests.harness.cluster import Cluster
from tests.harness.consul import Consul, acl_consul
from tests.harness.ports import free_port
from tests.harness.processes import wait_until
from tests.harness.tools import consul_path, consul_version

TEN = tuple(range(1, 11))


@attrs.frozen
class Watched:
    """The watch of the service `web`, and every reading it published, in order."""

    watches: Watches
    seen: "list[tuple[list[str], Doubt | None, bool]]"
    last: "list[Reading]"
    """The reading published last, alone, also where `seen` was cleared."""

    @property
    def state(self) -> WatchState:
        return self.watches.states()["web"]

    @property
    def ids(self) -> list[str]:
        return [one.instance_id for one in self.state.reading.instances] if self.state.reading else ["unread"]

    @property
    def doubt(self) -> Doubt | None:
        assert self.state.reading is not None
        return self.state.reading.doubt

    def wait(self, *numbers: int, doubt: Doubt | None = None, seconds: float = 10) -> None:
        """Wait until the watch knows these instances with that doubt, and has published them."""
        wanted = [f"w{number}" for number in numbers]

        def is_published() -> bool:
            if sorted(self.ids) != sorted(wanted) or self.doubt is not doubt:
                return False
            [last] = self.last
            return sorted(one.instance_id for one in last.instances) == sorted(wanted) and last.doubt is doubt

        try:
            wait_until(is_published, seconds, f"{wanted} with {doubt}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the watch knows {self.state} and published {self.last}") from error


@contextmanager
def watching(config: ConsulConfig, known: Mapping[str, Reading] | None = None) -> Iterator[Watched]:
    seen: list[tuple[list[str], Doubt | None, bool]] = []
    last: list[Reading] = []

    def note(service: str) -> None:
        reading = watches.catalog().readings[service]
        watches.acknowledge([reading])
        seen.append(([one.instance_id for one in reading.instances], reading.doubt, reading.is_backwards))
        if service == "web":
            last[:] = [reading]

    watches = Watches(config, note) if known is None else Watches(config, note, known)
    watches.follow(["web"])
    try:
        yield Watched(watches, seen, last)
    finally:
        watches.stop()


def of(fake: FakeConsul) -> ConsulConfig:
    return ConsulConfig(address=fake.url, timeout_seconds=2)


def ids(*numbers: int) -> list[str]:
    return [f"w{number}" for number in numbers]


def known(*numbers: int, doubt: Doubt | None = None) -> Mapping[str, Reading]:
    return {"web": attrs.evolve(parse_reading("web", entries(*numbers)), doubt=doubt)}


# -- asking twice ---------------------------------------------------------------------------------------------


def test_one_of_ten_that_leaves_costs_no_extra_read() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)

        fake.show(*TEN[1:])

        web.wait(*TEN[1:])
        assert {read.consistency for read in fake.reads} == {"cached"}


def test_half_of_ten_that_leave_are_asked_for_once_more_and_then_believed() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)

        fake.show(*TEN[5:])

        web.wait(*TEN[5:])
        assert [read.index for read in fake.of("consistent")] == [0]
        assert fake.of("consistent", "consul") == []
        assert [doubt for _, doubt, _ in web.seen] == [None, None]


def test_an_empty_answer_counts_once_the_canary_is_seen() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)

        fake.show()

        web.wait()
        assert len(fake.of("consistent", "consul")) == len(fake.of("consistent")) == 1
        assert web.state.trusted == web.state.reading


def test_a_leader_that_says_empty_where_the_cache_says_half_counts_only_once_the_canary_is_seen() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)
        fake.canary["consistent"].numbers = ()
        fake.show(only="consistent")

        fake.show(*TEN[5:], only="cached")

        wait_until(lambda: len(web.seen) > 1, 10, "what came of it")
        assert web.seen[1][:2] == (ids(*sorted(TEN[5:], key=str)), Doubt.UNCONFIRMED)
        assert len(fake.of("consistent", "consul")) == 1


def test_without_a_canary_the_leader_alone_confirms_an_empty_answer() -> None:
    with fake_consul(*TEN) as fake, watching(attrs.evolve(of(fake), canary="")) as web:
        web.wait(*TEN)

        fake.show()

        web.wait()
        assert {read.service for read in fake.reads} == {"web"}


def test_what_the_leader_does_not_confirm_is_never_seen() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)

        fake.show(1, only="cached")

        wait_until(lambda: fake.of("stale"), 10, "the watch to leave the cache that is wrong")
        assert [seen for seen, _, _ in web.seen] == [ids(*sorted(TEN, key=str))]


def test_what_cannot_be_confirmed_is_doubted_and_asked_again_until_it_is() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)
        trusted = web.state.trusted
        fake.views["consistent"].status = 500

        fake.show(1, 2, 11)

        web.wait(1, 2, 11, doubt=Doubt.UNCONFIRMED)
        assert (web.state.trusted, web.state.error) == (trusted, None)
        wait_until(lambda: len(fake.of("stale")) >= 3, 10, "it to be asked again")
        assert {read.index for read in fake.of("stale")} == {0}
        fake.views["consistent"].status = 200
        web.wait(1, 2, 11)


def test_a_consul_that_answers_no_more_after_an_answer_that_it_did_not_confirm_is_away() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)
        fake.views["consistent"].status = 500
        fake.show(1, 2)
        web.wait(1, 2, doubt=Doubt.UNCONFIRMED)

        for view in fake.views.values():
            view.status = 500

        web.wait(1, 2, doubt=Doubt.AWAY)


def test_what_comes_back_unconfirmed_is_harmless_again() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)
        fake.views["consistent"].status = 500
        fake.show(1, 2)
        web.wait(1, 2, doubt=Doubt.UNCONFIRMED)

        fake.show(*TEN[1:])

        web.wait(*TEN[1:])


def test_while_the_canary_is_not_seen_nothing_empty_is_believed_and_the_leader_is_left_alone() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)
        for view in fake.canary.values():
            view.numbers = ()
        fake.show()
        web.wait(doubt=Doubt.UNCONFIRMED)
        begin = len(fake.reads)

        time.sleep(4)

        assert web.doubt is Doubt.UNCONFIRMED
        assert 4 <= len(fake.reads) - begin <= 16
        assert len(fake.of("consistent", "consul")) == 1
        fake.show(*TEN)
        web.wait(*TEN)


def test_a_new_token_in_the_file_is_used_while_in_doubt(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("old")
    with fake_consul(*TEN) as fake, watching(attrs.evolve(of(fake), token_file=str(token_file))) as web:
        web.wait(*TEN)
        for view in fake.canary.values():
            view.numbers = ()
        fake.show()
        web.wait(doubt=Doubt.UNCONFIRMED)

        token_file.write_text("new")

        wait_until(lambda: fake.reads[-1].token == "new", 10, "the new token")
        assert fake.reads[0].token == "old"


def test_a_filtered_answer_takes_nothing_away_however_often_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_state, "FILTERED_WAIT_SECONDS", 1.0)
    filtered = {"X-Consul-Results-Filtered-By-ACLs": "true"}
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)

        fake.views["stale"].headers = dict(filtered)
        fake.show(1, 2, only="stale")
        fake.show(1, 2, only="cached", headers={"X-Cache": "HIT", **filtered})

        web.wait(1, 2, doubt=Doubt.FILTERED)
        time.sleep(2)
        assert web.doubt is Doubt.FILTERED
        assert fake.of("consistent") == []
        assert len(fake.of("stale")) <= 6
        fake.show(*TEN, only="stale", headers={})
        web.wait(*TEN)


def test_an_answer_without_a_leader_is_asked_again_without_waiting() -> None:
    with fake_consul(*TEN) as fake, watching(attrs.evolve(of(fake), consistency="stale")) as web:
        web.wait(*TEN)

        fake.show(*TEN, only="stale", headers={"X-Consul-KnownLeader": "false", "X-Consul-LastContact": "15000"})

        web.wait(*TEN, doubt=Doubt.NO_LEADER)
        begin = len(fake.reads)
        wait_until(lambda: len(fake.reads) >= begin + 3, 10, "it to be asked again")
        assert {read.index for read in fake.reads[begin:]} == {0}
        fake.show(*TEN, only="stale", headers={"X-Consul-KnownLeader": "true", "X-Consul-LastContact": "0"})
        web.wait(*TEN)
        wait_until(lambda: fake.reads[-1].index, 10, "a blocking query")


def test_a_leader_that_is_only_newer_is_no_reason_to_leave_the_cache() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)
        fake.show(*TEN[5:], only="consistent", at=40)

        fake.show(*TEN[4:], only="cached", at=39)

        web.wait(*TEN[5:])
        wait_until(lambda: fake.of("cached")[-1].index == 40, 10, "the next query through the cache")
        assert fake.of("stale") == []
        fake.show(*TEN[5:], only="cached", at=40)
        fake.show(*TEN, only="cached", at=41)
        web.wait(*TEN)
        assert len(fake.of("consistent")) == 1


# -- the index ------------------------------------------------------------------------------------------------


def test_an_index_that_the_leader_confirms_to_be_lower_is_told_once() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        fake.show(*TEN, at=300)
        wait_until(lambda: web.state.index == 300, 10, "the first state")

        fake.show(1, 2, at=5)

        web.wait(1, 2)
        wait_until(lambda: web.state.index == 5, 10, "the lower index")
        fake.show(1, 2, 3, at=6)
        web.wait(1, 2, 3)
        assert [is_backwards for _, _, is_backwards in web.seen].count(True) == 1
        assert web.seen[-1] == (ids(1, 2, 3), None, False)


def test_a_server_that_lags_behind_is_not_believed() -> None:
    with fake_consul(*TEN) as fake, watching(attrs.evolve(of(fake), consistency="stale")) as web:
        fake.show(*TEN, at=300)
        wait_until(lambda: web.state.index == 300, 10, "the first state")

        fake.show(*TEN[1:], at=290, only="stale", status=500)
        fake.show(*TEN[1:], at=290, only="stale", status=200)

        wait_until(lambda: len(fake.of("consistent")) >= 2, 10, "the leader to be asked")
        assert all((seen, backwards) == (ids(*sorted(TEN, key=str)), False) for seen, _, backwards in web.seen)


def test_that_it_went_backwards_is_told_until_a_pass_acknowledged_it_whoever_else_asks() -> None:
    with fake_consul(*TEN) as fake:
        watches = Watches(of(fake), lambda _service: None)
        watches.follow(["web"])
        try:

            def index() -> int:
                return watches.states()["web"].index

            fake.show(*TEN, at=300)
            wait_until(lambda: index() == 300, 10, "the first state")
            fake.show(1, 2, at=5)
            wait_until(lambda: index() == 5, 10, "the lower index")
            fake.show(1, 2, 3, at=6)
            wait_until(lambda: index() == 6, 10, "the next index")

            watches.acknowledge([attrs.evolve(watches.catalog().readings["web"], is_backwards=False)])
            for _ in range(3):
                assert watches.catalog().readings["web"].is_backwards
            fake.show(1, 2, at=7)
            wait_until(lambda: index() == 7, 10, "the index after it")
            assert watches.catalog().readings["web"].is_backwards
            watches.acknowledge(watches.catalog().readings.values())
            fake.show(1, 2, 3, 4, at=8)
            wait_until(lambda: index() == 8, 10, "the index after that")
            assert not watches.catalog().readings["web"].is_backwards
        finally:
            watches.stop()


# -- the agent's cache ----------------------------------------------------------------------------------------


def test_a_cache_out_of_touch_is_passed_by_until_it_is_in_touch_and_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_state, "CACHE_RETRY_SECONDS", 1.0)
    monkeypatch.setattr(watch_policy, "CACHE_RETRY_SECONDS", 1.0)
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)
        fake.show(1, 2, 3, only="stale", at=50)
        fake.show(1, 2, 3, only="consistent", at=50)

        fake.show(*TEN, only="cached", headers={"X-Cache": "HIT", "Age": "7"})

        web.wait(1, 2, 3)
        assert fake.of("stale")[0].index == 0
        wait_until(lambda: fake.of("stale")[-1].index == 50, 10, "a blocking query past the cache")
        tried = len(fake.of("cached"))
        wait_until(lambda: len(fake.of("cached")) >= tried + 2, 10, "the cache to be tried twice")
        assert {read.index for read in fake.of("cached")[tried:]} == {0}
        fake.show(*TEN, only="cached", headers={"X-Cache": "HIT", "Age": "0"})
        tried = len(fake.of("cached"))
        wait_until(lambda: len(fake.of("cached")) >= tried + 2, 10, "the cache to be tried twice")
        assert {read.index for read in fake.of("cached")[tried:]} == {0}
        fake.show(1, 2, 3, only="cached", at=50)
        wait_until(lambda: fake.of("cached")[-1].index == 50, 10, "a blocking query through the cache")
        assert {seen for seen, _, _ in map(_frozen, web.seen)} == {tuple(sorted(ids(*TEN))), tuple(ids(1, 2, 3))}
        assert web.state.is_cached


def _frozen(seen: tuple[list[str], Doubt | None, bool]) -> tuple[tuple[str, ...], Doubt | None, bool]:
    return tuple(seen[0]), seen[1], seen[2]


def test_an_old_cache_is_all_there_is_so_it_is_used_in_doubt() -> None:
    with fake_consul(*TEN) as fake:
        fake.views["cached"].headers["Age"] = "400"
        fake.views["stale"].status = fake.views["consistent"].status = 500
        with watching(of(fake)) as web:
            web.wait(*TEN, doubt=Doubt.STALE)
            wait_until(lambda: web.state.error and len(fake.of("stale")) >= 4, 10, "the servers to be asked again")
            assert web.doubt is Doubt.STALE

            fake.show(*TEN[1:], only="stale", status=200)

            web.wait(*TEN[1:])
            assert web.state.error is None


# -- away -----------------------------------------------------------------------------------------------------


def test_a_consul_that_fails_is_away_and_its_next_answer_ends_that_though_nothing_changed() -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)
        trusted = web.state.trusted
        for view in fake.views.values():
            view.status = 500
        fake.show(*TEN)

        web.wait(*TEN, doubt=Doubt.AWAY)
        assert web.state.trusted is trusted
        for view in fake.views.values():
            view.status = 200
        web.wait(*TEN)

        assert [doubt for _, doubt, _ in web.seen] == [None, Doubt.AWAY, None]


@pytest.mark.parametrize("before", [None, Doubt.SNAPSHOT, Doubt.STALE])
def test_what_was_known_is_given_out_once_consul_failed_and_not_before(before: Doubt | None) -> None:
    with fake_consul(*TEN) as fake:
        for view in fake.views.values():
            view.status = 500
            view.delay_seconds = 1.5
        with watching(of(fake), known(1, 2, 3, doubt=before)) as web:
            time.sleep(0.25)
            assert web.watches.catalog().readings == {}

            web.wait(1, 2, 3, doubt=Doubt.SNAPSHOT)
            assert web.state.trusted is None
            for view in fake.views.values():
                view.status = 200
            web.wait(*TEN)
            assert web.state.trusted == web.state.reading


def test_a_fallback_stays_one() -> None:
    config = ConsulConfig(address=f"http://127.0.0.1:{free_port()}")
    with watching(config, known(1, doubt=Doubt.FALLBACK)) as web:
        web.wait(1, doubt=Doubt.FALLBACK)


def test_a_first_answer_that_takes_too_long_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_state, "FIRST_READ_SECONDS", 0.3)
    with fake_consul(*TEN) as fake:
        for view in fake.views.values():
            view.delay_seconds = 1.0
        with watching(of(fake), known(1, 2, 3)) as web:
            web.wait(*TEN)
            assert web.seen[0] == (ids(1, 2, 3), Doubt.SNAPSHOT, False)


def test_a_consul_that_answers_gives_nothing_of_what_was_known() -> None:
    with fake_consul(1) as fake, watching(of(fake), known(1, 2)) as web:
        web.wait(1)

        assert web.seen == [(ids(1), None, False)]


def test_the_first_answer_is_measured_by_what_was_known() -> None:
    with fake_consul(1, 2) as fake:
        fake.views["consistent"].status = 500
        with watching(of(fake), known(*TEN)) as web:
            web.wait(1, 2, doubt=Doubt.UNCONFIRMED)
        with watching(of(fake), known(*TEN, doubt=Doubt.FALLBACK)) as web:
            web.wait(1, 2)


# -- faults ---------------------------------------------------------------------------------------------------


def test_a_defect_in_reading_one_service_ends_neither_its_watch_nor_another(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = threading.Event()

    def parse(service: str, body: bytes) -> Reading:
        if broken.is_set() and service == "web":
            raise ZeroDivisionError
        return parse_reading(service, body)

    monkeypatch.setattr(reader, "parse_reading", parse)
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.watches.follow(["web", "other"])
        wait_until(lambda: len(web.watches.catalog().readings) == 2, 10, "both")
        broken.set()
        fake.show(*TEN[1:])
        wait_until(lambda: web.state.error, 10, "the defect to be told")
        assert "ZeroDivisionError" in (web.state.error or "")
        begin = len(fake.of("stale"))
        time.sleep(2)
        assert len(fake.of("stale")) - begin <= 12
        assert web.watches.states()["other"].error is None

        broken.clear()

        web.wait(*TEN[1:])


def test_a_defect_in_telling_the_worker_does_not_end_the_watch() -> None:
    calls: queue.SimpleQueue[str] = queue.SimpleQueue()

    def tell(service: str) -> None:
        calls.put(service)
        raise ZeroDivisionError

    with fake_consul(*TEN) as fake:
        watches = Watches(of(fake), tell)
        watches.follow(["web"])
        try:
            for number in range(3):
                calls.get(timeout=10)
                fake.show(*TEN[number:])
            wait_until(lambda: len(watches.catalog().readings["web"].instances) == 8, 10, "the last state")
        finally:
            watches.stop()


@pytest.mark.parametrize("body", [b'[{"Node":', b"", b"{}", b'[{"Node":{}}]', b"\xff"])
def test_half_an_answer_changes_nothing_but_the_error(body: bytes) -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)

        fake.show(body=body)

        web.wait(*TEN, doubt=Doubt.AWAY)
        assert web.state.error
        fake.show(*TEN[1:], body=None)
        web.wait(*TEN[1:])


@pytest.mark.parametrize("status", [403, 429, 503, 301])
def test_a_refusal_keeps_the_state_and_is_asked_again_at_leisure(status: int) -> None:
    with fake_consul(*TEN) as fake, watching(of(fake)) as web:
        web.wait(*TEN)
        for view in fake.views.values():
            view.status = status
        fake.show(*TEN)
        web.wait(*TEN, doubt=Doubt.AWAY)
        begin = len(fake.reads)

        time.sleep(3)

        assert 2 <= len(fake.reads) - begin <= 14
        assert str(status) in (web.state.error or "")


def test_connections_that_are_reset_are_tried_again_at_leisure() -> None:
    accepted: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reset() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                accepted.append(time.monotonic())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        config = ConsulConfig(address=f"http://127.0.0.1:{listener.getsockname()[1]}")
        with watching(config, known(1)) as web:
            time.sleep(3)
            assert web.doubt is Doubt.SNAPSHOT
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()

    assert 3 <= len(accepted) <= 12


# -- the real ones --------------------------------------------------------------------------------------------

SAYS_FILTERED = (1, 11)
"""From this Consul on an answer says that the token may not read all of it."""
READ_ALL = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'


@pytest.mark.parametrize("consistency", ["cached", "stale", "default"])
def test_a_token_that_lost_its_rights_takes_nothing_away(work: Path, consistency: str) -> None:
    with acl_consul(work) as consul:
        consul.set_policy("reader", READ_ALL)
        token = consul.token("reader")
        for number in (1, 2, 3):
            consul.put("web", f"w{number}", node=f"n{number}", address="10.0.0.1", port=number)
        # Nothing of what such a token may not see ends a query at a stream, so none is held for long here.
        config = ConsulConfig(address=consul.url, token=token, consistency=consistency, wait_seconds=2)  # type: ignore[arg-type]
        with watching(config) as web:
            web.wait(1, 2, 3)
            # A stream that is subscribed while the rights change may keep those it was subscribed with.
            consul.put("web", "w5", node="n5", address="10.0.0.1", port=5)
            web.wait(1, 2, 3, 5)
            time.sleep(0.5)

            consul.set_policy("reader", "")
            consul.put("web", "w4", node="n4", address="10.0.0.1", port=4)

            doubt = Doubt.UNCONFIRMED if consul_version(consul_path()) < SAYS_FILTERED else Doubt.FILTERED
            web.wait(doubt=doubt)
            time.sleep(1)
            assert web.doubt is doubt
            assert web.state.trusted is not None
            consul.set_policy("reader", READ_ALL)
            web.wait(1, 2, 3, 4, 5)


def test_a_token_that_was_deleted_keeps_everything_and_its_successor_goes_on(work: Path) -> None:
    token_file = work / "token"
    with acl_consul(work) as consul:
        consul.set_policy("reader", READ_ALL)
        token = consul.token("reader")
        token_file.write_text(token)
        consul.put("web", "w1", node="n1", address="10.0.0.1", port=1)
        with watching(ConsulConfig(address=consul.url, token_file=str(token_file), consistency="stale")) as web:
            web.wait(1)

            consul.delete_token(token)
            consul.put("web", "w2", node="n2", address="10.0.0.1", port=2)

            wait_until(lambda: web.state.error, 10, "Consul to refuse the token")
            token_file.write_text("")
            time.sleep(1)
            assert web.ids[:1] == ["w1"]
            assert web.doubt is Doubt.AWAY
            token_file.write_text(consul.token("reader"))
            web.wait(1, 2)


def test_a_consul_that_came_back_with_nothing_went_backwards(work: Path) -> None:
    with Consul(work) as consul:
        for number in TEN:
            consul.put("web", f"w{number}", node="n1", address="10.0.0.1", port=number)
        with watching(ConsulConfig(address=consul.url)) as web:
            web.wait(*TEN)

            consul.restart()

            web.wait()
            assert (ids(), None, True) in web.seen
            consul.put("web", "w1", node="n1", address="10.0.0.1", port=1)
            web.wait(1)
            assert web.seen[-1] == (ids(1), None, False)


def test_servers_that_were_lost_are_followed_again_as_soon_as_they_are_back(work: Path) -> None:
    with Cluster(work) as cluster:
        for number in (1, 2, 3, 4):
            cluster.client.put("web", f"w{number}", node=f"n{number}", address="10.0.0.1", port=number)
        with watching(ConsulConfig(address=cluster.client.url)) as web:
            web.wait(1, 2, 3, 4)
            assert web.state.is_cached

            cluster.kill_all_servers()
            web.wait(1, 2, 3, 4, doubt=Doubt.AWAY)
            time.sleep(6)
            assert web.doubt is Doubt.AWAY
            cluster.start_all_servers()
            cluster.client.put("web", "w5", node="n5", address="10.0.0.1", port=5)

            web.wait(1, 2, 3, 4, 5)
            assert [doubt for _, doubt, _ in web.seen].count(Doubt.AWAY) <= 2


def test_without_a_quorum_the_first_reading_is_doubted_until_there_is_one(work: Path) -> None:
    with Cluster(work) as cluster:
        cluster.client.put("web", "w1", node="n1", address="10.0.0.1", port=1)
        leader = cluster.leader()
        for number in {1, 2, 3} - {leader}:
            cluster.kill_server(number)
        wait_until(lambda: not cluster.client.request("GET", "/v1/status/leader"), 30, "the leader to step down")
        with watching(ConsulConfig(address=cluster.client.url)) as web:
            web.wait(1, doubt=Doubt.NO_LEADER, seconds=20)

            for number in {1, 2, 3} - {leader}:
                cluster.start_server(number)

            web.wait(1, seconds=60)
