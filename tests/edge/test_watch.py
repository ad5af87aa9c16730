"""Watching a real Consul: every change is seen at once, within the budget, whatever happens to the agent."""

import http.server
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul.rate_limit import (
    ALL_PER_SECOND,
    BURST_SECONDS,
    CACHED,
    GAP_SECONDS,
    UNCACHED,
    WINDOW_SECONDS,
    Budget,
    Burst,
    Pace,
    Rate,
)
from hapsync.consul.watch import Watches
from tests.edge.fake_consul import entries
from tests.harness.consul import Consul
from tests.harness.processes import wait_until


@contextmanager
def watching(config: ConsulConfig, *services: str) -> Iterator[tuple[Watches, "queue.SimpleQueue[str]"]]:
    woken: queue.SimpleQueue[str] = queue.SimpleQueue()
    watches = Watches(config, woken.put)
    watches.follow(services)
    try:
        yield watches, woken
    finally:
        watches.stop()


def ids(watches: Watches, service: str) -> list[str]:
    reading = watches.catalog().readings.get(service)
    return [one.instance_id for one in reading.instances] if reading else ["unread"]


def test_a_change_wakes_with_the_name_of_its_service_alone(shared_consul: Consul) -> None:
    shared_consul.put("one", "o1", node="n1", address="10.0.0.1", port=80)
    with watching(ConsulConfig(address=shared_consul.url), "one", "two") as (watches, woken):
        assert {woken.get(timeout=20), woken.get(timeout=20)} == {"one", "two"}

        shared_consul.put("one", "o2", node="n2", address="10.0.0.2", port=80)

        assert woken.get(timeout=20) == "one"
        assert ids(watches, "one") == ["o1", "o2"]


def test_the_agents_cache_serves_the_watch_and_says_so(shared_consul: Consul) -> None:
    with watching(ConsulConfig(address=shared_consul.url), "cached") as (watches, woken):
        woken.get(timeout=20)

        assert watches.states()["cached"].is_cached


def test_an_agent_without_a_cache_is_read_stale_instead(work: Path) -> None:
    with (
        Consul(work, config={"http_config": {"use_cache": False}}) as consul,
        watching(ConsulConfig(address=consul.url), "web") as (watches, woken),
    ):
        woken.get(timeout=20)
        assert not watches.states()["web"].is_cached

        consul.put("web", "w1", node="n1", address="10.0.0.1", port=80)

        assert woken.get(timeout=20) == "web"
        assert ids(watches, "web") == ["w1"]


def test_a_consul_that_comes_back_with_nothing_is_followed_from_its_lower_index(work: Path) -> None:
    with Consul(work) as consul:
        for number in range(30):
            consul.put("web", f"w{number}", node="n1", address="10.0.0.1", port=8000 + number)
        with watching(ConsulConfig(address=consul.url), "web") as (watches, _):
            wait_until(lambda: len(ids(watches, "web")) == 30, 10, "all 30 instances")
            before = watches.states()["web"].index
            consul.kill()
            wait_until(lambda: watches.states()["web"].error, 10, "the watch to see Consul gone")
            assert len(ids(watches, "web")) == 30

            consul.start()
            consul.put("web", "new", node="n9", address="10.0.0.9", port=80)

            wait_until(lambda: ids(watches, "web") == ["new"], 10, "the new catalog")
            assert watches.states()["web"].index < before
            assert watches.states()["web"].error is None
            consul.put("web", "newer", node="n9", address="10.0.0.9", port=81)
            wait_until(lambda: ids(watches, "web") == ["new", "newer"], 10, "a change after it")


def test_many_blocked_watches_end_at_once(shared_consul: Consul) -> None:
    services = [f"many-{number}" for number in range(40)]
    woken: queue.SimpleQueue[str] = queue.SimpleQueue()
    watches = Watches(ConsulConfig(address=shared_consul.url), woken.put)
    watches.follow(services)
    for _ in services:
        woken.get(timeout=20)
    time.sleep(0.3)

    watches.stop()

    # A blocking query takes minutes; on a busy machine 40 threads need more than a moment to end.
    wait_until(
        lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("watch many-")],
        10,
        "all watches to end",
    )


