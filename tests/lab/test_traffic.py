"""All kinds of traffic at once, through a cell that is played for real."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest

from tests.lab.__main__ import cell_of, described, play_there
from tests.lab.cell import Measured, Order
from tests.lab.events import INSTANCES
from tests.lab.network import Network, open_network
from tests.lab.report import Run
from tests.lab.traffic.__main__ import SENDERS
from tests.lab.traffic.sent import DEFAULT, QUICK, TRAFFIC, Traffic
from tests.lab.ways import WAYS, Restart

INTERVAL_SECONDS = 2.0
RUN = Run("", "", "", "", INTERVAL_SECONDS, dict.fromkeys(WAYS, ""), {})
LONG: tuple[Traffic, ...] = ("downloads", "uploads", "websocket", "tcp")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with open_network() as made:
        yield made


def measured(network: Network, way: str, event: str, *kinds: Traffic, rate_fraction: float = 1.0) -> Measured:
    program = WAYS[way].program()
    order = Order(way, kinds, event, INTERVAL_SECONDS, program, network, rate_fraction=rate_fraction)
    cell = cell_of(way, event, RUN, play_there(order))
    assert cell.measured is not None, cell.error
    found = cell.measured.accounts
    assert set(found) == set(kinds)
    for kind, account in found.items():
        assert sum(account.kinds.values()) == account.requests > 0, kind
        assert account.kinds["answered"] > 0, kind
    return cell.measured


@pytest.mark.parametrize("way", ["hapsync, slots", "hapsync, dynamic"])
def test_hapsync_follows_a_deploy_at_once_without_another_worker_and_loses_nothing_of_any_kind(
    network: Network, way: str
) -> None:
    one = measured(network, way, "deploy", *DEFAULT)

    for kind, account in one.accounts.items():
        assert account.failures == {}, kind
        assert account.kinds["ended"] == 0 or kind in {"downloads", "uploads"}
    assert (one.costs.workers_replaced, one.costs.workers_peak, one.costs.workers_end) == (0, 1, 1)
    for delays in (one.live, one.gone):
        assert (len(delays.seconds), delays.missed) == (INSTANCES, 0)
        assert max(delays.seconds) < INTERVAL_SECONDS / 2


def test_a_restart_costs_every_kind_of_traffic_and_cuts_all_that_is_long(network: Network) -> None:
    found = measured(network, "restart", "deploy", *DEFAULT).accounts

    # That a short request meets one of a few restarts is likely, and for those few of TLS not certain.
    assert [kind for kind, account in found.items() if not account.failed and kind != "tls"] == []
    for kind in LONG:
        assert found[kind].kinds["cut"] + found[kind].kinds["reset"] > 0, kind
        assert found[kind].longest_seconds < INTERVAL_SECONDS + 1, kind
    fraction = found["downloads"].lost_at_fraction
    assert fraction is not None
    assert 0 < fraction < 1


def test_a_seamless_reload_keeps_what_is_long_and_loses_pipelined_requests_that_it_says_it_has_not_processed(
    network: Network,
) -> None:
    found = measured(network, "seamless reload", "steady", *LONG, "pipelined").accounts

    for kind in LONG:
        assert found[kind].failures == {}, kind
        assert found[kind].longest_seconds > INTERVAL_SECONDS, kind
    assert set(found["pipelined"].failures) == {"unprocessed"}


def test_a_cell_at_a_lower_rate_has_so_much_less_of_each_kind(network: Network) -> None:
    one = measured(network, "hapsync, slots", "steady", "new", "kept", rate_fraction=0.25)

    for kind, account in one.accounts.items():
        usual = SENDERS[kind].clients / SENDERS[kind].pause_seconds
        assert account.requests == pytest.approx(0.25 * usual * one.seconds, rel=0.4), kind
        assert account.failures == {}, kind


def test_wrk_sends_more_than_all_others_and_its_figures_are_an_account(network: Network) -> None:
    found = measured(network, "hapsync, slots", "critical", "wrk", "new").accounts

    assert found["wrk"].requests > 5 * found["new"].requests
    assert found["wrk"].p99_ms > 0


def test_a_way_that_cannot_carry_a_kind_of_traffic_says_so() -> None:
    class Partial(Restart):
        left_out: ClassVar[Mapping[Traffic, str]] = {"tcp": "it is of another world"}

    assert described(Partial, 3) == f"{Restart.describe(3)}; without the traffic tcp: it is of another world"
    assert described(Restart, 3) == Restart.describe(3)


def test_there_is_a_sender_for_every_kind_and_wrk_is_the_only_one_that_has_to_be_asked_for() -> None:
    assert {*SENDERS, "wrk"} == set(TRAFFIC)
    assert {*DEFAULT, "wrk"} == set(TRAFFIC)
    assert set(QUICK) < set(DEFAULT)
