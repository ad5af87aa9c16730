"""The list of services, at a real Consul, and behind a proxy that misbehaves."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from hapsync.config.schema import ConsulConfig
from hapsync.consul.discovery import Listing
from hapsync.consul.services import ListingWatch, read_listing
from hapsync.errors import CatalogError
from tests.harness.chaos import Chaos, http_answer
from tests.harness.consul import Consul, acl_consul
from tests.harness.ports import free_port
from tests.harness.processes import wait_until

LIST = "/v1/catalog/services"
SECONDS = 3.0
FAULTS: Mapping[str, Callable[[Chaos], None]] = {
    "refuse": Chaos.refuse,
    "half an answer": lambda chaos: chaos.cut_after(250),
    "half a list": lambda chaos: chaos.rewrite(body='{"a": ["x"', only=LIST),
    "another list": lambda chaos: chaos.rewrite(body="[]", only=LIST),
    "no index": lambda chaos: chaos.rewrite(headers={"X-Consul-Index": None}, only=LIST),
    "an error": lambda chaos: chaos.answer(http_answer(500, "no"), only=LIST),
    "not allowed": lambda chaos: chaos.answer(http_answer(403, "Permission denied"), only=LIST),
}


@contextmanager
def watching(config: ConsulConfig) -> Iterator[ListingWatch]:
    watch = ListingWatch(config, lambda: None)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
        watch.join(20)
        assert not watch.is_alive()


def tags(watch: ListingWatch, service: str) -> frozenset[str] | None:
    return watch.listing.services.get(service) if watch.listing is not None else None


def put(consul: Consul, service: str, *tags: str) -> None:
    consul.put(service, f"{service}-1", node="n1", address="10.0.0.1", port=80, tags=tags)


def test_services_and_tags_are_seen_as_they_come_change_and_go(shared_consul: Consul) -> None:
    with watching(ConsulConfig(address=shared_consul.url)) as watch:
        put(shared_consul, "listed", "a", "b")
        wait_until(lambda: tags(watch, "listed") == frozenset({"a", "b"}), 20, "the service")
        put(shared_consul, "listed", "b")
        wait_until(lambda: tags(watch, "listed") == frozenset({"b"}), 20, "its other tags")
        shared_consul.remove("n1", "listed-1")
        wait_until(lambda: tags(watch, "listed") is None, 20, "it to be gone")

        assert watch.listing is not None
        assert watch.listing.is_whole
        assert watch.error is None
        assert read_listing(ConsulConfig(address=shared_consul.url)) == watch.listing


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_goes_wrong_the_list_stays_and_is_followed_again_after(
    shared_consul: Consul, work: Path, fault: str
) -> None:
    name = f"f-{'-'.join(fault.split())}"
    put(shared_consul, name, "a")
    with (
        Chaos(work, shared_consul.host, shared_consul.port) as chaos,
        watching(ConsulConfig(address=chaos.url, timeout_seconds=1)) as watch,
    ):
        wait_until(lambda: tags(watch, name) == frozenset({"a"}), 20, "the service")
        before = watch.listing
        FAULTS[fault](chaos)
        chaos.reset_all()  # a query that is blocked would bring the change
        wait_until(lambda: watch.error, 10, "the error")
        shared_consul.remove("n1", f"{name}-1")
        seen = chaos.seen()
        time.sleep(SECONDS)

        assert watch.listing == before
        assert chaos.seen().accepted - seen.accepted <= 3 * SECONDS
        chaos.pass_through()
        wait_until(lambda: tags(watch, name) is None, 30, "what is true")
        assert watch.error is None


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Consul-KnownLeader": "false"},
        {"X-Consul-LastContact": "60000"},
        {"X-Consul-Results-Filtered-By-ACLs": "true"},
    ],
)
def test_a_list_that_its_headers_speak_against_is_not_whole(
    shared_consul: Consul, work: Path, headers: Mapping[str, str]
) -> None:
    with Chaos(work, shared_consul.host, shared_consul.port) as chaos:
        chaos.rewrite(headers=headers, only=LIST)

        assert not read_listing(ConsulConfig(address=chaos.url)).is_whole


def test_a_list_without_the_canary_is_not_whole_for_the_token_may_not_see_all(work: Path) -> None:
    with acl_consul(work) as consul:
        put(consul, "mine")
        put(consul, "other")
        consul.set_policy("some", 'service "mine" { policy = "read" } node_prefix "" { policy = "read" }')
        consul.set_policy("all", 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }')
        some, every = (
            read_listing(ConsulConfig(address=consul.url, token=consul.token(policy))) for policy in ("some", "all")
        )

    assert some == Listing({"mine": frozenset()})
    assert every.is_whole
    assert {"mine", "other"} <= set(every.services)


def test_a_busy_catalog_is_read_ten_times_at_once_and_then_seldom(shared_consul: Consul, work: Path) -> None:
    with (
        Chaos(work, shared_consul.host, shared_consul.port) as chaos,
        watching(ConsulConfig(address=chaos.url)) as watch,
    ):
        wait_until(lambda: watch.listing, 20, "the list")
        began = time.monotonic()
        for number in range(60):
            put(shared_consul, f"busy-{number % 5}", str(number))
            time.sleep(0.05)

        asked, seconds = chaos.seen().asked[LIST], time.monotonic() - began
        assert asked <= ListingWatch.RATE.burst + ListingWatch.RATE.per_second * (seconds + 10) + 1


def test_a_consul_that_is_away_is_an_error() -> None:
    with pytest.raises(CatalogError, match="refuses the conn"):
        read_listing(ConsulConfig(address=f"http://127.0.0.1:{free_port()}"))