def test_services_may_come_and_go(shared_consul: Consul) -> None:
    with watching(ConsulConfig(address=shared_consul.url), "comes") as (watches, woken):
        woken.get(timeout=20)

        watches.follow(["goes"])

        assert woken.get(timeout=20) == "goes"
        assert set(watches.catalog().readings) == {"goes"}


class _Counting(http.server.BaseHTTPRequestHandler):
    """Answers every health query at once with a new index: the worst Consul for a careless watch.

    `answer_health` gives an answer about the service; the watch of Consul's servers sees nothing happen.
    """

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    """An answer goes out whole: its second part would wait 40 ms for a delayed acknowledgement."""
    reads: list[float]
    is_cached: bool

    def do_GET(self) -> None:
        if self.path.startswith("/v1/catalog/service/"):
            if "index=" in self.path:
                time.sleep(10)
            self.send_response(200)
            self.send_header("X-Consul-Index", "7")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")
        else:
            self.answer_health()

    def answer_health(self) -> None:
        type(self).reads.append(time.monotonic())
        body = entries(1)
        self.send_response(200)
        self.send_header("X-Consul-Index", str(len(type(self).reads)))
        if type(self).is_cached:
            self.send_header("X-Cache", "HIT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[ConsulConfig]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield ConsulConfig(address=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def busy_consul(*, is_cached: bool) -> Iterator[tuple[ConsulConfig, list[float]]]:
    reads: list[float] = []
    with serving(type("Handler", (_Counting,), {"reads": reads, "is_cached": is_cached})) as config:
        yield config, reads


def most_in(reads: list[float], seconds: float) -> int:
    return max(sum(1 for read in reads if begin <= read < begin + seconds) for begin in reads)


def test_a_service_that_never_rests_is_read_fifty_times_and_then_five_times_a_second_through_the_cache() -> None:
    began = time.monotonic()
    with busy_consul(is_cached=True) as (config, reads), watching(config, "web"):
        wait_until(lambda: len(reads) >= CACHED.burst + 15, 60, "more reads than a burst")
    seconds = time.monotonic() - began

    assert len(reads) <= CACHED.burst + 5 * seconds + 1


def test_changes_in_quick_succession_are_read_several_at_once_after_the_first_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, burst, delays = 0.0, Burst(), list[float]()
    monkeypatch.setattr("hapsync.consul.rate_limit.time.monotonic", lambda: now)

    for _ in range(8):
        delays.append(burst.delay_seconds())
        now += delays[-1] + 0.002  # what a read takes
    now += BURST_SECONDS + GAP_SECONDS

    assert [*delays, burst.delay_seconds()] == [0.0, 0.0, *[GAP_SECONDS] * 6, 0.0]


def test_a_read_waits_as_long_as_it_has_to_in_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Burst] = []

    def delay_seconds(burst: Burst) -> float:
        asked.append(burst)
        return 0.0 if len(asked) <= 2 else 0.2

    monkeypatch.setattr(Burst, "delay_seconds", delay_seconds)
    with busy_consul(is_cached=True) as (config, reads), watching(config, "web"):
        wait_until(lambda: len(reads) > 7, 30, "some reads")

    assert min(after - before for before, after in pairwise(reads[2:])) >= 0.2


def test_a_service_that_never_rests_is_read_ten_times_and_then_once_a_second_without_a_cache() -> None:
    began = time.monotonic()
    with busy_consul(is_cached=False) as (config, reads), watching(config, "web"):
        wait_until(lambda: len(reads) >= UNCACHED.burst + 2, 60, "more reads than a burst")
    seconds = time.monotonic() - began

    assert len(reads) <= UNCACHED.burst + seconds + 1


def test_all_watches_together_never_read_more_than_fifty_times_in_any_second_also_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    granted: list[float] = []
    take_or_delay_seconds = Budget.take_or_delay_seconds

    def noted(budget: Budget, who: str = "", *, is_last: bool = False) -> float:
        delay = take_or_delay_seconds(budget, who, is_last=is_last)
        if not delay:
            granted.append(budget._read_at[who])  # a busy thread may be late with what it may do since then
        return delay

    monkeypatch.setattr(Budget, "take_or_delay_seconds", noted)
    with busy_consul(is_cached=True) as (config, reads), watching(config, *(f"s{number}" for number in range(120))):
        wait_until(lambda: len(reads) >= 150, 60, "more than all of them to be read")

    assert most_in(granted, WINDOW_SECONDS) <= ALL_PER_SECOND
    assert len(reads) <= len(granted)


