"""Every way does what it says, in a cell that is played for real."""

from collections.abc import Iterator

import pytest

from tests.lab.__main__ import cell_of, play_there
from tests.lab.account import Account
from tests.lab.cell import Measured, Order
from tests.lab.client import Traffic
from tests.lab.network import Network, open_network
from tests.lab.report import Run
from tests.lab.ways import WAYS, HapsyncDynamic, Restart, UnavailableError

INTERVAL_SECONDS = 1.0
RUN = Run("", "", "", "", INTERVAL_SECONDS, {}, {})


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with open_network() as made:
        yield made


def played(network: Network, way: str, traffic: Traffic, event: str) -> tuple[Measured, Account]:
    order = Order(way, (traffic,), event, INTERVAL_SECONDS, WAYS[way].program(), network)
    cell = cell_of(way, event, RUN, play_there(order))
    assert cell.measured is not None, cell.error
    one = cell.measured
    account = one.accounts[traffic]
    assert sum(account.kinds.values()) == account.requests > 200
    assert (one.live.missed, one.gone.missed) == (0, 0)
    return one, account


@pytest.mark.parametrize("way", ["restart", "reload, no hand-over", "seamless reload"])
def test_what_goes_by_the_clock_replaces_workers_and_follows_when_it_is_time(network: Network, way: str) -> None:
    one, account = played(network, way, "new", "scale")

    assert one.workers_replaced >= 3
    assert one.workers_end <= 2  # none in the middle of a restart, two in that of a reload
    assert len(one.live.seconds) == len(one.gone.seconds) == 20
    assert max((*one.live.seconds, *one.gone.seconds)) < INTERVAL_SECONDS + 2
    assert account.late > 0
    assert (account.kinds["refused"] > 0) == (way == "restart")


def test_a_restart_refuses_connections_and_cuts_or_resets_those_there_are(network: Network) -> None:
    one, account = played(network, "restart", "kept", "steady")

    assert account.kinds["refused"] > 0
    assert account.closed_idle > 0
    assert one.workers_replaced >= 2


@pytest.mark.parametrize("way", ["hapsync, slots", "hapsync, dynamic"])
def test_hapsync_follows_at_once_without_another_worker_or_a_lost_request(network: Network, way: str) -> None:
    one, account = played(network, way, "kept", "critical")

    assert account.kinds["answered"] == account.requests
    assert (one.workers_replaced, one.workers_peak, one.workers_end) == (0, 1, 1)
    assert max(one.gone.seconds) < INTERVAL_SECONDS / 2
    assert max(one.live.seconds) < INTERVAL_SECONDS


def test_a_way_that_stopped_doing_its_work_is_a_cell_that_went_wrong(network: Network) -> None:
    """Its HAProxy refuses every configuration but the first."""
    program = network.folder / "haproxy-that-refuses"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && [ -e {program}.once ] && exit 1\n: >{program}.once\n'
        f'exec {Restart.program()} "$@"\n'
    )
    program.chmod(0o755)
    order = Order("seamless reload", ("new",), "steady", 1.0, str(program), network)

    assert "WayError: seamless reload" in str(play_there(order)["error"])


def test_a_way_whose_haproxy_cannot_be_fetched_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/there-is-no-room-here")

    with pytest.raises(UnavailableError, match=r"no HAProxy 3\.0: .+"):
        HapsyncDynamic.program()
