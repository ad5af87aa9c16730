"""How long Consul may hold an answer back: one key bounds it, and a proxy that cuts it is no outage."""

import logging
import socket
import threading
from pathlib import Path

import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul import wait_limit
from hapsync.consul.client import ConsulClient
from hapsync.consul.query import Query
from hapsync.consul.services import ListingWatch
from hapsync.consul.wait_limit import JITTER, Cuts, WaitLimit
from hapsync.consul.watch import Watches
from hapsync.errors import CutShort
from hapsync.model.catalog import Doubt
from tests.edge.fake_consul import fake_consul
from tests.harness.chaos import HEALTH, Chaos
from tests.harness.consul import Consul
from tests.harness.haproxy import HAProxy
from tests.harness.ports import free_port
from tests.harness.processes import wait_until

IMPATIENT = """
global
    stats socket {socket} mode 600 level admin
defaults
    timeout connect 2s
    timeout client 1500ms
    timeout server 1500ms
listen consul
    mode {mode}
    bind 127.0.0.1:{port}
    server agent 127.0.0.1:{target}
"""


def impatient(work: Path, mode: str, target: int) -> tuple[HAProxy, str]:
    """A HAProxy before Consul that gives up what takes 1.5 s: `http` says so (504), `tcp` hangs up."""
    port = free_port()
    file = work / "proxy.cfg"
    file.write_text(IMPATIENT.format(socket=work / "admin.sock", mode=mode, port=port, target=target))
    return HAProxy(file, work), f"http://127.0.0.1:{port}"


def cut(held_seconds: float, *, is_said: bool = False) -> CutShort:
    return CutShort("cut", held_seconds, is_said=is_said)


def test_no_wait_is_longer_than_the_key_with_what_consul_adds_to_it() -> None:
    bound = WaitLimit(30.0)

    assert bound.at_most(300) * JITTER == pytest.approx(30)
    assert bound.at_most(10) * JITTER == pytest.approx(10)


def test_a_proxy_that_says_so_shortens_the_wait_at_once() -> None:
    bound = WaitLimit(300.0)

    Cuts(bound).note(cut(60, is_said=True))

    assert bound.longest_seconds() == pytest.approx(54)


def test_a_connection_that_closes_shortens_the_wait_when_it_closes_again_after_the_same_time() -> None:
    bound = WaitLimit(300.0)
    one, other = Cuts(bound), Cuts(bound)

    one.note(cut(20))  # the agent restarted: all are cut, each after another time
    other.note(cut(60))
    one.note(cut(60))
    assert bound.longest_seconds() == 300
    one.note(cut(61))

    assert bound.longest_seconds() == pytest.approx(54.9)


def test_cuts_alike_with_a_whole_answer_between_them_are_no_timeout() -> None:
    bound = WaitLimit(300.0)
    one = Cuts(bound)

    for _ in range(5):
        one.note(cut(60))
        one.answered()

    assert bound.longest_seconds() == 300


def test_short_waits_are_shortened_by_what_says_nothing_only_after_several_cuts_alike() -> None:
    bound = WaitLimit(300.0)
    one = Cuts(bound)
    for _ in range(3):
        one.note(cut(2))
    assert bound.longest_seconds() == 300
    one.note(cut(2))

    assert bound.longest_seconds() == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("status", "is_said"),
    [("504 Gateway Time-out", True), ("408 Request Time-out", True), ("502 Bad Gateway", False)],
)
def test_of_what_a_proxy_answers_in_consuls_place_a_502_says_nothing_of_a_timeout(
    status: str,
    is_said: bool,  # noqa: FBT001
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(10_000)
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

        answering = threading.Thread(target=answer)
        answering.start()
        config = ConsulConfig(address=f"http://127.0.0.1:{server.getsockname()[1]}", timeout_seconds=5)
        agent = ConsulClient(config)
        with pytest.raises(CutShort) as raised:
            agent.read_health("web", Query("stale", index=7, wait_seconds=60))
        answering.join()
        agent.close()

    assert raised.value.is_said is is_said


def test_a_wait_is_never_lengthened_by_a_cut_and_the_full_one_is_tried_again_some_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound = WaitLimit(30.0)
    Cuts(bound).note(cut(60, is_said=True))
    assert bound.longest_seconds() == 30
    Cuts(bound).note(cut(10, is_said=True))
    assert bound.longest_seconds() == pytest.approx(9)

    monkeypatch.setattr(wait_limit, "FORGET_SECONDS", -1.0)

    assert bound.longest_seconds() == 30


def test_every_blocking_query_asks_for_no_more_than_the_key_allows() -> None:
    with fake_consul(1) as fake:
        watches = Watches(ConsulConfig(address=fake.url, consistency="stale", wait_seconds=7), lambda _: None)
        watches.follow(["web"])
        try:
            wait_until(lambda: len([read for read in fake.of("stale") if read.index]) > 1, 10, "a blocking query")
        finally:
            watches.stop()

    asked = {read.wait for read in fake.of("stale") if read.index}
    assert [round(float(text.removesuffix("ms")) / 1000 * JITTER, 1) for text in asked] == [7.0]


@pytest.mark.parametrize(("mode", "consistency"), [("http", "stale"), ("tcp", "stale"), ("tcp", "cached")])
def test_a_proxy_that_cuts_what_is_held_back_is_no_outage_and_is_given_less_to_hold(
    shared_consul: Consul, work: Path, caplog: pytest.LogCaptureFixture, mode: str, consistency: str
) -> None:
    caplog.set_level(logging.INFO)
    service = f"cut-{mode}-{consistency}"
    shared_consul.put(service, "c1", node="n1", address="10.0.0.1", port=1)
    doubts: set[Doubt | None] = set()

    def note(name: str) -> None:
        reading = watches.catalog().readings[name]
        doubts.add(reading.doubt)

    with Chaos(work, shared_consul.host, shared_consul.port) as counting:
        haproxy, url = impatient(work, mode, counting.port)
        with haproxy:
            watches = Watches(ConsulConfig(address=url, consistency=consistency), note)  # type: ignore[arg-type]
            watches.follow([service])
            try:
                wait_until(lambda: "a blocking query was cut after" in caplog.text, 20, "the wait to be shortened")
                before = counting.seen().asked[HEALTH + service]
                wait_until(lambda: counting.seen().asked[HEALTH + service] >= before + 3, 20, "whole long polls")
                shared_consul.put(service, "c2", node="n2", address="10.0.0.2", port=2)
                wait_until(
                    lambda: len(watches.catalog().readings[service].instances) == 2, 10, "a change to come through"
                )
            finally:
                watches.stop()

    assert doubts == {None}
    assert "stays as it was last read" not in caplog.text
    assert caplog.text.count("a blocking query was cut after") == 1


def test_the_list_of_services_comes_through_a_proxy_that_cuts_it(
    shared_consul: Consul, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    haproxy, url = impatient(work, "http", shared_consul.port)
    with haproxy:
        watch = ListingWatch(ConsulConfig(address=url), lambda: None)
        watch.start()
        try:
            wait_until(lambda: "a blocking query was cut after" in caplog.text, 20, "the wait to be shortened")
            shared_consul.put("listed-late", "l1", node="n1", address="10.0.0.1", port=1)
            wait_until(
                lambda: watch.listing is not None and "listed-late" in watch.listing.services, 20, "the new service"
            )
            assert watch.error is None
        finally:
            watch.stop()
            watch.join()