def test_pace_gives_a_burst_and_then_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapsync.consul.rate_limit.time.monotonic", lambda: 0.0)
    pace = Pace()

    delays = [pace.delay_seconds(Rate(10, 5)) for _ in range(12)]

    assert delays[:10] == [0.0] * 10
    assert 0.15 < delays[10] <= 0.2 < delays[11] <= 0.4


def test_pace_gives_no_more_than_a_small_burst_at_once_after_a_large_one_was_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hapsync.consul.rate_limit.time.monotonic", lambda: 0.0)
    pace = Pace()

    delays = [pace.delay_seconds(rate) for rate in (Rate(50, 5), *[Rate(3, 1)] * 4)]

    assert delays[:4] == [0.0] * 4
    assert 0.9 < delays[4] <= 1.0


def test_the_budget_lets_so_many_go_and_says_how_long_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapsync.consul.rate_limit.time.monotonic", lambda: 0.0)
    budget = Budget()

    delays = [budget.take_or_delay_seconds() for _ in range(ALL_PER_SECOND + 2)]

    assert delays[:ALL_PER_SECOND] == [0.0] * ALL_PER_SECOND
    assert all(1.0 < delay <= 1.25 for delay in delays[ALL_PER_SECOND:])


class _Lagging(_Counting):
    """The cache gives index 10 for ever; past it a lagging server gives an older state first, then a newer one."""

    past_cache: list[tuple[int, bytes]]

    def answer_health(self) -> None:
        index, body = 10, entries(1)
        if "stale" in self.path:
            kind = type(self)
            index, body = kind.past_cache[min(len(kind.reads), len(kind.past_cache) - 1)]
            kind.reads.append(index)
        elif "consistent" in self.path:  # the leader is never behind what another server said
            kind = type(self)
            index, body = max((index, body), *kind.past_cache[: len(kind.reads)])
        elif "index=" in self.path:
            time.sleep(0.2)
        self.send_response(200)
        self.send_header("X-Consul-Index", str(index))
        if "cached" in self.path:
            self.send_header("X-Cache", "HIT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_safety_read_catches_what_the_cache_missed_and_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapsync.consul.watch_policy.SAFETY_SECONDS", (0.3, 0.4))
    reads: list[float] = []
    handler = type("Handler", (_Lagging,), {"reads": reads, "past_cache": [(5, entries(1, 2)), (12, entries(1, 3))]})
    seen: list[list[str]] = []
    with serving(handler) as config:
        watches = Watches(config, lambda service: seen.append(ids(watches, service)))
        watches.follow(["web"])
        try:
            wait_until(lambda: seen[-1] == ["w1", "w3"], 10, "what the second safety read gives")
            time.sleep(1.5)
        finally:
            watches.stop()

    assert seen == [["w1"], ["w1", "w3"]]
    assert reads[0] == 5


class _NoServers(_Counting):
    """The agent's cache answers and blocks as it should; whatever goes past it fails, as with all servers gone."""

    def answer_health(self) -> None:
        if "index=" in self.path:
            time.sleep(0.5)
        is_fine = "cached" in self.path
        body = entries(1) if is_fine else b"No cluster leader"
        type(self).reads.append(time.monotonic())
        self.send_response(200 if is_fine else 500)
        self.send_header("X-Consul-Index", "10" if is_fine else "1")
        self.send_header("X-Cache", "HIT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_safety_read_that_fails_disturbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapsync.consul.watch_policy.SAFETY_SECONDS", (0.5, 0.6))
    reads: list[float] = []
    with serving(type("Handler", (_NoServers,), {"reads": reads})) as config, watching(config, "web") as (watches, _):
        began = time.monotonic()
        time.sleep(3)
        wait_until(lambda: len(reads) >= 6, 30, "some reads")
        state, seconds = watches.states()["web"], time.monotonic() - began

    assert (state.error, state.index, ids(watches, "web")) == (None, 10, ["w1"])
    assert len(reads) <= 5 * (seconds + 0.5)  # one blocking query and one safety read every half second, no hot loop
